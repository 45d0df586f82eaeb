/** Listing, unchanged sessions, the promise from get() and errors, against a scripted backend. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Backend } from "../../src/backend.ts";
import { reason, redact } from "../../src/errors.ts";
import { memoryBackend, MemoryData } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { run } from "../support/process.ts";
import { settle } from "../support/clock.ts";
import { imports } from "../support/programs.ts";
import { gate, Script } from "../support/scripted.ts";

describe("listing", () => {
  it("keys() and entries() hold only one page at a time, however many there are", async () => {
    const script = new Script();
    for (let i = 0; i < 1000; i++) {
      const key = `chat:${i}`;
      script.sessions.set(key, { key, value: "{}" });
    }
    await using store = script.store();
    const pages = () => script.calls.filter((call) => call.startsWith("page")).length;
    for (const list of [() => store.keys(), () => store.entries()]) {
      script.calls.length = 0;
      let count = 0;
      for await (const _ of list()) {
        count++;
        assert.equal(pages(), Math.ceil(count / 128));
      }
      assert.equal(count, 1000);
      assert.equal(pages(), 8);
    }
    script.calls.length = 0;
    for await (const _ of store.keys()) break;
    assert.equal(pages(), 1);
  });

  it("keys() with a prefix reads no page of other keys", async () => {
    const script = new Script();
    for (let i = 0; i < 1000; i++) {
      const key = `${i % 5}:${i}`;
      script.sessions.set(key, { key, value: "{}" });
    }
    await using store = script.store();
    for (
      const [options, count, pages] of [
        [{ prefix: "3:" }, 200, 2],
        [{ prefix: "x" }, 0, 1],
        [{ prefix: "" }, 1000, 8],
        [{ prefix: undefined }, 1000, 8],
      ] as const
    ) {
      script.calls.length = 0;
      assert.equal(await store.size(options), count);
      assert.equal(script.calls.filter((call) => call.startsWith("page")).length, pages);
    }
  });

  it("a backend may return keys without the prefix", async () => {
    const data = new MemoryData();
    for (const key of ["1:1", "12:1", "2:1"]) data.sessions.set(key, { key, value: "{}" });
    const memory = memoryBackend(data);
    const page: Backend["page"] = (start, size, signal) => memory.page(start, size, signal);
    await using store = makeStore({ ...memory, page });
    const keys: string[] = [];
    for await (const key of store.keys({ prefix: "1" })) keys.push(key);
    assert.deepEqual(keys.sort(), ["12:1", "1:1"]);
    await store.clear({ prefix: "1:" });
    assert.deepEqual([...data.sessions.keys()].sort(), ["12:1", "2:1"]);
  });

  it("clear() with a prefix leaves pending writes of other keys alone", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    script.calls.length = 0;
    const { opened, open } = gate();
    script.before = (call) => call.startsWith("write") ? opened : undefined;
    const writes = [store.set("1:1", 1), store.set("2:1", 2)];
    await settle();
    const newer = store.set("2:1", 3); // waits behind the write in progress
    const cleared = store.clear({ prefix: "1:" });
    open();
    await Promise.all([...writes, newer, cleared]);
    assert.deepEqual([...script.sessions].map(([key, { value }]) => [key, value]), [["2:1", "3"]]);
    const removed = script.calls.filter((call) => call.startsWith("remove"));
    assert.deepEqual(removed, ["remove 1:1"]);
  });

  it("size() lets other work run although the database is synchronous", async () => {
    const data = new MemoryData();
    for (let i = 0; i < 1000; i++) data.sessions.set(`${i}`, { key: `${i}`, value: "{}" });
    await using store = makeStore(memoryBackend(data));
    await store.ready();
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    for (let i = 0; i < 20; i++) assert.equal(await store.size(), 1000);
    clearInterval(timer);
    assert.ok(turns > 0);
  });
});

describe("an unchanged session", () => {
  it("is not written", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    await store.set("k", session);
    assert.deepEqual(script.calls, ["open", "write k", "read k"]);
    session.a = 2;
    await store.set("k", session);
    assert.deepEqual(script.calls.at(-1), "write k");
    assert.equal(script.sessions.get("k")?.value, '{"a":2}');
  });

  it("is written under another key", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { a: 1 });
    await store.set("copy", await store.get("k"));
    assert.equal(script.sessions.get("copy")?.value, '{"a":1}');
  });

  it("is written to another database", async () => {
    const [from, to] = [new Script(), new Script()];
    await using source = from.store();
    await using target = to.store();
    await source.set("k", { a: 1 });
    await target.set("k", { a: 2 });
    await target.get("k");
    await target.set("k", await source.get("k"));
    assert.equal(to.sessions.get("k")?.value, '{"a":1}');
  });

  it("is recognized by identity, without a visible mark", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    assert.deepEqual(Reflect.ownKeys(session), ["a"]);
    await store.set("k", { ...session });
    await store.set("k", structuredClone(session));
    assert.deepEqual(script.calls, ["open", "write k", "read k", "write k", "write k"]);
  });

  it("may be frozen by onCorrupt", async () => {
    const script = new Script();
    await using store = script.store({ onCorrupt: () => Object.freeze({ a: 1 }) });
    script.sessions.set("k", { key: "k", value: "{" });
    const session = await store.get("k");
    assert.deepEqual(session, { a: 1 });
    await store.set("k", session);
    assert.equal(script.sessions.get("k")?.value, '{"a":1}');
  });

  it("is written if its key was written or deleted since get()", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    await store.set("k", { a: 2 });
    await store.set("k", session);
    assert.equal(script.sessions.get("k")?.value, '{"a":1}');
  });

  it("has the result of the pending write that get() returned it from", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    const { opened, open } = gate();
    script.before = () => opened;
    script.failures = [new Error("no")];
    const write = assert.rejects(store.set("k", { a: 1 }));
    const session = await store.get("k");
    const again = assert.rejects(store.set("k", session)); // waits until its data is durable
    open();
    await Promise.all([write, again]);
    await store.set("k", session); // the failed write does not count as stored
    assert.equal(script.sessions.get("k")?.value, '{"a":1}');
  });
});

describe("get()", () => {
  it("returns a promise that reads again when awaited after a failure", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", 1);
    script.failures = [new Error("no"), new Error("no")];
    const kept = store.get("k");
    await assert.rejects(async () => await kept);
    await assert.rejects(async () => await kept);
    assert.equal(await kept, 1);
    const before = script.calls.length;
    assert.deepEqual(await Promise.all([kept, kept, kept]), [1, 1, 1]);
    assert.equal(script.calls.length, before + 1);
  });

  it("returns a plain promise if it does not fail", async () => {
    const script = new Script();
    await using store = script.store();
    const promise = store.get("k");
    assert.ok(promise instanceof Promise);
    await promise;
    assert.equal(Object.hasOwn(promise, "then"), false);
  });

  it("does not return an expired session", async () => {
    const script = new Script();
    await using store = script.store();
    script.sessions.set("old", { key: "old", value: "1", expires: script.clock.date() - 1 });
    script.sessions.set("new", { key: "new", value: "1", expires: script.clock.date() + 1e6 });
    assert.equal(await store.get("old"), undefined);
    assert.equal(await store.get("new"), 1);
  });
});

describe("errors", () => {
  it("onError receives reports, and its own errors are ignored", async () => {
    const script = new Script();
    const reported: unknown[] = [];
    await using store = script.store({
      onError(error) {
        reported.push(error);
        throw new Error("from the callback");
      },
    });
    await store.ready();
    script.report?.("connection lost");
    await settle();
    assert.deepEqual(reported, ["connection lost"]);
  });

  it("show no credentials", () => {
    const text = "cannot parse mongodb://user:pa:ss@w/rd@host:1/db and redis://:secret@h";
    assert.equal(redact(text), "cannot parse mongodb://***@host:1/db and redis://***@h");
    assert.equal(reason(new AggregateError([], "")), "AggregateError");
    assert.equal(reason(Object.assign(new Error(""), { code: "ECONNREFUSED" })), "ECONNREFUSED");
  });

  it("that are not awaited do not end the process", async () => {
    const { code, output } = await run(`
      ${imports}
      const store = makeStore({ ...memoryBackend(), open() { throw new Error("down"); } });
      store.get("k");
      setTimeout(() => console.log("alive"), 20);
    `);
    assert.deepEqual({ code, output }, { code: 0, output: "alive\n" });
  });
});

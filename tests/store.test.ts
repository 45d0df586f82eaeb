/** What all stores do around a database, against a scripted one. */

import assert from "node:assert/strict";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { Backend, Entry, Limits } from "../src/backend.ts";
import { memoryBackend } from "../src/memory.ts";
import { reason, redact } from "../src/errors.ts";
import type { StoreOptions } from "../src/options.ts";
import { systemClock } from "../src/store/clock.ts";
import { type Content, Queue } from "../src/store/queue.ts";
import type { Waiter } from "../src/store/lane.ts";
import { createStore, type Store } from "../src/store/store.ts";
import { run } from "./child.ts";

/** For programs in a process of their own. */
const imports = `
  import { memoryBackend } from ${JSON.stringify(new URL("../src/memory.ts", import.meta.url))};
  import { createStore } from ${JSON.stringify(new URL("../src/store/store.ts", import.meta.url))};
`;

class Transient extends Error {
  override name = "Transient";
}

/** A backend in memory that records its calls and misbehaves as told. */
class Script {
  readonly sessions = new Map<string, Entry<string>>();
  /** Each call with its keys, in the order in which they began. */
  readonly calls: string[] = [];
  /** Thrown by the next calls, one each; `undefined` lets one pass. */
  failures: unknown[] = [];
  /** Runs before each call takes effect. */
  before: (call: string) => unknown = () => {};
  report: ((error: unknown) => void) | undefined;
  readonly signals: AbortSignal[] = [];
  readonly backend: Backend;

  constructor(limits: Partial<Limits> = {}) {
    const memory = memoryBackend(this.sessions);
    const step = async (name: string, keys: string[], signal?: AbortSignal) => {
      const call = [name, ...keys].join(" ");
      this.calls.push(call);
      if (signal) this.signals.push(signal);
      await this.before(call);
      const failure = this.failures.shift();
      if (failure !== undefined) throw failure;
    };
    const keysOf = (entries: Entry<string>[]) => entries.map((entry) => entry.key);
    this.backend = {
      ...memory,
      open: async ({ signal, report, expiring }) => {
        this.report = report;
        await step("open", expiring ? ["expiring"] : [], signal);
        return { keys: 128, bytes: 1e6, ...limits };
      },
      read: (keys, signal) => step("read", keys, signal).then(() => memory.read(keys, signal)),
      write: (entries, signal) =>
        step("write", keysOf(entries), signal).then(() => memory.write(entries, signal)),
      renew: (keys, expires, signal) =>
        step("renew", keys, signal).then(() => memory.renew(keys, expires, signal)),
      prune: (now, signal) => step("prune", [], signal).then(() => memory.prune!(now, signal)),
      page: (start, size, signal) =>
        step("page", start ? [start] : [], signal).then(() => memory.page(start, size, signal)),
      remove: (keys, signal) =>
        step("remove", keys, signal).then(() => memory.remove(keys, signal)),
      close: () => step("close", []),
      transient: (error) => error instanceof Transient,
    };
  }

  // deno-lint-ignore no-explicit-any
  store(options?: StoreOptions): Store<any> {
    return createStore(this.backend, options);
  }
}

const never = () => new Promise<never>(() => {});

describe("listing", () => {
  it("keys() and entries() hold one page at a time, whatever there is", async () => {
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

  it("size() lets others have their turn, though the database answers at once", async () => {
    const memory = memoryBackend(
      new Map(Array.from({ length: 1000 }, (_, i) => [`${i}`, { key: `${i}`, value: "{}" }])),
    );
    await using store = createStore(memory);
    await store.ready();
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    for (let i = 0; i < 20; i++) assert.equal(await store.size(), 1000);
    clearInterval(timer);
    assert.ok(turns > 0);
  });
});

describe("batches", () => {
  it("one tick's reads are one call, its writes another, its deletes a third", async () => {
    const script = new Script();
    await using store = script.store();
    await Promise.all([
      store.get("a"),
      store.get("b"),
      store.set("c", 1),
      store.set("d", 1),
      store.delete("e"),
      store.delete("f"),
    ]);
    assert.deepEqual(script.calls, ["open", "read a b", "write c d", "remove e f"]);
  });

  const skip = "bun" in process.versions && "Bun runs process.nextTick amid microtasks";
  it("calls that come after a few more microtasks join the batch", { skip }, async () => {
    const script = new Script();
    await using store = script.store();
    await Promise.all([0, 1, 5, 20].map(async (awaits) => {
      for (let i = 0; i < awaits; i++) await null;
      await store.get(`k${awaits}`);
    }));
    assert.deepEqual(script.calls, ["open", "read k0 k1 k5 k20"]);
  });

  it("reads of an embedded database are done at the call", async () => {
    const memory = memoryBackend();
    const calls: string[][] = [];
    const failures = [new Transient("busy")];
    const backend: Backend = {
      ...memory,
      embedded: true,
      read(keys, signal) {
        calls.push(keys);
        const failure = failures.pop();
        if (failure !== undefined) throw failure;
        return memory.read(keys, signal);
      },
      transient: (error) => error instanceof Transient,
    };
    await using store = createStore<number, string>(backend);
    await store.set("a", 1);
    const first = store.get("a");
    assert.deepEqual(calls, [["a"]]);
    // While that one is tried again, others gather as they do elsewhere.
    const others = Promise.all([store.get("a"), store.get("b"), store.get("c")]);
    assert.equal(await first, 1);
    assert.deepEqual(await others, [1, undefined, undefined]);
    assert.deepEqual(calls, [["a"], ["a"], ["b", "c"]]);
    const written = store.set("a", 2);
    assert.equal(await store.get("a"), 2);
    await written;
    assert.equal(calls.length, 3);
  });

  it("one batch is under way while the next fills", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    let most = 0;
    let running = 0;
    script.before = async () => {
      most = Math.max(most, ++running);
      await wait(5);
      running--;
    };
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 10; i++) {
      writes.push(store.set(`k${i}`, i));
      await wait(1);
    }
    await Promise.all(writes);
    assert.equal(most, 1);
    assert.ok(script.calls.length < 8, script.calls.join());
  });

  it("are bounded in keys and bytes, and a large value travels alone", async () => {
    const script = new Script({ keys: 3, bytes: 100 });
    await using store = script.store();
    await store.ready();
    await Promise.all(["a", "b", "c", "d"].map((key) => store.get(key)));
    await Promise.all([
      store.set("a", "x".repeat(40)),
      store.set("b", "x".repeat(40)),
      store.set("c", "x".repeat(40)),
      store.set("d", "x".repeat(400)),
      store.set("e", "x"),
    ]);
    assert.deepEqual(script.calls, [
      "open",
      "read a b c",
      "read d",
      "write a b",
      "write c",
      "write d",
      "write e",
    ]);
  });

  it("that fail are tried again one by one, and only the bad entry fails", async () => {
    const script = new Script();
    await using store = script.store();
    script.before = (call) => {
      if (/^(write|read|remove).* bad/.test(call)) throw new Error("bad entry");
    };
    const results = await Promise.allSettled(
      ["a", "bad", "b"].map((key) => store.set(key, 1)),
    );
    assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    assert.deepEqual(script.calls, ["open", "write a bad b", "write a", "write bad", "write b"]);
    assert.deepEqual([...script.sessions.keys()], ["a", "b"]);
  });

  it("that fail one by one settle each key as soon as it is done", async () => {
    const script = new Script();
    await using store = script.store();
    script.before = (call) => {
      if (call === "write a bad b") throw new Error("bad entry");
      if (call === "write bad") return wait(50);
    };
    const writes = ["a", "bad", "b"].map((key) => store.set(key, 1));
    await writes[0];
    const unchanged = await store.get("a"); // while the batch is still under way
    await store.set("a", unchanged);
    await store.set("a", 2);
    assert.equal(await store.get("a"), 2);
    await Promise.all(writes);
  });
});

describe("the order of one key", () => {
  it("a waiting write is replaced by a newer one, and both end when it is stored", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    let release = () => {};
    const released = new Promise<void>((resolve) => release = resolve);
    script.before = () => released;
    const order: string[] = [];
    const first = store.set("k", 1).then(() => order.push("first"));
    await wait(1);
    const second = store.set("k", 2).then(() => order.push("second"));
    const third = store.set("k", 3).then(() => order.push("third"));
    assert.equal(await store.get("k"), 3);
    release();
    await Promise.all([first, second, third]);
    assert.deepEqual(order, ["first", "second", "third"]);
    assert.deepEqual(script.calls, ["open", "write k", "write k"]);
    assert.equal(script.sessions.get("k")?.value, "3");
  });

  it("a replaced set() fails with the one that replaced it", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    script.failures = [new Error("no")];
    const results = await Promise.allSettled([store.set("k", 1), store.set("k", 2)]);
    assert.deepEqual(results.map(({ status }) => status), ["rejected", "rejected"]);
  });

  it("a write waits for a read that was asked for before", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", 1);
    script.before = (call) => call === "read k" ? wait(20) : undefined;
    const read = store.get("k");
    await wait(5);
    const write = store.set("k", 2);
    await store.set("other", 1);
    assert.equal(script.calls.includes("write k other"), false);
    assert.equal(await read, 1);
    await write;
    assert.equal(script.sessions.get("k")?.value, "2");
  });

  it("is kept by two stores on one handle, and not with another scope", async () => {
    const script = new Script();
    await using one = script.store();
    await using two = createStore<unknown, string>({ ...script.backend });
    await using other = createStore<unknown, string>({ ...script.backend, scope: "other" });
    script.before = (call) => call.startsWith("write") ? wait(10) : undefined;
    const write = one.set("k", 1);
    assert.equal(await two.get("k"), 1);
    assert.equal(await other.get("k"), undefined);
    await write;
  });

  it("costs no memory for idle keys", async () => {
    const { backend } = new Script();
    const size = backend.codec.size;
    const limits = { keys: 128, bytes: 1e6 };
    const executor = { ...backend, limits, opened: true, embedded: false, size };
    const queue = new Queue<string>(executor, systemClock);
    const keys = Array.from({ length: 500 }, (_, i) => `k${i}`);
    const deadline = systemClock.now() + 60_000;
    const all = <T>(ask: (key: string, waiter: Waiter<T>) => void) =>
      Promise.all(
        keys.map((key) =>
          new Promise<T>((resolve, reject) => ask(key, { deadline, resolve, reject }))
        ),
      );
    await all<void>((key, waiter) => queue.write(key, { key, value: key }, waiter));
    const reads = all<Content<string>>((key, waiter) => queue.read(key, waiter));
    assert.equal(queue.size, 500);
    await reads;
    assert.equal(queue.size, 0);
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

  it("is known, though nothing of that shows", async () => {
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

  it("is written when its key was written or deleted since get()", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    await store.set("k", { a: 2 });
    await store.set("k", session);
    assert.equal(script.sessions.get("k")?.value, '{"a":1}');
  });

  it("ends with the pending write that get() answered from", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    script.before = () => wait(10);
    script.failures = [new Error("no")];
    const write = store.set("k", { a: 1 });
    const session = await store.get("k");
    const again = store.set("k", session);
    await assert.rejects(write);
    await assert.rejects(again); // never before its data is durable
    await store.set("k", session); // the failed write does not count as stored
    assert.equal(script.sessions.get("k")?.value, '{"a":1}');
  });
});

describe("ttl", () => {
  const ttl = 60_000;

  /** Lets an entry have but so much of its life left. */
  function age(script: Script, key: string, left: number): void {
    const entry = script.sessions.get(key)!;
    script.sessions.set(key, { ...entry, expires: Date.now() + left });
  }

  it("is given to what is written", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    const before = Date.now();
    await store.set("k", { a: 1 });
    const { expires } = script.sessions.get("k")!;
    assert.ok(expires! >= before + ttl && expires! <= Date.now() + ttl);
  });

  it("of an unchanged session is renewed once a tenth of it has gone, without its value", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    await Promise.all(["young", "old"].map((key) => store.set(key, { a: 1 })));
    age(script, "young", ttl * 0.95);
    age(script, "old", ttl * 0.85);
    const sessions = await Promise.all(["young", "old"].map((key) => store.get(key)));
    script.sessions.set("old", { ...script.sessions.get("old")!, value: '{"a":2}' });
    await Promise.all(["young", "old"].map((key, i) => store.set(key, sessions[i])));
    await store.set("old", sessions[1]);
    assert.deepEqual(script.calls.slice(2), ["read young old", "renew old"]);
    const { value, expires } = script.sessions.get("old")!;
    assert.equal(value, '{"a":2}'); // what another process wrote meanwhile
    assert.ok(expires! >= Date.now() + ttl * 0.99);
  });

  it("of sessions that are renewed at once is renewed in one call", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    const keys = ["a", "b", "c"];
    await Promise.all(keys.map((key) => store.set(key, { a: 1 })));
    for (const key of keys) age(script, key, ttl / 2);
    const sessions = await Promise.all(keys.map((key) => store.get(key)));
    await Promise.all(keys.map((key, i) => store.set(key, sessions[i])));
    const renewals = script.calls.filter((call) => call.startsWith("renew"));
    assert.ok(renewals.length <= 2, renewals.join()); // two where the clock passes a step
  });

  it("that is renewed while the session is being written changes nothing but the time", async () => {
    const script = new Script();
    await using store = script.store({ ttl: 10 });
    await store.ready();
    script.before = () => wait(30);
    const first = store.set("k", { a: 1 });
    await wait(1);
    const second = store.set("k", { a: 2 });
    const session = await store.get("k");
    await wait(5);
    await store.set("k", session);
    await Promise.all([first, second]);
    assert.equal(script.sessions.get("k")?.value, '{"a":2}');
  });

  it("is given to and taken from unchanged sessions that were stored otherwise", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    await using forever = createStore<unknown, string>({ ...script.backend });
    await forever.set("k", { a: 1 });
    await store.set("k", await store.get("k"));
    assert.ok(script.sessions.get("k")?.expires! > Date.now());
    await forever.set("k", await forever.get("k"));
    assert.equal(script.sessions.get("k")?.expires, undefined);
  });

  it("prunes with an unreferenced timer, reports what fails, and stops at close()", async () => {
    const script = new Script();
    const told: unknown[] = [];
    const store = script.store({ ttl, pruneInterval: 10, onError: (error) => told.push(error) });
    script.before = (call) => {
      if (call === "prune") throw new Error("no");
    };
    await store.get("k");
    while (told.length < 2) await wait(5);
    assert.match(String(told[0]), /Cannot prune the store: no/);
    await store.close();
    const { length } = script.calls;
    await wait(30);
    assert.equal(script.calls.length, length);
  });
});

describe("opening", () => {
  it("happens with the first operation, once for all", async () => {
    const script = new Script();
    await using store = script.store();
    await wait(5);
    assert.deepEqual(script.calls, []);
    await Promise.all([store.get("a"), store.set("b", 1), store.ready()]);
    assert.equal(script.calls.filter((call) => call === "open").length, 1);
  });

  it("happens again when a second store on the same data has a ttl", async () => {
    const script = new Script();
    await using first = script.store();
    await first.set("a", 1);
    await using second = script.store({ ttl: 60_000 });
    await Promise.all([first.get("a"), second.set("b", 1)]);
    await using third = script.store({ ttl: 1_000 });
    await third.get("a");
    const opened = script.calls.filter((call) => call.startsWith("open"));
    assert.deepEqual(opened, ["open", "open expiring"]);
    assert.ok(script.calls.indexOf("open expiring") < script.calls.indexOf("write b"));
  });

  it("happens again where the second store with a ttl came while it was under way", async () => {
    const script = new Script();
    await using first = script.store();
    let go = () => {};
    script.before = (call) =>
      call === "open" ? new Promise<void>((resolve) => go = resolve) : undefined;
    const reading = first.get("a");
    await wait(1);
    await using second = script.store({ ttl: 60_000 });
    const writing = second.set("b", 1);
    go();
    await Promise.all([reading, writing]);
    assert.deepEqual(script.calls.slice(0, 2), ["open", "open expiring"]);
  });

  it("is refused with options that contradict those of another store on the same data", async () => {
    const script = new Script();
    const backend = { ...script.backend, shared: { prepare: true } };
    await using first = createStore(backend);
    await first.set("a", 1);
    const other = { ...script.backend, shared: { prepare: false } };
    assert.throws(() => createStore(other), {
      name: "TypeError",
      message:
        'option "prepare" is false, but another store on the same data has true; use the same value for both',
    });
    assert.equal(await first.get("a"), 1);
    await first.close();
    await using second = createStore({ ...other, handle: {} });
    assert.equal(await second.get("a"), 1);
  });

  it("is tried again by the next operation after it failed for good", async () => {
    const script = new Script();
    const told: unknown[] = [];
    await using store = script.store({ onInitError: (error) => told.push(error) });
    const denied = new Error("password authentication failed");
    script.failures = [denied];
    const results = await Promise.allSettled(["a", "b", "c"].map((key) => store.set(key, 1)));
    for (const result of results) {
      assert.ok(result.status === "rejected");
      assert.equal(result.reason.name, "StoreError");
      assert.equal(result.reason.cause, denied);
    }
    assert.deepEqual(script.calls, ["open"]); // not once per entry
    assert.equal(told.length, 1);
    await store.set("a", 1);
    script.failures = [];
    assert.equal(await store.get("a"), 1);
  });

  it("is retried while the error is transient", async () => {
    const script = new Script();
    await using store = script.store();
    script.failures = [new Transient("starting up"), new Transient("starting up")];
    await store.ready();
    assert.deepEqual(script.calls, ["open", "open", "open"]);
  });

  it("ready() rejects with the cause", async () => {
    const script = new Script();
    await using store = script.store();
    script.failures = [new Error("no such database")];
    await assert.rejects(store.ready(), {
      name: "StoreError",
      operation: "open",
      message: "Cannot open the store: no such database",
    });
  });

  it("ready() ends by its deadline", async () => {
    const script = new Script();
    const told: unknown[] = [];
    await using store = script.store({ timeout: 50, onInitError: (error) => told.push(error) });
    script.before = (call) => call === "open" ? never() : undefined;
    await assert.rejects(store.ready(), { name: "TimeoutError", operation: "open" });
    assert.equal(told.length, 1);
    await wait(5);
    assert.equal(script.signals[0]?.aborted, true);
    script.before = () => {};
    await store.ready();
  });
});

describe("retries and deadlines", () => {
  it("a transient error is retried, a permanent one is not", async () => {
    const script = new Script();
    await using store = script.store();
    script.failures = [undefined, new Transient("deadlock"), new Transient("deadlock")];
    await store.set("k", 1);
    assert.deepEqual(script.calls, ["open", "write k", "write k", "write k"]);
    script.failures = [new Error("permission denied")];
    await assert.rejects(store.set("k", 2), {
      message: 'Cannot write session "k": permission denied',
      operation: "write",
      key: "k",
    });
    assert.equal(script.calls.length, 5);
  });

  it("an operation ends by its deadline, with the last error as cause", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 80 });
    script.failures = Array(100).fill(new Transient("connection refused"));
    const start = Date.now();
    const error = await store.get("k").catch((error) => error);
    assert.equal(error.name, "TimeoutError");
    assert.match(error.message, /"k".* 80 ms.*connection refused/);
    assert.ok(error.cause instanceof Transient);
    assert.ok(Date.now() - start >= 78);
    script.failures = [];
    await store.set("k", 1);
  });

  for (const [what, jump] of [["forward", 3_600_000], ["back", -3_600_000]] as const) {
    it(`deadlines do not move when the clock is set ${what}`, async (t) => {
      const script = new Script();
      await using store = script.store({ timeout: 300 });
      await store.ready();
      let answer = () => {};
      script.before = (call) =>
        call === "read slow" ? new Promise<void>((resolve) => answer = resolve) : never();
      const ended = performance.now() + 5_000;
      const slow = store.get("slow");
      await wait(1);
      const hanging = assert.rejects(store.get("hangs"), { name: "TimeoutError" });
      await wait(1);
      const now = Date.now;
      t.mock.method(Date, "now", () => now() + jump);
      await wait(150); // the queue looks at its deadlines every 100 ms
      answer();
      assert.equal(await slow, undefined);
      await hanging;
      script.before = () => {};
      assert.ok(performance.now() < ended);
    });
  }

  it("the last error before a deadline is not that a call was given up", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 50 });
    await store.ready();
    script.before = () => {
      if (script.failures.length > 0) return;
      const signal = script.signals.at(-1)!;
      return new Promise((_, reject) =>
        signal.addEventListener("abort", () => reject(signal.reason))
      );
    };
    for (let i = 0; i < 2; i++) await assert.rejects(store.get("k"), /timed out after 50 ms$/);
    script.failures = [new Transient("connection refused")];
    for (let i = 0; i < 2; i++) {
      await assert.rejects(store.get("k"), /after 50 ms; last error: connection refused$/);
    }
    script.before = () => {};
  });

  it("what all stores on a client had is given up with the last of them", async () => {
    const script = new Script();
    const { backend } = script;
    const other = createStore<unknown, string>({ ...backend });
    const store = script.store();
    await Promise.all([store.ready(), other.ready()]);
    await store.close();
    assert.deepEqual(script.calls, ["open"]);
    await other.set("k", 1);
    await other.close();
    assert.deepEqual(script.calls, ["open", "write k", "close"]);
    await using again = script.store();
    assert.equal(await again.get("k"), 1);
    assert.deepEqual(script.calls.slice(3), ["open", "read k"]);
  });

  it("a call that hangs is given up, and the next goes on", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 50 });
    await store.ready();
    script.before = () => never();
    const [read, write] = await Promise.allSettled([store.get("a"), store.set("b", 1)]);
    assert.equal(read.status === "rejected" && read.reason.name, "TimeoutError");
    assert.equal(write.status === "rejected" && write.reason.name, "TimeoutError");
    assert.ok(script.signals.slice(1).every((signal) => signal.aborted));
    script.before = () => {};
    await store.set("b", 2);
    assert.equal(await store.get("b"), 2);
    assert.equal(await store.get("a"), undefined);
  });

  it("a write whose caller was told that it failed is not begun later", async () => {
    const script = new Script();
    await using patient = script.store();
    await using hasty = createStore<unknown, string>({ ...script.backend }, { timeout: 30 });
    await patient.ready();
    script.before = (call) => call === "write a" ? wait(80) : undefined;
    const first = patient.set("a", 1);
    await wait(1);
    await assert.rejects(hasty.set("b", 1), { name: "TimeoutError" });
    await first;
    await wait(1);
    assert.equal(script.calls.includes("write b"), false);
    assert.equal(await hasty.get("b"), undefined);
  });

  it("a write behind a read that hangs is not held up for ever", async () => {
    const script = new Script();
    await using slow = script.store({ timeout: 60 });
    await using store = createStore<unknown, string>({ ...script.backend }, { timeout: 1000 });
    await slow.ready();
    script.before = (call) => call.startsWith("read") ? never() : undefined;
    const read = slow.get("k");
    await wait(1);
    const write = store.set("k", 1);
    await assert.rejects(read, { name: "TimeoutError" });
    await write;
    assert.equal(script.sessions.get("k")?.value, "1");
  });

  it("a write goes on when the read before it has been given up before its turn", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 1000 });
    await using hasty = createStore<unknown, string>({ ...script.backend }, { timeout: 30 });
    await store.ready();
    let answer = () => {};
    script.before = (call) => {
      if (call === "read a") return new Promise<void>((resolve) => answer = resolve);
    };
    const first = store.get("a");
    await wait(1);
    const waiting = hasty.get("k"); // for the batch of "a"
    const write = store.set("k", 1);
    await assert.rejects(waiting, { name: "TimeoutError" });
    await write;
    assert.equal(script.calls.includes("read k"), false);
    answer();
    assert.equal(await first, undefined);
  });

  it("each store keeps its own timeout on a shared handle", async () => {
    const script = new Script();
    await using patient = script.store({ timeout: 300 });
    await using hasty = createStore<unknown, string>({ ...script.backend }, { timeout: 30 });
    await patient.ready();
    script.before = () => wait(100);
    const [first, second] = await Promise.allSettled([patient.get("k"), hasty.get("k")]);
    assert.equal(first.status, "fulfilled");
    assert.equal(second.status, "rejected");
    script.before = () => {};
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

  it("returns a plain promise as long as it did not fail", async () => {
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
    script.sessions.set("old", { key: "old", value: "1", expires: Date.now() - 1 });
    script.sessions.set("new", { key: "new", value: "1", expires: Date.now() + 1e6 });
    assert.equal(await store.get("old"), undefined);
    assert.equal(await store.get("new"), 1);
  });
});

describe("close()", () => {
  it("waits for what is under way, then closes, once", async () => {
    const script = new Script();
    const store = script.store();
    script.before = () => wait(10);
    const write = store.set("k", 1);
    await Promise.all([store.close(), store.close()]);
    await write;
    assert.deepEqual(script.calls, ["open", "write k", "close"]);
  });

  it("rejects when the database cannot be closed, and ends by the deadline", async () => {
    const failing = new Script();
    const store = failing.store();
    failing.failures = [new Error("no")];
    await assert.rejects(store.close(), { name: "StoreError", operation: "close" });
    const hanging = new Script();
    hanging.before = () => never();
    await assert.rejects(hanging.store({ timeout: 20 }).close(), { name: "TimeoutError" });
  });

  it("leaves no timer behind", async () => {
    const { code, output } = await run(`
      import process from "node:process";
      ${imports}
      const timers = () => process.getActiveResourcesInfo().filter((it) => it === "Timeout").length;
      const store = createStore(memoryBackend(), { ttl: 1000 });
      await store.set("k", 1);
      const before = timers();
      await store.close();
      console.log(before > 0, timers());
    `);
    // Bun does not tell of timers.
    assert.deepEqual({ code, output }, { code: 0, output: `${!("bun" in process.versions)} 0\n` });
  });

  it("of one store leaves another on the same handle open", async () => {
    const script = new Script();
    const one = script.store();
    await using two = createStore<unknown, string>({ ...script.backend });
    await one.set("k", 1);
    await one.close();
    assert.equal(await two.get("k"), 1);
  });
});

describe("errors", () => {
  it("onError hears what is reported, and what it throws does no harm", async () => {
    const script = new Script();
    const told: unknown[] = [];
    await using store = script.store({
      onError(error) {
        told.push(error);
        throw new Error("from the callback");
      },
    });
    await store.ready();
    script.report?.("connection lost");
    await wait(1);
    assert.deepEqual(told, ["connection lost"]);
  });

  it("show no credentials", () => {
    const text = "cannot parse mongodb://user:pa:ss@w/rd@host:1/db and redis://:secret@h";
    assert.equal(redact(text), "cannot parse mongodb://***@host:1/db and redis://***@h");
    assert.equal(reason(new AggregateError([], "")), "AggregateError");
    assert.equal(reason(Object.assign(new Error(""), { code: "ECONNREFUSED" })), "ECONNREFUSED");
  });

  it("that nobody awaits do not end the process", async () => {
    const { code, output } = await run(`
      ${imports}
      const store = createStore({ ...memoryBackend(), open() { throw new Error("down"); } });
      store.get("k");
      setTimeout(() => console.log("alive"), 20);
    `);
    assert.deepEqual({ code, output }, { code: 0, output: "alive\n" });
  });
});

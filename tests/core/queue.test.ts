/** The order of operations and their batches, against a scripted backend. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Backend } from "../../src/backend.ts";
import { memoryBackend } from "../../src/memory.ts";
import type { Waiter } from "../../src/store/lane.ts";
import { type Content, Queue } from "../../src/store/queue.ts";
import { makeStore } from "../../src/store/store.ts";
import { settle } from "../support/clock.ts";
import { gate, Script, Transient } from "../support/scripted.ts";

describe("batches", () => {
  it("the reads of one tick are one call, the writes another, the deletes a third", async () => {
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

  const skip = "bun" in process.versions && "Bun runs process.nextTick between microtasks";
  it("calls that come after a few more microtasks join the batch", { skip }, async () => {
    const script = new Script();
    await using store = script.store();
    await Promise.all([0, 1, 5, 20].map(async (awaits) => {
      for (let i = 0; i < awaits; i++) await null;
      await store.get(`k${awaits}`);
    }));
    assert.deepEqual(script.calls, ["open", "read k0 k1 k5 k20"]);
  });

  it("reads of an embedded database run during the call", async () => {
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
    await using store = makeStore<number, string>(backend);
    await store.set("a", 1);
    const first = store.get("a");
    assert.deepEqual(calls, [["a"]]);
    // While the first read is retried, other reads form a batch as in other databases.
    const others = Promise.all([store.get("a"), store.get("b"), store.get("c")]);
    assert.equal(await first, 1);
    assert.deepEqual(await others, [1, undefined, undefined]);
    assert.deepEqual(calls, [["a"], ["a"], ["b", "c"]]);
    const written = store.set("a", 2);
    assert.equal(await store.get("a"), 2);
    await written;
    assert.equal(calls.length, 3);
  });

  it("the next batch fills while one is in progress", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    let most = 0;
    let running = 0;
    script.before = async () => {
      most = Math.max(most, ++running);
      await script.clock.wait(5);
      running--;
    };
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 10; i++) {
      writes.push(store.set(`k${i}`, i));
      await script.clock.advance(1);
    }
    await script.clock.run(Promise.all(writes));
    script.before = () => {};
    assert.equal(most, 1);
    assert.ok(script.calls.length < 8, script.calls.join());
  });

  it("are limited in keys and bytes, and a large value is sent alone", async () => {
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

  it("are small until the limits of the database are known", async () => {
    const script = new Script();
    await using store = script.store();
    const keys = Array.from({ length: 100 }, (_, i) => `k${i}`);
    await Promise.all(keys.map((key) => store.get(key)));
    const sizes = script.calls.map((call) => call.split(" ").length - 1);
    assert.deepEqual(sizes, [0, 32, 68]);
  });

  it("that fail are retried one by one, and only the invalid entry fails", async () => {
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

  it("that are retried one by one settle each key as soon as it is done", async () => {
    const script = new Script();
    await using store = script.store();
    const { opened, open } = gate();
    script.before = (call) => {
      if (call === "write a bad b") throw new Error("bad entry");
      if (call === "write bad") return opened;
    };
    const writes = ["a", "bad", "b"].map((key) => store.set(key, 1));
    await writes[0];
    const unchanged = await store.get("a"); // while the batch is still in progress
    const again = store.set("a", unchanged);
    const changed = store.set("a", 2);
    assert.equal(await store.get("a"), 2);
    open();
    await Promise.all([...writes, again, changed]);
  });
});

describe("the order of one key", () => {
  it("a waiting write is replaced by a newer one, and both end when it is stored", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    const { opened, open } = gate();
    script.before = () => opened;
    const order: string[] = [];
    const first = store.set("k", 1).then(() => order.push("first"));
    await settle();
    const second = store.set("k", 2).then(() => order.push("second"));
    const third = store.set("k", 3).then(() => order.push("third"));
    assert.equal(await store.get("k"), 3);
    open();
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

  it("a write waits for a read that began before it", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", 1);
    const { opened, open } = gate();
    script.before = (call) => call === "read k" ? opened : undefined;
    const read = store.get("k");
    await settle();
    const write = store.set("k", 2);
    await store.set("other", 1);
    assert.equal(script.calls.includes("write k other"), false);
    open();
    assert.equal(await read, 1);
    await write;
    assert.equal(script.sessions.get("k")?.value, "2");
  });

  it("is shared by two stores on one handle and scope, and not with another scope", async () => {
    const script = new Script();
    await using one = script.store();
    await using two = script.store();
    await using other = script.store({}, { scope: "other" });
    const { opened, open } = gate();
    script.before = (call) => call.startsWith("write") ? opened : undefined;
    const write = one.set("k", 1);
    assert.equal(await two.get("k"), 1);
    assert.equal(await other.get("k"), undefined);
    open();
    await write;
  });

  it("uses no memory for idle keys", async () => {
    const { backend, clock } = new Script();
    const size = backend.codec.size;
    const limits = { keys: 128, bytes: 1e6 };
    const executor = { ...backend, limits, opened: true, embedded: false, size };
    const queue = new Queue<string>(executor, clock);
    const keys = Array.from({ length: 500 }, (_, i) => `k${i}`);
    const all = <T>(ask: (key: string, waiter: Waiter<T>) => void) =>
      Promise.all(
        keys.map((key) =>
          new Promise<T>((resolve, reject) => ask(key, { deadline: 60_000, resolve, reject }))
        ),
      );
    await all<void>((key, waiter) => queue.write(key, { key, value: key }, waiter));
    const reads = all<Content<string>>((key, waiter) => queue.read(key, waiter));
    assert.equal(queue.size, 500);
    await reads;
    assert.equal(queue.size, 0);
  });
});

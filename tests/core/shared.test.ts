/** Opening, retries and deadlines, against a scripted backend. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { systemClock } from "../../src/store/clock.ts";
import { SharedBackend } from "../../src/store/shared.ts";
import { settle } from "../support/clock.ts";
import { gate, never, Script, Transient } from "../support/scripted.ts";

describe("opening", () => {
  it("happens once, with the first operation", async () => {
    const script = new Script();
    await using store = script.store();
    await script.clock.advance(5_000);
    assert.deepEqual(script.calls, []);
    await Promise.all([store.get("a"), store.set("b", 1), store.ready()]);
    assert.equal(script.calls.filter((call) => call === "open").length, 1);
  });

  it("happens again if a second store on the same data has a ttl", async () => {
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

  it("happens again if the second store with a ttl joins while it is in progress", async () => {
    const script = new Script();
    await using first = script.store();
    const { opened, open } = gate();
    script.before = (call) => call === "open" ? opened : undefined;
    const reading = first.get("a");
    await settle();
    await using second = script.store({ ttl: 60_000 });
    const writing = second.set("b", 1);
    open();
    await Promise.all([reading, writing]);
    assert.deepEqual(script.calls.slice(0, 2), ["open", "open expiring"]);
  });

  it("is rejected if options contradict those of another store on the same data", async () => {
    const script = new Script();
    const shared = { shared: { prepare: true } };
    const other = { shared: { prepare: false } };
    await using first = script.store({}, shared);
    await first.set("a", 1);
    assert.throws(() => script.store({}, other), {
      name: "TypeError",
      message: 'option "prepare" is false, but another store on the same data has true; ' +
        "use the same value for both",
    });
    assert.equal(await first.get("a"), 1);
    await first.close();
    await using second = script.store({}, { ...other, handle: {} });
    assert.equal(await second.get("a"), 1);
  });

  it("is retried by the next operation after a permanent error", async () => {
    const script = new Script();
    const reported: unknown[] = [];
    await using store = script.store({ onInitError: (error) => reported.push(error) });
    const denied = new Error("password authentication failed");
    script.failures = [denied];
    const results = await Promise.allSettled(["a", "b", "c"].map((key) => store.set(key, 1)));
    for (const result of results) {
      assert.ok(result.status === "rejected");
      assert.equal(result.reason.name, "StoreError");
      assert.equal(result.reason.cause, denied);
    }
    assert.deepEqual(script.calls, ["open"]); // not once per entry
    assert.equal(reported.length, 1);
    await store.set("a", 1);
    script.failures = [];
    assert.equal(await store.get("a"), 1);
  });

  it("is retried while the error is transient", async () => {
    const script = new Script();
    await using store = script.store();
    script.failures = [new Transient("starting up"), new Transient("starting up")];
    await script.clock.run(store.ready());
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
    const reported: unknown[] = [];
    await using store = script.store({ timeout: 50, onInitError: (error) => reported.push(error) });
    script.before = (call) => call === "open" ? never() : undefined;
    const rejected = assert.rejects(store.ready(), { name: "TimeoutError", operation: "open" });
    await script.clock.run(rejected);
    assert.equal(script.clock.now(), 50);
    assert.equal(reported.length, 1);
    await script.clock.advance(1_000);
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
    await script.clock.run(store.set("k", 1));
    assert.deepEqual(script.calls, ["open", "write k", "write k", "write k"]);
    script.failures = [new Error("permission denied")];
    await assert.rejects(store.set("k", 2), {
      message: 'Cannot write session "k": permission denied',
      operation: "write",
      key: "k",
    });
    assert.equal(script.calls.length, 5);
  });

  it("the pause before a retry doubles from 10 to 500 ms, with a jitter of 50 %", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 60_000 });
    await store.ready();
    const times: number[] = [];
    script.before = () => times.push(script.clock.now());
    script.failures = Array(12).fill(new Transient("connection refused"));
    await script.clock.run(store.get("k"));
    const pauses = times.slice(1).map((time, i) => time - times[i]!);
    assert.equal(pauses.length, 12);
    for (const [i, pause] of pauses.entries()) {
      const middle = Math.min(500, 10 * 2 ** i);
      assert.ok(pause >= middle / 2 && pause <= middle * 1.5, `${pause} ms after ${i} failures`);
    }
  });

  it("an operation ends by its deadline, with the last error as cause", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 80 });
    script.failures = Array(100).fill(new Transient("connection refused"));
    const error = await script.clock.run(store.get("k").catch((error) => error));
    assert.equal(error.name, "TimeoutError");
    assert.match(error.message, /"k".* 80 ms.*connection refused/);
    assert.ok(error.cause instanceof Transient);
    assert.equal(script.clock.now(), 80);
    script.failures = [];
    await script.clock.run(store.set("k", 1));
  });

  for (const [what, jump] of [["forward", 3_600_000], ["back", -3_600_000]] as const) {
    it(`deadlines do not change when the date is set ${what}`, async (t) => {
      const script = new Script();
      const { clock } = script;
      await using store = script.store({ timeout: 300 });
      await store.ready();
      const { opened, open } = gate();
      script.before = (call) => call === "read slow" ? opened : never();
      const slow = store.get("slow");
      await settle();
      const hanging = assert.rejects(store.get("hangs"), { name: "TimeoutError" });
      await settle();
      clock.setDate(clock.date() + jump);
      await clock.advance(299);
      open();
      assert.equal(await slow, undefined);
      await clock.run(hanging);
      assert.equal(clock.now(), 300);
      script.before = () => {};
      // The machine's clock for durations does not follow the date either.
      const before = systemClock.now();
      const now = Date.now;
      t.mock.method(Date, "now", () => now() + jump);
      const passed = systemClock.now() - before;
      assert.ok(passed >= 0 && passed < 1_800_000);
    });
  }

  it("a TimeoutError does not report the error of an aborted call as the last error", async () => {
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
    const fails = (message: RegExp) => script.clock.run(assert.rejects(store.get("k"), message));
    for (let i = 0; i < 2; i++) await fails(/timed out after 50 ms$/);
    script.failures = [new Transient("connection refused")];
    for (let i = 0; i < 2; i++) await fails(/after 50 ms; last error: connection refused$/);
    script.before = () => {};
  });

  it("the last store on a handle removes the shared backend", async () => {
    const script = new Script();
    const other = script.store();
    const store = script.store();
    await Promise.all([store.ready(), other.ready()]);
    await store.close();
    assert.deepEqual(script.calls, ["open"]);
    await other.set("k", 1);
    await other.close();
    assert.deepEqual(script.calls, ["open", "write k", "close"]);
    assert.equal(SharedBackend.of(script.backend), undefined);
    await using again = script.store();
    assert.equal(await again.get("k"), 1);
    assert.deepEqual(script.calls.slice(3), ["open", "read k"]);
  });

  it("a call that hangs is abandoned, and the next one succeeds", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 50 });
    await store.ready();
    script.before = () => never();
    const operations = Promise.allSettled([store.get("a"), store.set("b", 1)]);
    const [read, write] = await script.clock.run(operations);
    assert.equal(read.status === "rejected" && read.reason.name, "TimeoutError");
    assert.equal(write.status === "rejected" && write.reason.name, "TimeoutError");
    assert.ok(script.signals.slice(1).every((signal) => signal.aborted));
    script.before = () => {};
    await store.set("b", 2);
    assert.equal(await store.get("b"), 2);
    assert.equal(await store.get("a"), undefined);
  });

  it("a rejected write does not begin later", async () => {
    const script = new Script();
    await using patient = script.store();
    await using hasty = script.store({ timeout: 30 });
    await patient.ready();
    const { opened, open } = gate();
    script.before = (call) => call === "write a" ? opened : undefined;
    const first = patient.set("a", 1);
    await settle();
    await script.clock.run(assert.rejects(hasty.set("b", 1), { name: "TimeoutError" }));
    open();
    await first;
    await settle();
    assert.equal(script.calls.includes("write b"), false);
    assert.equal(await hasty.get("b"), undefined);
  });

  it("a write behind a read that hangs does not wait for ever", async () => {
    const script = new Script();
    await using slow = script.store({ timeout: 60 });
    await using store = script.store({ timeout: 1000 });
    await slow.ready();
    script.before = (call) => call.startsWith("read") ? never() : undefined;
    const read = assert.rejects(slow.get("k"), { name: "TimeoutError" });
    await settle();
    const write = store.set("k", 1);
    await script.clock.run(read);
    await write;
    assert.equal(script.clock.now(), 60);
    assert.equal(script.sessions.get("k")?.value, "1");
  });

  it("a write begins after an earlier read of its key timed out in the queue", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 1000 });
    await using hasty = script.store({ timeout: 30 });
    await store.ready();
    const { opened, open } = gate();
    script.before = (call) => call === "read a" ? opened : undefined;
    const first = store.get("a");
    await settle();
    const waiting = assert.rejects(hasty.get("k"), { name: "TimeoutError" }); // behind "a"
    const write = store.set("k", 1);
    await script.clock.run(waiting);
    await write;
    assert.equal(script.calls.includes("read k"), false);
    open();
    assert.equal(await first, undefined);
  });

  it("each store keeps its own timeout on a shared handle", async () => {
    const script = new Script();
    const { clock } = script;
    await using patient = script.store({ timeout: 300 });
    await using hasty = script.store({ timeout: 30 });
    await patient.ready();
    script.before = () => clock.wait(100);
    const operations = Promise.allSettled([patient.get("k"), hasty.get("k")]);
    const [first, second] = await clock.run(operations);
    assert.equal(first.status, "fulfilled");
    assert.equal(second.status, "rejected");
    assert.equal(clock.now(), 100);
    script.before = () => {};
  });
});

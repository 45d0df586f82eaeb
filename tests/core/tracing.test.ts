/** What stores publish on their tracing channels, against a scripted backend. */

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { type Context, session } from "telegraf";
import type { BatchTrace, OperationTrace, Store } from "../../mod.ts";
import { leaseDefaults } from "../../src/lease/options.ts";
import { makeStore } from "../../src/store/store.ts";
import { settle } from "../support/clock.ts";
import { keys as encryptionKeys } from "../support/layers.ts";
import { run } from "../support/process.ts";
import { imports } from "../support/programs.ts";
import { gate, Script, Transient } from "../support/scripted.ts";
import { batchChannel, events, operationChannel, Recorder } from "../support/traces.ts";
import { makeBot, message } from "../../src/testing/telegraf.ts";

const pseudonym = (key: string) => createHash("sha256").update(key).digest("hex").slice(0, 16);

const bytes = (...sessions: unknown[]) =>
  sessions.reduce((sum: number, it) => sum + JSON.stringify(it).length, 0);

/** A session that holds a secret under a key that is secret, too. */
const key = "zebra:zebra";
const secret = { card: "visa 5500 0000 0000 0004" };

describe("traces", () => {
  it("an operation has its key as a hash, and a batch its operations, keys and bytes", async () => {
    const script = new Script();
    await using store = script.store({}, { system: "postgresql", place: "sessions" });
    using trace = new Recorder();
    await store.set(key, secret);
    assert.deepEqual(await store.get(key), secret);
    const database = { system: "postgresql", place: "sessions" };
    assert.deepEqual(trace.operations.map((it) => ({ ...it })), [
      { ...database, operation: "set", key: pseudonym(key) },
      { ...database, operation: "get", key: pseudonym(key) },
    ]);
    const [set, get] = trace.operations;
    const nothing = { retries: 0, waited: 0 };
    assert.deepEqual(trace.batches, [
      {
        ...database,
        operation: "write",
        keys: 1,
        bytes: bytes(secret),
        ...nothing,
        operations: [set],
      },
      { ...database, operation: "open", keys: 0, ...nothing, operations: [] },
      {
        ...database,
        operation: "read",
        keys: 1,
        bytes: bytes(secret),
        ...nothing,
        operations: [get],
      },
    ]);
    assert.equal(trace.batches[0]!.operations[0], set);
    assert.equal(trace.events.size, 5);
    for (const order of trace.events.values()) {
      assert.deepEqual(order, ["start", "end", "asyncStart", "asyncEnd"]);
    }
  });

  it("a session that does not exist has no bytes", async () => {
    const script = new Script();
    await using store = script.store();
    using trace = new Recorder();
    await Promise.all([store.get("a"), store.has("b")]);
    const read = trace.batches.find(({ operation }) => operation === "read")!;
    assert.equal(read.keys, 2);
    assert.equal("bytes" in read, false);
    assert.deepEqual(read.operations, trace.operations);
  });

  it("name every method, and only those that were called", async () => {
    const script = new Script();
    const store = script.store({ ttl: 1_000, encrypt: { keys: encryptionKeys.slice(0, 1) } });
    using trace = new Recorder();
    const calls: [name: string, call: () => Promise<unknown>][] = [
      ["ready", () => store.ready()],
      ["set", () => store.set("a", 1)],
      ["get", () => store.get("a")],
      ["has", () => store.has("a")],
      ["update", () => store.update("a", () => 2)],
      ["move", () => store.move("a", "b")],
      ["rotate", () => store.rotate()],
      ["size", () => store.size()],
      ["delete", () => store.delete("b")],
      ["clear", () => store.clear()],
      ["prune", () => store.prune()],
      ["health", () => store.health()],
      [
        "exclusive",
        () =>
          store.exclusive()(
            { state: {}, update: { update_id: 1 }, from: { id: 1 }, chat: { id: 1 } } as never,
            async () => {},
          ),
      ],
      ["close", () => store.close()],
    ];
    for (const [, call] of calls) await script.clock.run(call());
    assert.deepEqual(trace.calls, calls.map(([name]) => name));
    const keyless = trace.operations.filter((it) => it.key === undefined).map((it) => it.operation);
    assert.deepEqual(keyless, ["ready", "rotate", "size", "clear", "prune", "health", "close"]);
  });

  it("an operation that fails has the code of the error, or its name", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 100 });
    await store.set("a", 1);
    using trace = new Recorder();
    script.failures = [Object.assign(new Error("connect"), { code: "ECONNREFUSED" })];
    await assert.rejects(store.get("a"));
    script.failures = [new RangeError("no")];
    await assert.rejects(store.get("a"));
    const { opened, open } = gate();
    script.before = () => opened;
    await script.clock.run(assert.rejects(store.get("a"), { name: "TimeoutError" }));
    script.before = () => {};
    await assert.rejects(store.set("a", 1n), { name: "EncodeError" });
    await assert.rejects(store.get(""), RangeError);
    assert.deepEqual(trace.calls, [
      "get ECONNREFUSED",
      "get RangeError",
      "get TimeoutError",
      "set EncodeError",
      "get RangeError",
    ]);
    // The last batch hangs. It ends in traces when nobody waits for it any more, and only once.
    open();
    await settle();
    assert.deepEqual(trace.work, [
      "read 1 ECONNREFUSED",
      "read 1 RangeError",
      "read 1 TimeoutError",
    ]);
    for (const order of trace.events.values()) {
      assert.deepEqual(order, ["start", "end", "error", "asyncStart", "asyncEnd"]);
    }
  });

  it("a batch counts its retries, and waits in the queue while another runs", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("a", 1);
    using trace = new Recorder();
    script.failures = [new Transient("1"), new Transient("2")];
    const first = store.get("a");
    await settle();
    const second = store.get("b");
    await script.clock.run(first);
    const waited = script.clock.now();
    await second;
    assert.ok(waited > 0);
    assert.deepEqual(
      trace.batches.map((
        { operation, retries, waited, error },
      ) => [operation, retries, waited, error]),
      [["read", 2, 0, undefined], ["read", 0, waited, undefined]],
    );
    script.failures = [new Transient("1"), new Error("2")];
    await script.clock.run(assert.rejects(store.get("a")));
    const last = trace.batches.at(-1)!;
    assert.deepEqual([last.retries, last.error], [1, "Error"]);
  });

  it("a failed attempt to open is a batch of its own", async () => {
    const script = new Script();
    await using store = script.store();
    using trace = new Recorder();
    script.failures = [new Transient("1")];
    await script.clock.run(store.ready());
    assert.deepEqual(trace.work, ["open 0 Transient", "open 0"]);
    assert.deepEqual(trace.calls, ["ready"]);
  });

  it("many operations of one tick are one batch, and one by one if it fails", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    using trace = new Recorder();
    const names = ["a", "b", "c"];
    await Promise.all(names.map((name) => store.set(name, { name })));
    assert.deepEqual(trace.work, ["write 3"]);
    assert.equal(trace.batches[0]!.bytes, bytes(...names.map((name) => ({ name }))));
    assert.deepEqual(trace.batches[0]!.operations, trace.operations);
    script.failures = [new Error("one is bad"), undefined, new Error("this one")];
    await Promise.allSettled(names.map((name) => store.set(name, 1)));
    assert.deepEqual(trace.work.slice(1), ["write 3 Error", "write 1", "write 1 Error", "write 1"]);
    assert.deepEqual(trace.calls.slice(3), ["set", "set Error", "set"]);
    assert.deepEqual(trace.batches[2]!.operations, [trace.operations[3]]);
  });

  it("two callers of one read share a batch", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    using trace = new Recorder();
    await Promise.all([store.get("a"), store.get("a")]);
    assert.deepEqual(trace.work, ["read 1"]);
    assert.deepEqual(trace.batches[0]!.operations, trace.operations);
  });

  it("writes, renewals and deletions of one tick have their own operations", async () => {
    const script = new Script();
    await using store = script.store({ ttl: 1_000 });
    await store.set("a", { n: 1 });
    const read = await store.get("a");
    await script.clock.advance(500);
    using trace = new Recorder();
    await Promise.all([store.set("a", read), store.set("b", { n: 2 }), store.delete("c")]);
    assert.deepEqual(trace.work, ["write 1", "renew 1", "remove 1"]);
    const [renewed, written, removed] = trace.operations;
    assert.deepEqual(
      trace.batches.map(({ operations }) => operations),
      [[written], [renewed], [removed]],
    );
    assert.deepEqual(trace.batches.map((it) => "bytes" in it), [true, false, false]);
  });

  it("update() is a claim and a settlement, and says how long it waited", async () => {
    const script = new Script();
    await using store = script.store();
    await using other = script.store({}, { handle: {} });
    await store.set("a", { n: 1 });
    const { opened, open } = gate();
    const held = other.update("a", () => opened);
    await settle();
    using trace = new Recorder();
    const start = script.clock.now();
    const update = store.update("a", (session) => void session.n++);
    await script.clock.advance(1_000);
    open();
    await held;
    await script.clock.run(update);
    const mine = trace.operations.find(({ operation }) => operation === "update")!;
    assert.ok(mine.waited! >= 1_000 && mine.waited! <= script.clock.now() - start);
    const claims = trace.batches.filter(({ operations }) => operations.includes(mine));
    const granted = claims.at(-2)!, settled = claims.at(-1)!;
    assert.deepEqual([claims[0]!.operation, claims[0]!.refused], ["claim", 1]);
    assert.equal("bytes" in claims[0]!, false);
    assert.deepEqual([granted.operation, granted.refused], ["claim", 0]);
    assert.equal(granted.bytes, bytes({ n: 1 }));
    assert.deepEqual([settled.operation, settled.refused], ["settle", 0]);
    assert.equal(settled.bytes, bytes({ n: 2 }));
    assert.deepEqual(trace.calls, ["update"]); // not its get and set
  });

  it("a lost lease is a settlement that is refused", async () => {
    const script = new Script();
    await using store = script.store();
    using trace = new Recorder();
    const bot = makeBot<Context & { session: { n: number } }>();
    bot.use(store.exclusive(), session({ store, defaultSession: () => ({ n: 0 }) }));
    bot.use((ctx) => {
      ctx.session.n++;
      script.data.leases.set("1:1", { token: "another", until: Infinity, note: undefined });
    });
    await script.clock.run(assert.rejects(bot.handleUpdate(message()), { name: "LeaseError" }));
    const settlements = trace.batches.filter(({ operation }) => operation === "settle");
    assert.deepEqual(settlements.map(({ refused }) => refused), [1]);
    assert.deepEqual(trace.calls, ["exclusive LeaseError", "get", "set"]);
    assert.deepEqual(settlements[0]!.operations, [trace.operations[0]]);
  });

  it("a renewal belongs to the update that holds the lease", async () => {
    const script = new Script();
    await using store = script.store();
    using trace = new Recorder();
    const { opened, open } = gate();
    const update = store.update("a", () => opened);
    await script.clock.advance(leaseDefaults.lease / 2);
    const renewals = trace.batches.filter(({ operation }) => operation === "settle");
    open();
    await script.clock.run(update);
    assert.equal(renewals.length, 1);
    assert.deepEqual(renewals[0]!.operations, trace.operations);
  });

  it("move() waits for both leases, and its batches belong to it", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("a", 1);
    using trace = new Recorder();
    assert.equal(await script.clock.run(store.move("a", "b")), true);
    assert.deepEqual(trace.calls, ["move"]);
    assert.equal(trace.operations[0]!.key, pseudonym("a"));
    assert.equal(trace.operations[0]!.waited, 0);
    const writes = trace.batches.filter(({ operation }) => operation === "write");
    assert.deepEqual(writes.map(({ operations }) => operations), [trace.operations]);
  });

  it("contain no session, no key, and nothing that is in an error", async () => {
    const script = new Script();
    const store = script.store({ timeout: 1_000, encrypt: { keys: encryptionKeys.slice(0, 1) } });
    using trace = new Recorder();
    const leak = (code: string) =>
      Object.assign(new Error(`duplicate ${key}: ${secret.card}`), { code, key, secret });
    script.failures = [undefined, leak("23505")];
    await assert.rejects(store.set(key, secret));
    await store.set(key, secret);
    await store.get(key);
    script.failures = [leak("42P01")];
    await assert.rejects(store.get(key));
    await script.clock.run(store.update(key, (session) => ({ ...session, n: 1 })));
    await script.clock.run(assert.rejects(store.update(key, () => {
      throw leak("oops");
    })));
    await script.clock.run(store.move(key, "1:zebra"));
    await script.clock.run(store.rotate());
    await store.clear();
    await store.close();
    await assert.rejects(store.get(key), { name: "ClosedError" });
    assert.deepEqual(trace.operations.map(({ error }) => error ?? []).flat(), [
      "23505",
      "42P01",
      "oops",
      "ClosedError",
    ]);
    assert.ok(trace.texts.length > 80);
    assert.ok(trace.texts.some((text) => text.includes(pseudonym(key)))); // getters were called
    for (const text of trace.texts) {
      assert.doesNotMatch(text, /zebra|visa|card|duplicate/);
    }
  });

  it("contain keys as they are with traceKeys", async () => {
    const script = new Script();
    await using store = script.store({ traceKeys: true });
    using trace = new Recorder();
    await store.set(key, secret);
    assert.equal(trace.operations[0]!.key, key);
    for (const text of trace.texts) assert.doesNotMatch(text, /visa|card/);
  });

  it("count about the bytes of encrypted sessions", async () => {
    const script = new Script();
    await using store = script.store({ encrypt: { keys: encryptionKeys.slice(0, 1) } });
    using trace = new Recorder();
    const large = { text: "x".repeat(3_000) };
    await store.set("a", large);
    await store.get("a");
    const stored = script.sessions.get("a")!.value.length;
    const found = trace.batches.filter((it) => it.operation !== "open").map((it) => it.bytes!);
    assert.equal(found.length, 2);
    for (const bytes of found) {
      assert.ok(Number.isInteger(bytes) && Math.abs(bytes - stored) < 100, `${bytes} ${stored}`);
    }
  });

  it("nothing is made while nobody subscribes, and late subscribers see everything", async () => {
    const script = new Script();
    let made = 0;
    // Each message reads it.
    const system = {
      get: () => {
        made++;
        return "memory";
      },
    };
    const backend = Object.defineProperty({ ...script.backend }, "system", system);
    await using store = makeStore(backend, {}, script.clock);
    /** The number of messages that were made. */
    const use = async () => {
      made = 0;
      await store.set("a", 1);
      await store.get("a");
      await script.clock.run(store.update("a", () => 2));
      return made;
    };
    assert.equal(await use(), 0);
    {
      using trace = new Recorder();
      assert.equal(await use(), 7);
      assert.deepEqual(trace.calls, ["set", "get", "update"]);
      assert.deepEqual(trace.work, ["write 1", "read 1", "claim 1", "settle 1"]);
    }
    assert.equal(await use(), 0);
  });

  for (const event of events) {
    it(`one subscriber of ${event} is enough`, async () => {
      const script = new Script();
      await using store = script.store();
      await store.ready();
      const found: string[] = [];
      const handlers = { [event]: (it: BatchTrace | OperationTrace) => found.push(it.operation) };
      operationChannel.subscribe(handlers as never);
      batchChannel.subscribe(handlers as never);
      try {
        script.failures = [new Error("no")];
        await assert.rejects(store.get("a"));
      } finally {
        operationChannel.unsubscribe(handlers as never);
        batchChannel.unsubscribe(handlers as never);
      }
      assert.deepEqual(found.toSorted(), ["get", "read"]);
    });
  }

  it("one channel is enough", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    const found: (BatchTrace | OperationTrace)[] = [];
    const asyncEnd = (it: BatchTrace | OperationTrace) => void found.push(it);
    operationChannel.asyncEnd.subscribe(asyncEnd as never);
    await store.get("a");
    operationChannel.asyncEnd.unsubscribe(asyncEnd as never);
    batchChannel.asyncEnd.subscribe(asyncEnd as never);
    await store.get("a");
    batchChannel.asyncEnd.unsubscribe(asyncEnd as never);
    assert.deepEqual(found.map(({ operation }) => operation), ["get", "read"]);
    assert.deepEqual((found[1] as BatchTrace).operations, []);
  });

  it("a store that is bound to start reaches the work: of an operation, of the database", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("a", 1);
    const storage = new AsyncLocalStorage<string>();
    const operationOf = (it: unknown) => (it as BatchTrace | OperationTrace).operation as never;
    operationChannel.start.bindStore(storage as never, operationOf);
    batchChannel.start.bindStore(storage as never, operationOf);
    const seen: unknown[] = [];
    script.before = (call) => void seen.push(`${call} in ${storage.getStore()}`);
    try {
      await script.clock.run(store.update("a", () => void seen.push(storage.getStore())));
      assert.equal(storage.getStore(), undefined);
    } finally {
      operationChannel.start.unbindStore(storage as never);
      batchChannel.start.unbindStore(storage as never);
    }
    assert.deepEqual(seen, [
      "open leasing in open",
      "find telegraf-session:cache in claim",
      "claim a in claim",
      "update",
      "settle a in settle",
    ]);
  });

  it("an embedded database stays synchronous", async () => {
    const script = new Script();
    let reads = 0;
    await using store = script.store({}, {
      embedded: true,
      read(keys) {
        reads++;
        return keys.flatMap((key) => script.sessions.get(key) ?? []);
      },
    });
    await store.set("a", 1);
    await store.get("a");
    using trace = new Recorder();
    const read = store.get("a");
    assert.equal(reads, 2); // before any microtask
    assert.deepEqual(trace.events.get(trace.batches[0]!), [
      "start",
      "asyncStart",
      "asyncEnd",
      "end",
    ]);
    assert.equal(await read, 1);
    assert.equal(trace.batches[0]!.bytes, 1);
  });

  it("the promise of a failed get() can be awaited again, and is traced again", async () => {
    const script = new Script();
    const store: Store<number> = script.store();
    await store.set("a", 1);
    using trace = new Recorder();
    script.failures = [new Error("no")];
    const read = store.get("a");
    await assert.rejects(async () => await read, { name: "StoreError" });
    assert.equal(await read, 1);
    assert.deepEqual(trace.calls, ["get Error", "get"]);
    await store.close();
  });

  it("a subscriber that throws does not disturb the operation", async () => {
    const { code, output } = await run(`
      ${imports}
      const { tracingChannel } = await import("node:diagnostics_channel");
      const errors = [];
      process.on("uncaughtException", (error) => errors.push(error.message));
      const fail = () => { throw new Error("mine"); };
      tracingChannel("telegraf-session:batch").subscribe({ start: fail, asyncEnd: fail });
      const store = makeStore(memoryBackend());
      await store.set("a", 1);
      console.log(await store.get("a"));
      await store.close();
      await new Promise((resolve) => setTimeout(resolve, 10));
      console.log([...new Set(errors)].join());
    `);
    assert.deepEqual({ code, output }, { code: 0, output: "1\nmine\n" });
  });

  for (const missing of ["getBuiltinModule", "tracingChannel"]) {
    it(`stores work without ${missing}`, async () => {
      const { code, output } = await run(`
        ${
        missing === "getBuiltinModule" ? "process.getBuiltinModule = undefined;" : `
          const real = process.getBuiltinModule;
          process.getBuiltinModule = () => ({});
        `
      }
        ${imports.replace(/import (\{ \w+ \}) from (\S+);/g, "const $1 = await import($2);")}
        const store = makeStore(memoryBackend());
        await store.set("a", 1);
        console.log(await store.update("a", (n) => n + 1), await store.get("a"));
        await store.close();
      `);
      assert.deepEqual({ code, output }, { code: 0, output: "2 2\n" });
    });
  }
});

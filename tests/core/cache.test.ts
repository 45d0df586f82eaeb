/** The option `cache`, on a backend in memory and a clock that the test moves. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import process from "node:process";
import { describe, it } from "node:test";
import type { LeaseError, Store, StoreOptions } from "../../mod.ts";
import type { Backend } from "../../src/backend.ts";
import type { CacheOptions } from "../../src/options.ts";
import { settle } from "../support/clock.ts";
import { keys, load, store, valueOf } from "../support/layers.ts";
import { never, Script, Transient } from "../support/scripted.ts";

const lease = "telegraf-session:cache";

/** Two processes, or two computers, on one database. */
function twoScripts(): [Script, Script] {
  const first = new Script();
  return [first, new Script({}, first)];
}

/** A store that answers from memory. */
async function cached(
  script: Script,
  options: StoreOptions = {},
  changes: Partial<Backend> = {},
): Promise<Store<Session>> {
  const store: Store<Session> = script.store({ cache: true, ...options }, changes);
  await script.clock.run(store.ready());
  await script.clock.advance(3_000);
  script.calls.length = 0;
  return store;
}

/** A `read` whose answer takes the time that the function returns, in ms. */
function slowly(script: Script, delay: () => number): Pick<Backend, "read"> {
  return {
    read: async (...query) => {
      const found = await script.backend.read(...query);
      await script.clock.wait(delay());
      return found;
    },
  };
}

interface Session {
  count: number;
}

/** The calls on the database since the last time, without those of the lease of all sessions. */
function calls(script: Script): string[] {
  return script.calls.splice(0).filter((call) => !call.endsWith(lease));
}

describe("a store with cache", () => {
  it("reads a session once, and returns a new copy each time", async () => {
    const script = new Script();
    script.sessions.set("a", { key: "a", value: '{"count":1}' });
    await using store = await cached(script);
    const first = await store.get("a");
    first!.count = 5;
    assert.deepEqual(await store.get("a"), { count: 1 });
    assert.equal(await store.has("a"), true);
    assert.deepEqual(calls(script), ["read a"]);
  });

  it("knows what it has stored, and that a session is missing", async () => {
    const script = new Script();
    await using store = await cached(script);
    await store.set("a", { count: 1 });
    assert.deepEqual(await store.get("a"), { count: 1 });
    await store.delete("a");
    assert.equal(await store.get("a"), undefined);
    assert.equal(await store.get("b"), undefined);
    assert.equal(await store.has("b"), false);
    assert.deepEqual(calls(script), ["write a", "remove a", "read b"]);
  });

  it("resolves a set when the database has it", async () => {
    const script = new Script();
    await using store = await cached(script);
    script.before = (call) => call === "write a" ? script.clock.wait(500) : undefined;
    let done = false;
    const set = store.set("a", { count: 1 }).then(() => done = true);
    await script.clock.advance(400);
    assert.equal(done, false);
    assert.deepEqual(await store.get("a"), { count: 1 });
    await script.clock.run(set);
    assert.equal(script.sessions.get("a")?.value, '{"count":1}');
  });

  it("does not write a session that has not changed", async () => {
    const script = new Script();
    await using store = await cached(script);
    await store.set("a", { count: 1 });
    calls(script);
    for (let i = 0; i < 3; i++) await store.set("a", (await store.get("a"))!);
    assert.deepEqual(calls(script), []);
    const session = (await store.get("a"))!;
    session.count++;
    await store.set("a", session);
    assert.deepEqual(await store.get("a"), { count: 2 });
    assert.deepEqual(calls(script), ["write a"]);
  });

  it("forgets a session after a write that failed", async () => {
    const script = new Script();
    await using store = await cached(script);
    await store.set("a", { count: 1 });
    calls(script);
    script.before = (call) => {
      if (call !== "write a") return;
      script.before = () => {};
      throw new Error("refused");
    };
    await assert.rejects(store.set("a", { count: 2 }), /refused/);
    assert.deepEqual(await store.get("a"), { count: 1 });
    assert.deepEqual(calls(script), ["write a", "read a"]);
  });

  it("forgets a session after a write that timed out, also if the write succeeds later", async () => {
    const script = new Script();
    await using store = await cached(script, { timeout: 1_000 });
    await store.set("a", { count: 1 });
    let arrive = () => {};
    script.before = (call) =>
      call === "write a" ? new Promise<void>((resolve) => arrive = resolve) : undefined;
    await script.clock.run(assert.rejects(store.set("a", { count: 2 }), /timed out/));
    script.before = () => {};
    script.sessions.set("a", { key: "a", value: '{"count":7}' });
    calls(script);
    assert.deepEqual(await store.get("a"), { count: 7 });
    arrive();
    await script.clock.advance(1);
    assert.deepEqual(await store.get("a"), { count: 7 });
    assert.deepEqual(calls(script), ["read a"]);
  });

  it("does not keep what a read found before a write", async () => {
    const script = new Script();
    await using store = await cached(script);
    script.sessions.set("a", { key: "a", value: '{"count":1}' });
    script.before = (call) => call === "read a" ? script.clock.wait(100) : undefined;
    const read = store.get("a");
    const set = store.set("a", { count: 2 });
    await script.clock.run(Promise.all([read, set]));
    assert.deepEqual(await store.get("a"), { count: 2 });
    assert.deepEqual(calls(script), ["read a", "write a"]);
  });

  it("does not keep the answer of a read that timed out before a write", async () => {
    const script = new Script();
    let delay = 5_000;
    await using store = await cached(script, { timeout: 1_000 }, slowly(script, () => delay));
    script.sessions.set("a", { key: "a", value: '{"count":1}' });
    await script.clock.run(assert.rejects(store.get("a"), /timed out/));
    delay = 0;
    await script.clock.run(store.set("a", { count: 2 }));
    await script.clock.advance(5_000);
    assert.deepEqual(await script.clock.run(store.get("a")), { count: 2 });
  });

  it("knows when sessions expire, with and without ttl", async () => {
    const script = new Script();
    await using store = await cached(script, { ttl: 10_000, pruneInterval: 0 });
    await script.clock.run(store.set("a", { count: 1 }));
    await script.clock.advance(9_000);
    assert.deepEqual(await store.get("a"), { count: 1 });
    await script.clock.advance(1_000);
    assert.equal(await store.get("a"), undefined);

    const other = new Script();
    // Databases tell the expiry only if they are asked for it.
    await using plain = await cached(other, {}, {
      read: async (keys, signal, expiring) => {
        const found = await other.backend.read(keys, signal);
        return expiring ? found : found.map(({ key, value }) => ({ key, value }));
      },
    });
    const expires = other.clock.date() + 5_000;
    other.sessions.set("a", { key: "a", value: '{"count":1}', expires });
    assert.deepEqual(await plain.get("a"), { count: 1 });
    await other.clock.advance(5_000);
    assert.equal(await plain.get("a"), undefined);
    assert.deepEqual(calls(other), ["read a"]);
  });

  it("renews the expiry of sessions that are only read", async () => {
    const script = new Script();
    await using store = await cached(script, { ttl: 10_000, pruneInterval: 0 });
    await store.set("a", { count: 1 });
    for (let i = 0; i < 10; i++) {
      await script.clock.advance(5_000);
      await store.set("a", (await store.get("a"))!);
    }
    assert.deepEqual(calls(script), ["write a", ...Array(10).fill("renew a")]);
    assert.ok(script.sessions.get("a")!.expires! >= script.clock.date() + 10_000);
  });

  it("calls onCorrupt as without it", async () => {
    const script = new Script();
    const values: unknown[] = [];
    await using store = await cached(script, {
      onCorrupt: (value) => {
        values.push(value);
        return { count: 0 };
      },
    });
    script.sessions.set("a", { key: "a", value: "{" });
    for (let i = 0; i < 2; i++) assert.deepEqual(await store.get("a"), { count: 0 });
    assert.deepEqual(values, ["{", "{"]);
    assert.deepEqual(calls(script), ["read a"]);
  });

  it("keeps their meaning: clear, move, update, exclusive and prune", async () => {
    const script = new Script();
    await using store = await cached(script, { ttl: 1_000_000, pruneInterval: 0 });
    const run = <T>(promise: Promise<T>) => script.clock.run(promise);
    for (const key of ["a", "b", "c"]) await run(store.set(key, { count: 1 }));
    await run(store.update("a", (session) => ({ count: session!.count + 1 })));
    assert.deepEqual(await run(store.get("a")), { count: 2 });
    await run(store.move("a", "d"));
    assert.equal(await run(store.get("a")), undefined);
    assert.deepEqual(await run(store.get("d")), { count: 2 });
    await run(store.clear({ prefix: "b" }));
    assert.equal(await run(store.get("b")), undefined);
    assert.equal(await run(store.size()), 2);
    const keys: string[] = [];
    for await (const [key] of store.entries()) keys.push(key);
    assert.deepEqual(keys.sort(), ["c", "d"]);
    await script.clock.advance(1_000_000);
    assert.equal(await run(store.prune()), 2);
    assert.equal(await run(store.get("c")), undefined);
  });

  it("does not keep what a read found while an update was being stored", async () => {
    const script = new Script();
    await using store = await cached(script, {}, slowly(script, () => 500));
    script.sessions.set("a", { key: "a", value: '{"count":1}' });
    script.before = (call) => call === "settle a" ? script.clock.wait(300) : undefined;
    const update = store.update("a", () => ({ count: 2 }));
    await script.clock.advance(100); // it is being stored
    const found = store.get("a");
    await script.clock.run(update);
    assert.deepEqual(await script.clock.run(found), { count: 1 });
    script.before = () => {};
    assert.deepEqual(await script.clock.run(store.get("a")), { count: 2 });
  });
});

describe("the limits of cache", () => {
  /** The keys that are read again. */
  async function forgotten(cache: CacheOptions, sizes: number[]): Promise<number[]> {
    const script = new Script();
    await using store = await cached(script, { cache });
    const keys = [...sizes.keys()];
    // deno-lint-ignore no-explicit-any
    for (const i of keys) await store.set(`${i}`, "x".repeat(sizes[i]!) as any);
    await store.get("0"); // used last, if it is still there
    await store.set("last", { count: 0 });
    calls(script);
    for (const i of keys) await store.has(`${i}`);
    return calls(script).map((call) => Number(call.split(" ")[1]));
  }

  it("are a number of sessions, of which the least recently used ones give way", async () => {
    assert.deepEqual(await forgotten({ entries: 4 }, [1, 1, 1, 1]), [1, 2, 3]);
  });

  it("are a number of bytes", async () => {
    assert.deepEqual(await forgotten({ bytes: 10_000 }, [3200, 3200, 3200]), [1, 2]);
    // A session that is larger than all of it is not kept, and the others are.
    assert.deepEqual(await forgotten({ bytes: 10_000 }, [3000, 12_000, 3000]), [1]);
  });

  it("are an age", async () => {
    const script = new Script();
    await using store = await cached(script, { cache: { age: 5_000 } });
    await store.set("a", { count: 1 });
    script.sessions.set("a", { key: "a", value: '{"count":2}' }); // by an administrator
    await script.clock.advance(4_999);
    assert.deepEqual(await store.get("a"), { count: 1 });
    await script.clock.advance(1);
    assert.deepEqual(await store.get("a"), { count: 2 });
  });
});

describe("the lease of all sessions", () => {
  it("goes to the next process when the first one closes its store", async () => {
    const [old, young] = twoScripts();
    const first = await cached(old);
    await first.set("a", { count: 1 });
    await using second: Store<Session> = young.store({ cache: true });
    const ready = second.ready();
    await old.clock.advance(2_000);
    await first.close();
    const closed = old.clock.now();
    await old.clock.run(ready);
    assert.ok(old.clock.now() - closed < 1_000);
    assert.deepEqual(await old.clock.run(second.get("a")), { count: 1 });
  });

  it("goes to the next process when the first one has died, within the default timeout", async () => {
    const [old, young] = twoScripts();
    const first = await cached(old);
    old.before = never; // nothing of it arrives any more
    await using second: Store<Session> = young.store({ cache: true });
    await old.clock.run(second.get("a"));
    const closing = assert.rejects(first.close());
    await old.clock.advance(60_000);
    await closing;
  });

  it("is refused to a second process, which is told who has it", async () => {
    const [old, young] = twoScripts();
    await using _first = await cached(old);
    await using second: Store<Session> = young.store({ cache: true, timeout: 3_000 });
    const calls = [second.ready(), second.get("a"), second.set("a", { count: 1 })];
    for (const { status, ...result } of await old.clock.run(Promise.allSettled(calls))) {
      assert.equal(status, "rejected");
      const { reason: error } = result as PromiseRejectedResult;
      assert.equal(error.name, "TimeoutError");
      assert.match(error.message, /process \d+.*, since 2023-.*, has all sessions in memory/);
      assert.equal((error.cause as LeaseError).holder!.pid, process.pid);
    }
    assert.equal(old.sessions.size, 0);
  });

  it("is claimed once for all operations that begin together", async () => {
    const script = new Script();
    await using store: Store<Session> = script.store({ cache: true });
    const all = [store.get("a"), store.set("b", { count: 1 }), store.ready(), store.size()];
    await script.clock.run(Promise.all(all));
    await script.clock.run(store.update("c", () => ({ count: 1 })));
    assert.equal(script.calls.filter((call) => call === `claim ${lease}`).length, 1);
  });

  it("is not claimed after the store was closed", async () => {
    const script = new Script();
    const store: Store<Session> = script.store({ cache: true, timeout: 1_000 });
    let fail = () => {};
    script.before = (call) =>
      call.startsWith("open")
        ? new Promise((_, reject) => fail = () => reject(new Transient("down")))
        : undefined;
    const reading = assert.rejects(store.get("a"), /timed out/);
    await script.clock.run(reading);
    script.before = () => {};
    const closing = store.close();
    fail();
    await script.clock.run(closing);
    await script.clock.advance(20_000);
    assert.deepEqual(script.calls.filter((call) => call.startsWith("claim")), []);
  });

  it("is taken also if the client was in use without it", async () => {
    const script = new Script();
    await using other: Store<Session> = script.store();
    await script.clock.run(other.update("a", () => ({ count: 1 })));
    let attempts = 0;
    script.before = (call) => {
      if (call !== "read b") return;
      if (++attempts === 1) throw new Transient("down");
      return script.clock.wait(100);
    };
    const reading = other.get("b");
    await script.clock.advance(50);
    assert.equal(attempts, 2); // it is being repeated
    await using store: Store<Session> = script.store({ cache: true });
    await script.clock.run(reading);
    script.calls.length = 0;
    await script.clock.run(store.get("a"));
    assert.deepEqual(script.calls, [`claim ${lease}`, "read a"]);
  });

  it("is renewed while the process does nothing, and keeps no process alive", async () => {
    const [old, young] = twoScripts();
    await using first = await cached(old);
    assert.equal(old.clock.referenced, 0);
    await old.clock.advance(100_000);
    await using second: Store<Session> = young.store({ cache: true, timeout: 100 });
    await old.clock.run(assert.rejects(second.ready(), /has all sessions in memory/));
    old.calls.length = 0;
    await first.set("a", { count: 1 });
    assert.deepEqual(old.calls, ["write a"]);
  });

  it("is renewed before anything else after the process was stopped", async () => {
    const [old, young] = twoScripts();
    const errors: Error[] = [];
    await using first = await cached(old, { onError: (error) => errors.push(error as Error) });
    await first.set("a", { count: 1 });
    const before = (await first.get("a"))!;
    // Nothing of it arrives; the other process takes the lease, changes the session, and ends.
    let goOn = () => {};
    const stopped = new Promise<void>((resolve) => goOn = resolve);
    old.before = () => stopped;
    const second: Store<Session> = young.store({ cache: true });
    await old.clock.run(second.set("a", { count: 2 }));
    await old.clock.run(second.close());
    goOn();
    old.before = () => {};
    before.count = 10;
    await old.clock.run(assert.rejects(first.set("a", before), /^LeaseError: .*lease of all/));
    assert.deepEqual(await old.clock.run(first.get("a")), { count: 2 });
    assert.equal(errors.length, 1);
    assert.match(errors[0]!.message, /the lease of all sessions was lost/);
    // It goes on under a new lease.
    const session = (await first.get("a"))!;
    session.count++;
    await old.clock.run(first.set("a", session));
    assert.equal(old.sessions.get("a")?.value, '{"count":3}');
  });
});

describe("a session that was read before the lease of all sessions was lost", () => {
  /** Loses the lease, and gets it again. Another process has stored "a" and "b" meanwhile. */
  async function lose(script: Script): Promise<void> {
    script.data.leases.delete(lease);
    for (const key of ["a", "b"]) script.sessions.set(key, { key, value: '{"count":9}' });
    await script.clock.advance(3_000);
    assert.ok(script.data.leases.has(lease));
  }

  it("is not stored, also if the update has made a new object", async () => {
    const script = new Script();
    await using store = await cached(script);
    await script.clock.run(store.set("a", { count: 1 }));
    const session = (await store.get("a"))!;
    assert.equal(await store.get("b"), undefined);
    await lose(script);
    const changes = [
      store.set("a", session),
      store.set("a", { count: 2 }),
      store.delete("a"),
      store.set("b", { count: 2 }),
    ];
    for (const change of changes) await assert.rejects(change, /LeaseError.*may have changed it/);
    // When it has been read again, it may be replaced, but the old object may not.
    assert.deepEqual(await script.clock.run(store.get("a")), { count: 9 });
    await assert.rejects(store.set("a", session), /may have changed it/);
    await script.clock.run(store.set("a", { count: 3 }));
    await script.clock.run(store.set("c", { count: 1 })); // was never read
    assert.equal(script.sessions.get("a")!.value, '{"count":3}');
    assert.equal(script.sessions.get("b")!.value, '{"count":9}');
    await script.clock.run(store.clear());
    assert.equal(script.sessions.size, 0);
  });

  it("is not stored by a write that waits or is repeated", async () => {
    const script = new Script();
    await using store = await cached(script, { timeout: 60_000 });
    script.before = (call) => {
      if (call !== "write a") return;
      throw new Transient("down");
    };
    const writes = [store.set("a", { count: 1 }), store.set("a", { count: 2 })];
    await script.clock.advance(1_000);
    writes.push(store.set("b", { count: 2 }));
    const rejected = writes.map((write) => assert.rejects(write, /LeaseError.*was lost/));
    await lose(script);
    script.before = () => {};
    await script.clock.run(Promise.all(rejected));
    await script.clock.advance(60_000);
    for (const key of ["a", "b"]) assert.equal(script.sessions.get(key)!.value, '{"count":9}');
  });

  it("is read again if the read began before that", async () => {
    const script = new Script();
    await using store = await cached(script, {}, slowly(script, () => 4_000));
    script.sessions.set("a", { key: "a", value: '{"count":1}' });
    const read = store.get("a");
    await script.clock.advance(1);
    await lose(script);
    assert.deepEqual(await script.clock.run(read), { count: 9 });
  });
});

describe("clocks", () => {
  it("tell that the process was stopped while it waited for the lease", async () => {
    const script = new Script();
    await using store: Store<Session> = script.store({ cache: true });
    script.before = (call) => {
      if (call.startsWith("claim")) script.clock.setDate(script.clock.date() + 60_000);
    };
    await store.get("a");
    const all = ["open leasing", `claim ${lease}`, `settle ${lease}`, "read a"];
    assert.deepEqual(script.calls.slice(0, 4), all);
  });

  it("tell that the process was stopped, before it reads or writes", async () => {
    const script = new Script();
    await using store = await cached(script);
    await store.set("a", { count: 1 });
    const session = (await store.get("a"))!;
    // Another process has had the lease, and no timer has fired since then.
    script.clock.setDate(script.clock.date() + 60_000);
    script.data.leases.set(lease, { token: "other", until: 0, note: undefined });
    script.sessions.set("a", { key: "a", value: '{"count":9}' });
    const [changed, read] = [store.set("a", { ...session }), store.get("b")];
    await assert.rejects(changed, /LeaseError.*was lost/);
    await read;
    assert.equal(script.sessions.get("a")!.value, '{"count":9}');

    await script.clock.advance(3_000); // in memory again
    await store.get("a");
    script.clock.setDate(script.clock.date() + 60_000);
    script.data.leases.set(lease, { token: "other", until: 0, note: undefined });
    script.sessions.set("a", { key: "a", value: '{"count":10}' });
    assert.deepEqual(await store.get("a"), { count: 10 });
  });

  for (const [title, jump] of [["forward", 3_600_000], ["back", -3_600_000]] as const) {
    it(`may be set ${title}`, async () => {
      const script = new Script();
      await using store = await cached(script);
      await store.set("a", { count: 1 });
      script.clock.setDate(script.clock.date() + jump);
      assert.deepEqual(await script.clock.run(store.get("a")), { count: 1 });
      await script.clock.advance(6_000);
      calls(script);
      assert.deepEqual(await script.clock.run(store.get("a")), { count: 1 });
    });
  }
});

describe("leases of sessions", () => {
  it("are refused while another process has all sessions in memory", async () => {
    const [old, young] = twoScripts();
    const first = await cached(old);
    await first.set("a", { count: 1 });
    await using second: Store<Session> = young.store();
    const update = () => old.clock.run(second.update("a", () => ({ count: 2 })));
    const refusal =
      /^LeaseError: .*process \d+.* has all sessions in memory, by the option "cache"/;
    await assert.rejects(update(), refusal);
    await assert.rejects(old.clock.run(second.move("a", "b")), refusal);
    const middleware = second.exclusive({ getSessionKey: () => "a" });
    const handled = middleware({ state: {}, update: { update_id: 1 } }, () => assert.fail());
    await assert.rejects(old.clock.run(handled), refusal);
    assert.deepEqual(calls(young), ["open leasing"]);
    assert.deepEqual(await first.get("a"), { count: 1 });
    await old.clock.run(first.close());
    await update();
    assert.equal(old.sessions.get("a")!.value, '{"count":2}');
  });

  it("do not change a session that another process may have in memory since", async () => {
    const [old, young] = twoScripts();
    const second: Store<Session> = young.store();
    // It has the lease of the session when the other process begins.
    const results: Promise<unknown>[] = [];
    for (const duration of [0, 500, 1_500, 2_500, 3_500, 10_000]) {
      results.push(
        second.update(`${duration}`, async () => {
          await young.clock.wait(duration);
          return { count: 2 };
        }),
      );
    }
    const settled = Promise.allSettled(results);
    await old.clock.advance(10);
    const first: Store<Session> = old.store({ cache: true });
    for (let i = 0; i < 2; i++) {
      assert.equal(await old.clock.run(first.get("500")), undefined); // too early to keep this
    }
    await old.clock.advance(3_000);
    const known = await Promise.all([0, 500, 1_500, 2_500].map((key) => first.get(`${key}`)));
    await old.clock.advance(10_000);
    const stored = (await settled).map(({ status }) => status === "fulfilled");
    assert.deepEqual(stored.slice(0, 2), [true, true]);
    assert.deepEqual(stored.slice(3), [false, false, false]);
    for (const [i, session] of known.entries()) assert.equal(session !== undefined, stored[i]);
    await old.clock.run(first.close());
    await second.close();
  });

  it("cost one look a second, and none of the updates waits for it but the first", async () => {
    const script = new Script();
    await using store: Store<Session> = script.store();
    const update = () => script.clock.run(store.update("a", () => ({ count: 1 })));
    for (let i = 0; i < 10; i++) {
      await update();
      await script.clock.advance(200);
    }
    const looks = script.calls.filter((call) => call.startsWith("find"));
    assert.equal(looks.length, 2);
    script.before = (call) => call.startsWith("find") ? script.clock.wait(50) : undefined;
    await script.clock.advance(1_000);
    script.calls.length = 0;
    let begun = 0;
    const start = script.clock.now();
    await script.clock.run(store.update("a", () => {
      begun = script.clock.now() - start;
      return { count: 2 };
    }));
    assert.equal(begun, 0);
  });
});

describe("stores with cache", () => {
  it("may share a client, if they agree", async () => {
    const script = new Script();
    const store = await cached(script, { cache: { entries: 5 } });
    const other: Store<Session> = script.store();
    const same: Store<Session> = script.store({ cache: { entries: 5 } });
    await other.set("a", { count: 1 });
    assert.deepEqual(await store.get("a"), { count: 1 });
    assert.deepEqual(await same.get("a"), { count: 1 });
    assert.deepEqual(calls(script), ["write a"]);
    assert.throws(() => script.store({ cache: true }), /"cache" is not the same/);
    for (const one of [store, other, same]) await one.close();
    assert.equal(script.calls.at(-1), "close");
  });

  it("need leases", async () => {
    const script = new Script();
    const without = { leases: "the server is too old" };
    assert.throws(() => script.store({ cache: true }, without), /TypeError.*too old/);
    const open = ({ leasing }: { leasing: boolean }) => {
      if (leasing) throw new Error("no permission");
      return { keys: 1, bytes: 1 };
    };
    await using store = script.store({ cache: true }, { handle: {}, open });
    const why =
      /^StoreError: Cannot read session "a": the option "cache" needs a lease: no permission/;
    await assert.rejects(script.clock.run(store.get("a")), why);
    script.before = (call) => {
      if (call.startsWith("claim")) throw new Error("no permission");
    };
    await using reader = script.store({ cache: true });
    await assert.rejects(script.clock.run(reader.get("a")), why);
  });

  it("refuse options that cannot work, and the key of the lease", async () => {
    const script = new Script();
    for (const name of ["age", "entries", "bytes"]) {
      for (const value of [0, -1, NaN, Infinity, 1.5]) {
        assert.throws(() => script.store({ cache: { [name]: value } }), RangeError);
      }
      assert.throws(() => script.store({ cache: { [name]: "1" } as never }), TypeError);
    }
    assert.throws(() => script.store({ cache: { size: 1 } as never }), /unknown option "size"/);
    assert.throws(() => script.store({ cache: [] as never }), TypeError);
    await using off = script.store({ cache: false });
    await assert.rejects(off.set(lease, 1), RangeError);
  });
});

describe("a cache with encrypt, codec, version or debug", () => {
  const [key1, key2] = keys as [string, string];
  /** The header of a stored session, which names its version and its key. */
  const header = (script: Script, key: string) => /^~[^:]*:/.exec(valueOf(script.data, key))?.[0];

  for (const who of ["its own", "another process's"]) {
    it(`goes on after ${who} rotate(), and stores nothing in the old form`, async () => {
      const [script, other] = twoScripts();
      const encrypt = { keys: [key2, key1] };
      for (const key of ["a", "b", "c"]) {
        await store(script.data, key, { count: 1 }, { encrypt: { keys: [key1] } }, "");
      }
      await store(script.data, "new", { count: 1 }, { encrypt }, "");
      const bot = await cached(script, { encrypt });
      const [first, second] = [(await bot.get("a"))!, (await bot.get("b"))!];
      await using plain: Store<Session> = other.store({ encrypt });
      assert.equal(await script.clock.run((who === "its own" ? bot : plain).rotate()), 3);
      calls(script);
      assert.deepEqual(await bot.get("a"), { count: 1 });
      assert.deepEqual(calls(script), []);
      await bot.set("a", first);
      await bot.set("b", { ...second, count: 2 });
      calls(script);
      for (const key of ["a", "b"]) await bot.set(key, (await bot.get(key))!);
      assert.deepEqual(calls(script), []);
      for (const key of ["a", "b", "c"]) {
        assert.equal(header(script, key), header(script, "new"));
      }
      await script.clock.run(bot.close());
      const newest = { encrypt: { keys: [key2], required: true } };
      assert.deepEqual(await load(script.data, "a", newest, ""), { count: 1 });
      assert.deepEqual(await load(script.data, "b", newest, ""), { count: 2 });
    });
  }

  it("stores a migrated session in its new form once, also if only its version is new", async () => {
    const script = new Script();
    for (const count of [0, 5]) {
      script.sessions.set(`${count}`, { key: `${count}`, value: `{"count":${count}}` });
    }
    const migrate = { 1: (session: Session) => void (session.count ||= 1) };
    await using bot = await cached(script, { version: 1, migrate });
    for (const [key, count] of [["0", 1], ["5", 5]] as const) {
      for (let i = 0; i < 2; i++) assert.deepEqual(await bot.get(key), { count });
      assert.deepEqual(calls(script), [`read ${key}`]);
      for (let i = 0; i < 3; i++) await bot.set(key, (await bot.get(key))!);
      assert.deepEqual(calls(script), [`write ${key}`]);
      assert.match(valueOf(script.data, key), new RegExp(`^~[^:]*:{"count":${count}}$`));
      assert.deepEqual(await bot.get(key), { count });
    }
  });

  it("keeps its own copy of the bytes of a codec", async () => {
    const script = new Script();
    const memory = Buffer.alloc(1); // the codec uses it again and again
    const codec = {
      encode: ({ bytes }: { bytes: Uint8Array }) => {
        memory[0] = bytes[0]!;
        return memory;
      },
      decode: (bytes: Uint8Array) => ({ bytes }),
    };
    const bot = await cached(script, { codec }) as Store<unknown> as Store<{ bytes: Uint8Array }>;
    for (const i of [1, 2]) await bot.set(`${i}`, { bytes: new Uint8Array([i]) });
    for (let i = 0; i < 2; i++) {
      const { bytes } = (await bot.get("1"))!;
      assert.equal(bytes[0], 1);
      bytes[0] = 9;
    }
    assert.deepEqual(calls(script), ["write 1", "write 2"]);
    await script.clock.run(bot.close());
  });

  it("does not hide a session that changes after it was stored", async () => {
    const script = new Script();
    const reports: unknown[] = [];
    const onError = (error: unknown) => reports.push(error);
    await using bot = await cached(script, { debug: true, onError });
    const session = { count: 1 };
    await bot.set("a", session);
    await script.clock.advance(50);
    session.count++;
    await script.clock.advance(200);
    assert.deepEqual(await bot.get("a"), { count: 1 });
    await settle();
    assert.match(`${reports}`, /^LateChangeError: Cannot write session "a": .*count changed /);
    assert.deepEqual(calls(script), ["write a"]);
  });
});

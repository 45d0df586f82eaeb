/** Leases, on the contract below the store. Lengths are either far longer than a test, or 1 ms. */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import type { Backend, Claimed, Held, Leases, Refusal, Settlement } from "../backend.ts";
import { assertLists, fromAsync, type Harness, openBackend, retry, type Test } from "./harness.ts";

const long = 600_000;
const { signal } = new AbortController();

/** A backend that is open for leases, with its methods for short tests. */
class Holder implements AsyncDisposable {
  // deno-lint-ignore no-explicit-any
  readonly backend: Backend<any>;
  // deno-lint-ignore no-explicit-any
  readonly leases: Leases<any>;

  // deno-lint-ignore no-explicit-any
  private constructor(backend: Backend<any>) {
    this.backend = backend;
    assert.equal(typeof backend.leases, "object");
    // deno-lint-ignore no-explicit-any
    this.leases = backend.leases as Leases<any>;
  }

  static async open(harness: Harness, where: string, expiring = false): Promise<Holder> {
    return new Holder(await openBackend(harness, where, { expiring, leasing: true }));
  }

  async claim(token: string, length: number, ...keys: string[]): Promise<Claimed<unknown>[]> {
    const claims = keys.map((key) => ({ key, token, length }));
    const claimed = await retry(this.backend, () => this.leases.claim(claims, signal));
    assert.deepEqual(claimed.map(({ key }) => key).sort(), [...keys].sort());
    return claimed.sort((a, b) => keys.indexOf(a.key) - keys.indexOf(b.key));
  }

  /** Claims one key; returns the token of its lease and the session. */
  async claimed(token: string, key = "k", length = long): Promise<[string, unknown?]> {
    const [{ token: holder, entry }] = await this.claim(token, length, key) as [Claimed<unknown>];
    return entry === undefined
      ? [holder]
      : [holder, this.backend.codec.decode(entry.value, entry.key)];
  }

  async settle(...settlements: Settlement<unknown>[]): Promise<Refusal[]> {
    const settle = () => this.leases.settle(settlements, signal);
    return (await retry(this.backend, settle)).sort((a, b) => a.key < b.key ? -1 : 1);
  }

  /** Settles one key: writes a session, deletes it with `null`, or leaves it with `undefined`. */
  settled(token: string, session: unknown, length = 0, key = "k"): Promise<Refusal[]> {
    return this.settle({ key, token, length, change: this.change(key, session) });
  }

  change(key: string, session: unknown) {
    return session == null
      ? session as null | undefined
      : { key, value: this.backend.codec.encode(session) };
  }

  /** The leases that are held, by key. */
  all(): Promise<Map<string, Held>> {
    return retry(this.backend, () => heldLeases(this.leases));
  }

  /** The keys of the leases that are held, with their tokens. */
  async held(): Promise<string[]> {
    return [...(await this.all()).values()].map(({ key, token }) => `${key} ${token}`).sort();
  }

  /** The leases on some keys that are held, in the order of the keys. */
  async find(...keys: string[]): Promise<Held[]> {
    const found = await retry(this.backend, () => this.leases.find(keys, signal));
    return [...found].sort((a, b) => keys.indexOf(a.key) - keys.indexOf(b.key));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend.close();
  }
}

/** All leases that are held, by key. */
export async function heldLeases(leases: Leases<unknown>): Promise<Map<string, Held>> {
  const all = new Map<string, Held>();
  let start: string | undefined;
  do {
    const page = await leases.held(start, 100, signal);
    for (const lease of page.leases) all.set(lease.key, lease);
    start = page.next;
  } while (start !== undefined);
  return all;
}

export function leases(define: Test, harness: Harness): void {
  const skip = harness.noLeases;
  const test: Test = (title, body) => define(title, body, { skip: skip || harness.noBackend });
  const open = (where: string) => Holder.open(harness, where);

  define("the first updates are in the order of their calls", async (_, where) => {
    await using store = harness.store(where);
    await store.ready();
    const order: number[] = [];
    const updates: Promise<unknown>[] = [];
    for (let i = 0; i < 30; i++) {
      updates.push(store.update("k", () => void order.push(i)));
      if (i % 3 === 0) await undefined;
      if (i === 20) await updates[0];
    }
    await Promise.all(updates);
    assert.deepEqual(order, updates.map((_, i) => i));
  }, { skip });

  test("a claim returns the session, and a settlement stores another", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    assert.deepEqual(await holder.claimed("t1"), ["t1", { a: 1 }]);
    assert.deepEqual(await holder.settled("t1", { a: 2 }), []);
    assert.deepEqual(await store.get("k"), { a: 2 });
    assert.deepEqual(await holder.claimed("t2"), ["t2", { a: 2 }]);
  });

  test("a lease on a missing session is no session", async (store, where) => {
    await using holder = await open(where);
    assert.deepEqual(await holder.claimed("t1"), ["t1"]);
    await using other = harness.store(where);
    for (const each of [store, other]) {
      assert.equal(await each.get("k"), undefined);
      assert.equal(await each.has("k"), false);
      assert.deepEqual(await fromAsync(each.keys()), []);
      assert.deepEqual(await fromAsync(each.entries()), []);
      assert.equal(await each.size(), 0);
    }
    assert.deepEqual(await holder.settled("t1", { a: 1 }), []);
    assert.deepEqual(await store.get("k"), { a: 1 });
    await assertLists(store, ["k"]);
  });

  test("a note stays beside the session, also without one", async (store, where) => {
    await using holder = await open(where);
    const claim = async (token: string) => {
      const claim = () =>
        holder.leases.claim([{ key: "k", token, length: long, noted: true }], signal);
      const [{ token: granted, entry, note }] = await retry(holder.backend, claim) as [
        Claimed<unknown>,
      ];
      assert.equal(granted, token);
      return [
        entry === undefined ? undefined : holder.backend.codec.decode(entry.value, entry.key),
        note,
      ];
    };
    const settle = (token: string, session: unknown, note?: string, absent = false) =>
      holder.settle({
        key: "k",
        token,
        length: 0,
        change: holder.change("k", session),
        note,
        absent,
      });
    assert.deepEqual(await claim("t1"), [undefined, undefined]);
    assert.deepEqual(await settle("t1", { a: 1 }, "one"), []);
    assert.deepEqual(await claim("t2"), [{ a: 1 }, "one"]);
    assert.deepEqual(await settle("t2", { a: 2 }), []);
    assert.deepEqual(await holder.claimed("t3"), ["t3", { a: 2 }]);
    assert.deepEqual(await settle("t3", undefined, "one two"), []);
    assert.deepEqual(await claim("t4"), [{ a: 2 }, "one two"]);
    await store.set("k", { a: 3 });
    assert.deepEqual(await settle("t4", null, "x".repeat(1_200)), []);
    assert.equal(await store.get("k"), undefined);
    assert.deepEqual(await fromAsync(store.keys()), []);
    assert.deepEqual(await claim("t5"), [undefined, "x".repeat(1_200)]);
    assert.deepEqual(await settle("t5", undefined, undefined, true), []);
    assert.deepEqual(await claim("t6"), [undefined, "x".repeat(1_200)]);
    assert.deepEqual(await settle("t6", { a: 4 }), []);
    assert.deepEqual(await claim("t7"), [{ a: 4 }, "x".repeat(1_200)]);
    assert.deepEqual(await settle("t7", null), []);
    assert.deepEqual(await claim("t8"), [undefined, "x".repeat(1_200)]);
    assert.deepEqual(await settle("other", { a: 5 }, "other"), [{ key: "k", token: "t8" }]);
    assert.deepEqual(await settle("t8", undefined), []);
    assert.deepEqual(await claim("t9"), [undefined, "x".repeat(1_200)]);
    assert.deepEqual(await settle("t9", undefined), []);
    assert.equal(await store.size(), 0);
  });

  test("a lease that is held is granted to no other claim", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await using other = await open(where);
    await holder.claimed("t1");
    assert.deepEqual(await other.claimed("t2"), ["t1"]);
    assert.deepEqual(await holder.claimed("t2"), ["t1"]);
    assert.deepEqual(await holder.settled("t1", { a: 2 }), []);
    assert.deepEqual(await other.claimed("t2"), ["t2", { a: 2 }]);
  });

  test("a refused claim extends no lease", async (_store, where) => {
    await using holder = await open(where);
    const keys = ["k", "l"];
    await holder.claim("t1", 60_000, ...keys);
    await holder.claim("t2", long, "k");
    await holder.claim("t2", long, ...keys);
    assert.deepEqual(await holder.held(), ["k t1", "l t1"]);
    for (const { left } of (await holder.all()).values()) {
      assert.ok(left > 0 && left <= 60_000, `${left}`);
    }
  });

  test("a claim and a settlement that are repeated do no harm", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    for (let i = 0; i < 3; i++) assert.deepEqual(await holder.claimed("t1"), ["t1", { a: 1 }]);
    for (let i = 0; i < 3; i++) assert.deepEqual(await holder.settled("t1", { a: 2 }, long), []);
    for (let i = 0; i < 3; i++) assert.deepEqual(await holder.settled("t1", { a: 3 }), []);
    assert.deepEqual(await store.get("k"), { a: 3 });
    await holder.claimed("t2");
    for (let i = 0; i < 3; i++) assert.deepEqual(await holder.settled("t2", null), []);
    assert.equal(await store.get("k"), undefined);
  });

  test("a settlement with another token changes nothing", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await holder.claimed("t1");
    for (const change of [{ a: 2 }, null, undefined]) {
      for (const length of [0, long]) {
        assert.deepEqual(await holder.settled("t2", change, length), [{ key: "k", token: "t1" }]);
      }
    }
    assert.deepEqual(await store.get("k"), { a: 1 });
    assert.deepEqual(await holder.held(), ["k t1"]);
    assert.deepEqual(await holder.settled("t1", { a: 3 }), []);
    const [refusal] = await holder.settled("t2", { a: 4 });
    assert.equal(refusal?.key, "k");
    assert.deepEqual(await store.get("k"), { a: 3 });
    const [unknown] = await holder.settled("t1", { a: 5 }, 0, "never claimed");
    assert.deepEqual(unknown, { key: "never claimed", token: undefined });
    assert.equal(await store.get("never claimed"), undefined);
  });

  test(
    "a lease that has expired goes to the next claim, and its holder is refused",
    async (store, where) => {
      await store.set("k", { a: 1 });
      await using holder = await open(where);
      await using other = await open(where);
      await holder.claimed("t1", "k", 1);
      await holder.claimed("t1", "missing", 1);
      await wait(5);
      assert.deepEqual(await holder.held(), []);
      assert.deepEqual(await other.claimed("t2"), ["t2", { a: 1 }]);
      assert.deepEqual(await other.claimed("t2", "missing"), ["t2"]);
      assert.deepEqual(await holder.settled("t1", { a: 2 }), [{ key: "k", token: "t2" }]);
      assert.deepEqual(await holder.settled("t1", null), [{ key: "k", token: "t2" }]);
      assert.deepEqual(await holder.settled("t1", null, 0, "missing"), [
        { key: "missing", token: "t2" },
      ]);
      assert.deepEqual(await other.settled("t2", { a: 3 }), []);
      assert.deepEqual(await store.get("k"), { a: 3 });
    },
  );

  test("a lease that has expired is still good if nobody has taken it", async (store, where) => {
    await using holder = await open(where);
    for (const [key, session] of [["k", { a: 1 }], ["missing", undefined]] as const) {
      if (session) await store.set(key, session);
      await holder.claimed("t1", key, 1);
      await wait(5);
      assert.deepEqual(await holder.settled("t1", { a: 2 }, 0, key), []);
      assert.deepEqual(await store.get(key), { a: 2 });
    }
  });

  test("a renewal keeps the lease and the session", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await holder.claimed("t1", "k", 1);
    await holder.claimed("t1", "missing", 1);
    for (const key of ["k", "missing"]) {
      assert.deepEqual(await holder.settled("t1", undefined, long, key), []);
    }
    await wait(5);
    assert.deepEqual(await holder.claimed("t2"), ["t1"]);
    assert.deepEqual(await holder.claimed("t2", "missing"), ["t1"]);
    assert.deepEqual(await store.get("k"), { a: 1 });
    await assertLists(store, ["k"]);
  });

  test("a release keeps the session, and lets others in", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await holder.claimed("t1");
    assert.deepEqual(await holder.settled("t1", undefined), []);
    assert.deepEqual(await holder.held(), []);
    assert.deepEqual(await holder.claimed("t2"), ["t2", { a: 1 }]);
  });

  test("a session that a holder deletes is gone while the lease goes on", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await holder.claimed("t1");
    assert.deepEqual(await holder.settled("t1", null, long), []);
    assert.equal(await store.get("k"), undefined);
    assert.equal(await store.size(), 0);
    assert.deepEqual(await holder.claimed("t2"), ["t1"]);
    assert.deepEqual(await holder.settled("t1", { a: 2 }, long), []);
    assert.deepEqual(await store.get("k"), { a: 2 });
    assert.deepEqual(await holder.settled("t1", null), []);
    assert.equal(await store.get("k"), undefined);
    assert.deepEqual(await holder.held(), []);
    assert.deepEqual(await holder.claimed("t2"), ["t2"]);
  });

  test("claims and settles many keys at the same time", async (store, where) => {
    const keys = Array.from({ length: 20 }, (_, i) => `k${i}`);
    await using holder = await open(where);
    await using other = await open(where);
    await Promise.all(keys.map((key, i) => i % 4 !== 0 ? store.set(key, { i }) : undefined));
    await other.claim("other", long, ...keys.filter((_, i) => i % 5 === 0));
    const claimed = await holder.claim("t1", long, ...keys);
    claimed.forEach(({ token, entry }, i) => {
      assert.equal(token, i % 5 === 0 ? "other" : "t1");
      assert.equal(entry !== undefined, i % 5 !== 0 && i % 4 !== 0);
      if (entry) assert.deepEqual(holder.backend.codec.decode(entry.value, entry.key), { i });
    });
    // Writes, deletions, renewals and releases, of which some are refused.
    const changes = [{ a: 1 }, null, undefined, { a: 2 }];
    const refused = await holder.settle(...keys.map((key, i) => ({
      key,
      token: "t1",
      length: i % 3 === 0 ? long : 0,
      change: holder.change(key, changes[i % 4]),
    })));
    const expected = keys.filter((_, i) => i % 5 === 0).sort();
    assert.deepEqual(refused, expected.map((key) => ({ key, token: "other" })));
    for (const [i, key] of keys.entries()) {
      const before = i % 4 !== 0 ? { i } : undefined;
      const change = changes[i % 4];
      const after = i % 5 === 0 || change === undefined ? before : change ?? undefined;
      assert.deepEqual(await store.get(key), after, key);
    }
    const kept = keys.flatMap((key, i) =>
      i % 5 === 0 ? `${key} other` : i % 3 === 0 ? `${key} t1` : []
    );
    assert.deepEqual(await holder.held(), kept.sort());
  });

  test("a lease is found by its key only while it is held", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await using other = await open(where);
    for (const key of ["k", "missing"]) {
      assert.deepEqual(await other.find(key), []);
      await holder.claim("t1", 60_000, key);
      const [found, ...others] = await other.find(key);
      assert.deepEqual([found?.key, found?.token, others], [key, "t1", []]);
      assert.ok(found!.left > 0 && found!.left <= 60_000, `${found!.left}`);
      assert.deepEqual(await holder.settled("t1", undefined, long, key), []);
      const [renewed] = await other.find(key);
      assert.ok(renewed!.left > 60_000 && renewed!.left <= long, `${renewed!.left}`);
      assert.deepEqual(await holder.settled("t1", { a: 2 }, 0, key), []);
      assert.deepEqual(await other.find(key), []);
      await holder.claim("t2", 1, key);
      await wait(5);
      assert.deepEqual(await other.find(key), []);
    }
  });

  test("of several keys those are found whose leases are held", async (store, where) => {
    const keys = [...Array.from({ length: 20 }, (_, i) => `k${i}`), "ключ 🔑", "K1", "{a}b"];
    await store.set("k1", { a: 1 });
    await store.set("never claimed", { a: 1 });
    await using holder = await open(where);
    await holder.claim("t1", long, ...keys);
    await holder.claim("t1", long, "not asked for");
    const released = keys.filter((_, i) => i % 3 === 0);
    const release = { token: "t1", length: 0, change: undefined };
    assert.deepEqual(await holder.settle(...released.map((key) => ({ ...release, key }))), []);
    const found = await holder.find("never claimed", ...keys, "missing");
    const expected = keys.filter((_, i) => i % 3 !== 0);
    assert.deepEqual(found.map(({ key }) => key), expected);
    assert.ok(found.every(({ token, left }) => token === "t1" && left > 0 && left <= long));
    assert.deepEqual((await holder.find("K1", "k1")).map(({ key }) => key), ["k1"]);
  });

  test("to look for a lease changes nothing", async (store, where) => {
    await store.set("k", { a: 1 });
    await using holder = await open(where);
    await using other = await open(where);
    for (let i = 0; i < 3; i++) assert.deepEqual(await other.find("k", "missing"), []);
    await assertLists(store, ["k"]);
    assert.deepEqual(await holder.claimed("t1"), ["t1", { a: 1 }]);
    assert.deepEqual(await holder.claimed("t1", "missing", 1), ["t1"]);
    await wait(5);
    for (let i = 0; i < 3; i++) {
      assert.deepEqual((await other.find("k", "missing")).map(({ key }) => key), ["k"]);
    }
    assert.deepEqual(await other.claimed("t2"), ["t1"]);
    assert.deepEqual(await holder.settled("t1", undefined, 0, "missing"), []);
    assert.deepEqual(await other.claimed("t2", "missing"), ["t2"]);
    assert.deepEqual(await holder.settled("t1", { a: 2 }), []);
    await assertLists(store, ["k"]);
    assert.deepEqual(await other.claimed("t2"), ["t2", { a: 2 }]);
  });

  test("many processes that claim one key: one gets it", async (_store, where) => {
    const holders = await Promise.all(Array.from({ length: 8 }, () => open(where)));
    try {
      for (let round = 0; round < 5; round++) {
        const key = round % 2 === 0 ? "k" : `new ${round}`;
        const results = await Promise.all(holders.map((holder, i) => holder.claimed(`t${i}`, key)));
        const granted = results.flatMap(([token], i) => token === `t${i}` ? i : []);
        assert.equal(granted.length, 1);
        const [winner] = granted as [number];
        for (const [token] of results) assert.equal(token, `t${winner}`);
        assert.deepEqual(await holders[winner]!.settled(`t${winner}`, { round }, 0, key), []);
      }
    } finally {
      for (const holder of holders) await holder.backend.close();
    }
  });

  test("a claim that waited for a settlement sees the settled session", async (store, where) => {
    await store.set("k", { count: 0 });
    const holders = await Promise.all(Array.from({ length: 4 }, () => open(where)));
    try {
      await Promise.all(holders.map(async (holder, i) => {
        for (let n = 0; n < 10;) {
          const token = `t${i}-${n}`;
          const [held, session] = await holder.claimed(token);
          if (held !== token) continue;
          const { count } = session as { count: number };
          assert.deepEqual(await holder.settled(token, { count: count + 1 }), []);
          n++;
        }
      }));
      assert.deepEqual(await store.get("k"), { count: 40 });
    } finally {
      for (const holder of holders) await holder.backend.close();
    }
  });

  test(
    "a claim writes and reads everything that a session or a key can be",
    async (store, where) => {
      await using holder = await open(where);
      const keys = ["-100:1", "k ", "K", "ключ 🔑", "it's", 'say "hi"', "{a}b", "new\nline"];
      const token = "~".repeat(255);
      await holder.claim(token, long, ...keys);
      const session = { text: "🔑 'é' \"\\ \0", list: [1, null, true] };
      for (const key of keys) {
        assert.deepEqual(await holder.settled(token, { ...session, key }, long, key), []);
      }
      for (const { key, entry } of await holder.claim(token, long, ...keys)) {
        assert.deepEqual(holder.backend.codec.decode(entry!.value, key), { ...session, key });
        assert.deepEqual(await store.get(key), { ...session, key });
      }
      assert.deepEqual(await holder.held(), keys.map((key) => `${key} ${token}`).sort());
    },
  );

  test("large sessions are settled completely, alone and in a batch", async (store, where) => {
    await using other = harness.store(where);
    const text = (i: number) => "🔑é".repeat(12_000 * (i + 1)) + i;
    for (const keys of [["k"], ["k", "l", "m", "n"]]) {
      await Promise.all(keys.map((key, i) => store.update(key, () => ({ text: text(i) }))));
      const read = await Promise.all(keys.map((key) => other.get(key)));
      assert.deepEqual(read.map(({ text }) => text.length), keys.map((_, i) => text(i).length));
      assert.deepEqual(read, keys.map((_, i) => ({ text: text(i) })));
      for (const key of keys) await other.update(key, ({ text }) => ({ text: text.slice(2) }));
      assert.deepEqual(await store.get("k"), { text: text(0).slice(2) });
    }
  });

  test(
    "writes and deletions without a lease take effect while another holds it",
    async (store, where) => {
      await store.set("k", { a: 1 });
      await using holder = await open(where);
      await holder.claimed("t1");
      await store.set("k", { a: 2 });
      await Promise.all([store.set("k", { a: 3 }), store.set("other", { a: 3 })]);
      assert.deepEqual(await store.get("k"), { a: 3 });
      assert.deepEqual(await holder.claimed("t2"), ["t1"]);
      assert.deepEqual(await holder.settled("t1", { a: 4 }), []);
      assert.deepEqual(await store.get("k"), { a: 4 });
      await holder.claimed("t3");
      await store.delete("k");
      assert.equal(await store.get("k"), undefined);
      // A deletion may end the lease. In either case the holder's session is not half there.
      const refused = await holder.settled("t3", { a: 5 });
      assert.deepEqual(await store.get("k"), refused.length === 0 ? { a: 5 } : undefined);
    },
  );

  test(
    "expiry is stored under a lease, and prune() spares what is leased",
    async (_store, where) => {
      await using store = harness.store(where, { ttl: 3_600_000 });
      await using holder = await Holder.open(harness, where, true);
      const value = holder.backend.codec.encode({ a: 1 });
      await holder.claim("t1", long, "k", "expired", "leased");
      const date = Date.now();
      const entries = [
        { key: "k", value, expires: date + 3_600_000 },
        { key: "expired", value, expires: date - 10 },
        { key: "leased", value, expires: date - 10 },
      ];
      const settlements = entries.map((change) => ({
        key: change.key,
        token: "t1",
        length: change.key === "leased" ? long : 0,
        change,
      }));
      assert.deepEqual(await holder.settle(...settlements), []);
      await wait(5); // Redis keeps an expired session for 1 ms
      assert.deepEqual(await store.get("k"), { a: 1 });
      assert.equal(await store.get("expired"), undefined);
      assert.equal(await store.get("leased"), undefined);
      const [claimed] = await holder.claim("t2", 1, "k") as [Claimed<unknown>];
      assert.ok(Math.abs(claimed.entry!.expires! - entries[0]!.expires) < 60_000);
      assert.equal(await store.prune(), harness.prunes ? 1 : 0);
      assert.deepEqual(await holder.settled("t1", { a: 2 }, 0, "leased"), []);
      assert.deepEqual(await store.get("leased"), { a: 2 });
    },
  );
}

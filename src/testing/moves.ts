/** Moving a session to another key. */

import assert from "node:assert/strict";
import type { Store } from "../store/store.ts";
import {
  awkwardKeys,
  fromAsync,
  type Harness,
  keysOf,
  openBackend,
  retry,
  type Test,
} from "./harness.ts";

/** The sessions. Redis may return a key twice. */
const entriesOf = async <Session>(store: Store<Session>) => [
  ...new Map(await fromAsync(store.entries())),
];

export function moves(test: Test, harness: Harness): void {
  const skip = harness.noLeases;

  test("move() gives a session another key", async (store, where) => {
    const session = { text: "🔑 é", list: [1, { a: null }] };
    await store.set("old", session);
    assert.equal(await store.move("old", "new"), true);
    await using other = harness.store(where);
    for (const each of [store, other]) {
      assert.equal(await each.get("old"), undefined);
      assert.deepEqual(await each.get("new"), session);
      assert.deepEqual(await keysOf(each), ["new"]);
    }
    assert.equal(await store.move("old", "new"), false);
    assert.equal(await store.move("old", "other"), false);
    assert.deepEqual(await other.get("new"), session);
    assert.equal(await other.move("new", "old"), true);
    assert.deepEqual(await entriesOf(store), [["old", session]]);
  });

  test("move() does not overwrite a session unless it is told to", async (store) => {
    await store.set("old", { a: 1 });
    await store.set("new", { a: 2 });
    for (const options of [undefined, {}, { overwrite: false }, { overwrite: undefined }]) {
      await assert.rejects(store.move("old", "new", options), {
        name: "StoreError",
        operation: "write",
        key: "new",
        message: /the session of "old" cannot be moved there because there is another one/,
      });
    }
    assert.deepEqual(await store.get("old"), { a: 1 });
    assert.deepEqual(await store.get("new"), { a: 2 });
    assert.equal(await store.move("missing", "new", { overwrite: true }), false);
    assert.deepEqual(await store.get("new"), { a: 2 });
    assert.equal(await store.move("old", "new", { overwrite: true }), true);
    assert.deepEqual(await entriesOf(store), [["new", { a: 1 }]]);
  });

  test("move() takes any keys, and refuses invalid ones and other options", async (store) => {
    await store.set(awkwardKeys[0]!, { a: 1 });
    for (const [i, key] of awkwardKeys.slice(1).entries()) {
      assert.equal(await store.move(awkwardKeys[i]!, key), true, key);
    }
    assert.deepEqual(await keysOf(store), [awkwardKeys.at(-1)]);
    assert.equal(await store.move(awkwardKeys.at(-1)!, 42 as unknown as string), true);
    assert.deepEqual(await store.get("42"), { a: 1 });
    for (const [from, to] of [["", "k"], ["k", ""], ["a\0b", "k"], ["k", "k".repeat(513)]]) {
      await assert.rejects(store.move(from!, to!), RangeError);
    }
    await assert.rejects(store.move("42", "42"), {
      name: "RangeError",
      message: 'move(): both keys are "42"',
    });
    await assert.rejects(store.move("42", undefined as unknown as string), TypeError);
    await assert.rejects(store.move("42", "k", { overwite: true } as object), {
      name: "TypeError",
      message: 'move(): unknown option "overwite"; did you mean "overwrite"?',
    });
    await assert.rejects(store.move("42", "k", { overwrite: 1 } as object), TypeError);
    assert.deepEqual(await keysOf(store), ["42"]);
  });

  test("move() comes after the calls that began before it", async (store, where) => {
    for (let i = 0; i < 10; i++) {
      const [from, to] = i % 2 === 0 ? ["old", "new"] : ["new", "old"];
      const pending = [store.set(from!, { i }), store.set(to!, { i: -1 }), store.delete(to!)];
      assert.equal(await store.move(from!, to!), true);
      await Promise.all(pending);
      await using other = harness.store(where);
      assert.deepEqual(await other.get(to!), { i });
      assert.equal(await other.get(from!), undefined);
    }
  });

  test("move() keeps the expiry", async (store, where) => {
    const ttl = 3_600_000;
    await using expiring = harness.store(where, { ttl });
    for (const key of ["old", "old too"]) await expiring.set(key, { a: 1 });
    await store.set("forever", { a: 2 });
    assert.equal(await expiring.move("old", "new"), true);
    assert.equal(await expiring.move("forever", "ever"), true);
    assert.equal(await store.move("old too", "new too"), true); // this store has no ttl
    const backend = await openBackend(harness, where, { expiring: true, leasing: false });
    const { signal } = new AbortController();
    const entries = await retry(backend, () => backend.read(["new", "ever", "new too"], signal));
    const expires = Object.fromEntries(entries.map(({ key, expires }) => [key, expires]));
    await backend.close();
    assert.equal(expires.ever, undefined);
    for (const key of ["new", "new too"]) {
      const left = expires[key]! - Date.now();
      assert.ok(left > ttl / 2 && left < ttl * 1.5, `${key}: ${left}`);
    }
  }, { skip: harness.noBackend });

  test("of several moves of a session in two processes one succeeds", async (store, where) => {
    await using other = harness.store(where);
    for (let i = 0; i < 5; i++) {
      await store.set(`old:${i}`, { i });
      const move = (by: typeof store) => by.move(`old:${i}`, `new:${i}`);
      const results = await Promise.all([store, other, store, other].map(move));
      assert.deepEqual(results.sort(), [false, false, false, true]);
      assert.deepEqual(await other.get(`new:${i}`), { i });
      assert.equal(await other.get(`old:${i}`), undefined);
    }
  }, { skip });

  test(
    "moves in opposite directions in two processes do not wait for each other",
    async (store, where) => {
      await using other = harness.store(where);
      await store.set("a", { n: 1 });
      for (let i = 0; i < 5; i++) {
        const results = await Promise.all([
          ...[store, other].map((by) => by.move("a", "b", { wait: 600_000 })),
          ...[store, other].map((by) => by.move("b", "a", { wait: 600_000 })),
        ]);
        assert.ok(results.some((moved) => moved));
        const entries = await entriesOf(store);
        assert.equal(entries.length, 1);
        assert.deepEqual(entries[0]![1], { n: 1 });
        if (entries[0]![0] === "b") await store.move("b", "a");
      }
    },
    { skip },
  );

  test("move() loses no change of update() in two processes", async (store, where) => {
    await using other = harness.store(where);
    const updates = 20;
    const add = (session: { n: number } | undefined) => ({ n: (session?.n ?? 0) + 1 });
    const wait = 600_000;
    const counting = [store, other].map(async (each) => {
      for (let i = 0; i < updates; i++) await each.update("k", add, { wait });
    });
    const moving = [store, other].map(async (each, at) => {
      for (let i = 0; i < 5; i++) await each.move("k", `k:${at}:${i}`, { wait });
    });
    await Promise.all([...counting, ...moving]);
    let sum = 0;
    for (const [, session] of await entriesOf(store)) sum += session.n;
    assert.equal(sum, 2 * updates);
  }, { skip });

  test("an update() that waits for move() gets what was moved", async (store, where) => {
    const add = (session: { n: number } | undefined) => ({ n: (session?.n ?? 0) + 1 });
    await store.update("other", add);
    await store.set("old", { n: 5 });
    const moved = store.move("old", "new");
    const updates = [store.update("new", add), store.update("new", add)];
    assert.equal(await moved, true);
    await Promise.all(updates);
    await using other = harness.store(where);
    assert.deepEqual(await other.get("new"), { n: 7 });
    assert.equal(await other.get("old"), undefined);
  }, { skip });

  test("move() is refused to an update that has one of the sessions", async (store) => {
    await store.set("k", { a: 1 });
    await store.update("k", async () => {
      await assert.rejects(store.move("k", "other"), { name: "LeaseError", key: "k" });
      await assert.rejects(store.move("other", "k"), { name: "LeaseError", key: "k" });
    });
    assert.deepEqual(await entriesOf(store), [["k", { a: 1 }]]);
  }, { skip });
}

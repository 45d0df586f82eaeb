/** The order of operations on one key. */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import type { Harness, Test } from "./harness.ts";

export function order(test: Test, harness: Harness): void {
  test("operations on one key take effect in call order", async (store, where) => {
    const pending = [
      store.set("k", 1),
      store.get("k"),
      store.set("k", 2),
      store.get("k"),
      store.delete("k"),
      store.get("k"),
      store.set("k", 3),
      store.get("k"),
    ];
    const results = await Promise.all(pending);
    assert.deepEqual(results.filter((_, i) => i % 2 === 1), [1, 2, undefined, 3]);
    await using other = harness.store(where);
    assert.equal(await other.get("k"), 3);
  });

  test("get() before an unawaited set() returns the old session", async (store) => {
    for (let i = 1; i <= 20; i++) {
      await store.set("k", i);
      const before = store.get("k");
      const write = store.set("k", -i);
      assert.equal(await before, i);
      await write;
      assert.equal(await store.get("k"), -i);
    }
  });

  test("the last of many unawaited set() calls wins", async (store, where) => {
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 200; i++) {
      writes.push(store.set("k", { i }));
      if (i % 20 === 0) await wait(1);
      assert.deepEqual(await store.get("k"), { i });
    }
    await Promise.all(writes);
    await using other = harness.store(where);
    assert.deepEqual(await other.get("k"), { i: 199 });
  });

  test("set() stores the session as it is at the time of the call", async (store, where) => {
    const session = { list: [1] };
    const write = store.set("k", session);
    session.list.push(2);
    const { list } = await store.get("k");
    list.push(3);
    await write;
    assert.deepEqual(await store.get("k"), { list: [1] });
    await using other = harness.store(where);
    assert.deepEqual(await other.get("k"), { list: [1] });
  }, { changesLate: true });

  test("each get() returns its own copy", async (store) => {
    await store.set("k", { list: [1] });
    const [a, b] = await Promise.all([store.get("k"), store.get("k")]);
    a.list.push(2);
    assert.deepEqual(b, { list: [1] });
    assert.deepEqual(await store.get("k"), { list: [1] });
  });

  test("an unchanged session is written if this store has changed it in the meantime", async (store) => {
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    await store.delete("k");
    await store.set("k", session);
    assert.deepEqual(await store.get("k"), { a: 1 });
  });
}

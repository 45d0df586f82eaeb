/** Expiry and pruning. */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import { assertLists, type Harness, type Test } from "./harness.ts";

export function expiry(test: Test, harness: Harness): void {
  test("a session expires after its ttl, unless an update reads it", async (_store, where) => {
    await using longer = harness.store(where, { ttl: 3_600_000 });
    await using forever = harness.store(where);
    await Promise.all([longer.ready(), forever.ready()]);
    // The database's clock decides, so the waits are real. A machine that was too slow gets more time.
    for (let ttl = 4_000, slow = true; slow; ttl *= 2) {
      await using store = harness.store(where, { ttl });
      await store.ready();
      const started = Date.now();
      await Promise.all([store.set("left", { a: 1 }), store.set("read", { a: 1 })]);
      const left = await store.get("left");
      await longer.set("read", await longer.get("read"));
      slow = Date.now() - started > ttl / 2;
      if (!slow) assert.deepEqual(left, { a: 1 });
    }
    await forever.set("forever", { a: 1 });
    await using store = harness.store(where, { ttl: 4_000 });
    while (await store.get("left") !== undefined) await wait(50);
    for (const each of [store, longer, forever]) {
      assert.equal(await each.get("left"), undefined);
      assert.equal(await each.has("left"), false);
      assert.deepEqual(await each.get("read"), { a: 1 });
      await assertLists(each, ["forever", "read"]);
    }
    await longer.set("left", { a: 2 });
    assert.deepEqual(await longer.get("left"), { a: 2 });
  });

  test("a session stored without ttl never expires", async (_store, where) => {
    await using store = harness.store(where, { ttl: 400 });
    await using forever = harness.store(where);
    await store.set("k", { a: 1 });
    await forever.set("k", { a: 2 });
    await wait(500);
    assert.deepEqual(await store.get("k"), { a: 2 });
  });

  test("prune() deletes the expired sessions and no others", async (_store, where) => {
    await using store = harness.store(where, { ttl: 1, pruneInterval: 0 });
    await using forever = harness.store(where);
    const length = harness.supports.manySessions === false ? 600 : 1200;
    const keys = Array.from({ length }, (_, i) => `chat:${i}`);
    await Promise.all(keys.map((key) => store.set(key, { key })));
    await forever.set("forever", { a: 1 });
    await wait(20);
    assert.equal(await store.prune(), harness.prunes ? keys.length : 0);
    assert.equal(await store.prune(), 0);
    await assertLists(forever, ["forever"]);
  });

  if (harness.prunes) {
    test("expired sessions are pruned every pruneInterval", async (_store, where) => {
      await using store = harness.store(where, { ttl: 1, pruneInterval: 20 });
      await using other = harness.store(where, { pruneInterval: 0 });
      // The number of sessions that another store still has to prune, after increasing waits.
      const left: number[] = [];
      for (let ms = 50; ms < 20_000 && left.at(-1) !== 0; ms *= 2) {
        await Promise.all(["a", "b", "c"].map((key) => store.set(key, { a: 1 })));
        await wait(ms);
        left.push(await other.prune());
      }
      assert.equal(left.at(-1), 0, left.join());
    });
  }
}

/** Listing and clearing. */

import assert from "node:assert/strict";
import { assertLists, awkwardKeys, type Harness, type Test } from "./harness.ts";

export function listing(test: Test, harness: Harness): void {
  test("has() returns whether the session exists", async (store) => {
    await store.set("k", { a: 1 });
    assert.equal(await store.has("k"), true);
    assert.equal(await store.has("other"), false);
    await store.delete("k");
    assert.equal(await store.has("k"), false);
  });

  test(
    "keys(), entries(), size() and clear() only affect the store's own sessions",
    async (store, where) => {
      const neighbours = [
        `${where}2`,
        `${where}%`,
        where.slice(0, -1) + "*",
        where.slice(0, -1) + "_",
      ];
      const others = neighbours.map((name) => harness.store(name));
      try {
        await Promise.all(others.map((other) => other.set("theirs", { a: 1 })));
        assert.equal(await store.size(), 0);
        await store.clear();
        const length = harness.supports.manySessions === false ? 200 : 700;
        const keys = [...Array.from({ length }, (_, i) => `chat:${i}`), ...awkwardKeys].sort();
        await Promise.all(keys.map((key) => store.set(key, { key })));
        await assertLists(store, keys);
        for await (const [key, session] of store.entries()) assert.equal(session.key, key);
        void store.set("pending", { a: 1 });
        await store.clear();
        assert.equal(await store.size(), 0);
        assert.equal(await store.get("pending"), undefined);
        for (const other of others) await assertLists(other, ["theirs"]);
      } finally {
        await Promise.all(others.map((other) => other.close()));
        await Promise.all(neighbours.map((name) => harness.drop(name)));
      }
    },
  );
}

/** Keys. */

import assert from "node:assert/strict";
import { awkwardKeys, type Harness, newPlace, type Test } from "./harness.ts";

export function keys(test: Test, harness: Harness): void {
  test("converts a numeric key to text", async (store) => {
    await store.set(42 as unknown as string, { a: 1 });
    assert.deepEqual(await store.get("42"), { a: 1 });
  });

  test("distinguishes keys byte by byte", async (store, where) => {
    assert.equal(new Set(awkwardKeys).size, awkwardKeys.length);
    await Promise.all(awkwardKeys.map((key) => store.set(key, { key })));
    await using other = harness.store(where);
    for (const key of awkwardKeys) assert.deepEqual(await other.get(key), { key });
    const together = await Promise.all(awkwardKeys.map((key) => other.get(key)));
    assert.deepEqual(together, awkwardKeys.map((key) => ({ key })));
    for (const key of awkwardKeys) {
      await other.delete(key);
      assert.equal(await other.get(key), undefined);
    }
  });

  test("accepts keys of up to 512 bytes and rejects longer ones", async (store, where) => {
    const longest = ["k".repeat(512), "é".repeat(256), "🔑".repeat(128)];
    for (const key of longest) {
      await store.set(key, { key });
      await using other = harness.store(where);
      assert.deepEqual(await other.get(key), { key });
      const other511 = key.slice(0, -2);
      assert.equal(await other.get(other511), undefined);
      await assert.rejects(store.get(key + "k"), RangeError);
      await assert.rejects(store.set(key + "k", {}), RangeError);
      await assert.rejects(store.delete(key + "k"), RangeError);
    }
  });

  test("rejects an invalid key before any I/O", async (store) => {
    await store.close(); // a key that passes the check would cause a ClosedError
    await assert.rejects(store.get(""), RangeError);
    await assert.rejects(store.get("a\0b"), RangeError);
    await assert.rejects(store.get("\ud800"), RangeError);
    for (const key of [undefined, null, {}, { $ne: null }, [], true, Symbol("k")]) {
      await assert.rejects(store.get(key as string), TypeError);
      await assert.rejects(store.set(key as string, {}), TypeError);
      await assert.rejects(store.delete(key as string), TypeError);
    }
  });

  test("stores on different places do not share sessions", async (store) => {
    const where = newPlace();
    const other = harness.store(where);
    try {
      await store.set("k", { a: 1 });
      await other.set("k", { a: 2 });
      await store.delete("k");
      assert.equal(await store.get("k"), undefined);
      assert.deepEqual(await other.get("k"), { a: 2 });
    } finally {
      await other.close();
      await harness.drop(where);
    }
  });
}

/** Opening, health, closing and options. */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import type { StoreOptions } from "../options.ts";
import type { Harness, Test } from "./harness.ts";

export function lifecycle(test: Test, harness: Harness): void {
  test("health() measures the response time", async (store) => {
    let health = await store.health();
    // A client that was passed in may still be connecting.
    while (!health.ok) {
      await wait(10);
      health = await store.health();
    }
    assert.ok(health.latency >= 0 && health.latency < 10_000);
    await store.close();
    const closed = await store.health();
    assert.ok(!closed.ok);
    assert.equal(closed.error.name, "ClosedError");
  });

  test("close() waits for operations in progress", async (store, where) => {
    const writes = Array.from({ length: 50 }, (_, i) => store.set(`chat:${i}`, { i }));
    const read = store.get("chat:0");
    await store.close();
    await Promise.all(writes);
    assert.deepEqual(await read, { i: 0 });
    await using other = harness.store(where);
    assert.deepEqual(await other.get("chat:49"), { i: 49 });
  });

  test("close() may be called twice, and later operations are rejected", async (store) => {
    await store.set("k", { a: 1 });
    await Promise.all([store.close(), store.close()]);
    await store.close();
    for (const operation of [store.get("k"), store.set("k", {}), store.delete("k")]) {
      await assert.rejects(operation, { name: "ClosedError", key: "k" });
    }
    await assert.rejects(store.ready(), { name: "ClosedError" });
  });

  test("close() of an unused store succeeds", async (store) => {
    await store.close();
  });

  test("ready() opens the store, and may be called repeatedly", async (store) => {
    await Promise.all([store.ready(), store.ready()]);
    await store.ready();
    assert.equal(await store.get("k"), undefined);
  });

  test("rejects unknown options and invalid values", () => {
    const bad = (options: unknown) => () => harness.store("x", options as StoreOptions);
    assert.throws(bad({ tiemout: 5 }), /TypeError: \w+: unknown option "tiemout"/);
    assert.throws(bad({ timeout: "5" }), TypeError);
    for (const timeout of [0, -1, NaN, 1.5, Infinity, 2 ** 31]) {
      assert.throws(bad({ timeout }), RangeError);
    }
    for (const ttl of [0, -1, NaN, Infinity, 1e13]) assert.throws(bad({ ttl }), RangeError);
    assert.throws(bad({ pruneInterval: -1 }), RangeError);
    assert.throws(bad({ onCorrupt: "ignore" }), RangeError);
    assert.throws(bad({ onError: 5 }), TypeError);
    return Promise.resolve();
  });
}

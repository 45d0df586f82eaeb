/** Many sessions at the same time. */

import assert from "node:assert/strict";
import { type Harness, large, sized, type Test } from "./harness.ts";

export function batches(test: Test, harness: Harness): void {
  test("a session that cannot be encoded fails alone", async (store) => {
    await store.set("k", { a: 1 });
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    const throws = {
      get field() {
        throw new Error("not today");
      },
    };
    for (const session of [circular, throws, () => {}, Symbol("s")]) {
      await assert.rejects(store.set("k", session), { name: "EncodeError", key: "k" });
    }
    assert.deepEqual(await store.get("k"), { a: 1 });
    await store.set("k", { a: 2 });
    assert.deepEqual(await store.get("k"), { a: 2 });
  });

  test("a throwing toJSON or toBSON fails alone", async (store) => {
    const fail = () => {
      throw new Error("not today");
    };
    await assert.rejects(store.set("k", { toJSON: fail, toBSON: fail }), {
      name: "EncodeError",
    });
    assert.equal(await store.get("k"), undefined);
  });

  test("100 sessions are stored, read and deleted at the same time", async (store, where) => {
    const keys = Array.from({ length: 100 }, (_, i) => `chat:${i}`);
    await Promise.all(keys.map((key, i) => store.set(key, { i })));
    await using other = harness.store(where);
    assert.deepEqual(
      await Promise.all(keys.map((key) => other.get(key))),
      keys.map((_, i) => ({ i })),
    );
    await Promise.all(keys.map((key) => other.delete(key)));
    assert.deepEqual(
      await Promise.all(keys.map((key) => store.get(key))),
      keys.map(() => undefined),
    );
  });

  test("one invalid session in a batch of 100 fails alone", async (store, where) => {
    const keys = Array.from({ length: 100 }, (_, i) => `chat:${i}`);
    const bad = { bad: 1n, toBSON: () => Symbol("bad") };
    const results = await Promise.allSettled(
      keys.map((key, i) => store.set(key, i === 50 ? bad : { i })),
    );
    assert.deepEqual(results.flatMap(({ status }, i) => status === "rejected" ? [i] : []), [50]);
    await using other = harness.store(where);
    const read = await Promise.all(keys.map((key) => other.get(key)));
    assert.deepEqual(read, keys.map((_, i) => i === 50 ? undefined : { i }));
  });

  test("more sessions than fit in one batch, some of them large", async (store, where) => {
    const sessions = Array.from(
      { length: harness.supports.manySessions === false ? 150 : 300 },
      (_, i) => i % 50 === 0 ? large(harness) : sized(300),
    );
    await Promise.all(sessions.map((session, i) => store.set(`chat:${i}`, session)));
    await using other = harness.store(where);
    const read = await Promise.all(sessions.map((_, i) => other.get(`chat:${i}`)));
    assert.deepEqual(read, sessions);
  });
}

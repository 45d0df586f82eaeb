/** Listing and clearing the sessions whose keys begin with a prefix. */

import assert from "node:assert/strict";
import {
  assertLists,
  awkwardKeys,
  fromAsync,
  type Harness,
  keysOf,
  openBackend,
  retry,
  type Test,
} from "./harness.ts";

/** Prefixes that a pattern, a collation or a range may take for others. */
const awkwardPrefixes = [
  ...awkwardKeys,
  "123",
  "123:",
  "-100",
  "a",
  "A",
  "a%",
  "a_",
  "%",
  "_",
  "*",
  "?",
  "[",
  "]",
  "[a-z]",
  "[^a]",
  "{",
  "\\",
  "\\\\",
  "'",
  "''",
  '"',
  "`",
  "^a",
  "a$",
  ".",
  "\u0001",
  "\u007f",
  "é",
  "\ud7ff",
  "\ue000",
  "\uffff",
  "🔑🔑",
  "\u{10000}",
  "\u{10ffff}",
  "\u{10ffff}\u{10ffff}",
];

/** The longest prefix that a key can have, and a shorter one. */
const longest = ["🔑".repeat(128), "🔑".repeat(127)];

/** The same prefixes as keys, and keys that begin with them. */
const keys = [...new Set([...awkwardPrefixes, "b", "B"])]
  .flatMap((key) => [key, `${key}0`, `${key}\u{10ffff}`, `${key}\uffff`])
  .concat(longest);
const all = [...new Set(keys)].sort();

export function prefixes(test: Test, harness: Harness): void {
  test("finds the keys with a prefix byte by byte", async (store) => {
    await Promise.all(all.map((key) => store.set(key, { key })));
    for (const prefix of [...awkwardPrefixes, ...longest, "no key has it", ""]) {
      const wanted = all.filter((key) => key.startsWith(prefix));
      assert.deepEqual(await keysOf(store, { prefix }), wanted, prefix);
    }
    assert.deepEqual(await keysOf(store, { prefix: undefined }), all);
    const entries = new Map(await fromAsync(store.entries({ prefix: "a" })));
    assert.deepEqual([...entries.keys()].sort(), all.filter((key) => key.startsWith("a")));
    for (const [key, session] of entries) assert.deepEqual(session, { key });
    await assertLists(store, all.filter((key) => /^1/.test(key)), { prefix: "1" });
  });

  test("clear() with a prefix deletes only the sessions with it", async (store) => {
    let left = all;
    await Promise.all(left.map((key) => store.set(key, { key })));
    const every = awkwardPrefixes.length / (harness.supports.manySessions === false ? 5 : 20);
    for (let i = 0; i < awkwardPrefixes.length; i += Math.ceil(every)) {
      const prefix = awkwardPrefixes[i]!;
      await store.clear({ prefix });
      left = left.filter((key) => !key.startsWith(prefix));
      assert.deepEqual(await keysOf(store, { prefix: "" }), left, prefix);
    }
  });

  test("a prefix may have more sessions than a page", async (store, where) => {
    const count = harness.supports.manySessions === false ? 140 : 400;
    const own = Array.from({ length: count }, (_, i) => `77:${i}`).sort();
    const others = ["7:77", "76:9", "77", "77;", "770:1", "78:1", "77 :1", "x77:1"].sort();
    await Promise.all([...own, ...others].map((key) => store.set(key, { key })));
    await using other = harness.store(where);
    const prefix = "77:";
    for (const each of [store, other]) {
      assert.deepEqual(await keysOf(each, { prefix }), own);
      const entries = new Map(await fromAsync(each.entries({ prefix })));
      assert.deepEqual([...entries.keys()].sort(), own);
      assert.deepEqual(entries.get(own[0]!), { key: own[0] });
    }
    await other.clear({ prefix });
    assert.equal(await store.size({ prefix }), 0);
    assert.deepEqual(await keysOf(store, { prefix: "" }), others);
  });

  test("page() with a prefix reads hardly any other entries", async (store, where) => {
    const own = Array.from({ length: 25 }, (_, i) => `77:${i}`);
    const others = Array.from({ length: 150 }, (_, i) => [`7:${i}`, `78:${i}`]).flat();
    await Promise.all([...own, ...others].map((key) => store.set(key, { key })));
    const backend = await openBackend(harness, where, { expiring: false, leasing: false });
    const { signal } = new AbortController();
    const found: string[] = [];
    let start: string | undefined;
    do {
      const { entries, next } = await retry(backend, () => backend.page(start, 10, signal, "77:"));
      found.push(...entries.map(({ key }) => key));
      start = next;
    } while (start !== undefined);
    await backend.close();
    assert.deepEqual(own.filter((key) => !found.includes(key)), []);
    assert.ok(found.length <= own.length + 10, `${found.length} entries`);
  }, { skip: harness.noBackend });

  test(
    "clear() with a prefix also deletes what is being written, and nothing else",
    async (store, where) => {
      await store.set("77:stored", { a: 1 });
      const pending = [store.set("77:new", { a: 2 }), store.set("770:new", { a: 3 })];
      await store.clear({ prefix: "77:" });
      await Promise.all(pending);
      await using other = harness.store(where);
      for (const each of [store, other]) {
        assert.equal(await each.get("77:stored"), undefined);
        assert.equal(await each.get("77:new"), undefined);
        assert.deepEqual(await each.get("770:new"), { a: 3 });
      }
    },
  );

  test("a prefix does not show leases and notes", async (store, where) => {
    await store.set("77:1", { a: 1 });
    await using other = harness.store(where);
    const ctx = { from: { id: 77 }, chat: { id: 2 }, state: {}, update: { update_id: 1 } };
    await other.exclusive({ once: true })(ctx, async () => {
      for (const prefix of ["77:", "7", ""]) {
        await assertLists(store, ["77:1"], { prefix });
      }
    });
    await store.clear({ prefix: "77:" });
    for (const prefix of ["77:", "7", ""]) assert.deepEqual(await keysOf(store, { prefix }), []);
  }, { skip: harness.noLeases });

  test("refuses an invalid prefix, and other options", async (store) => {
    await store.set("k", { a: 1 });
    const methods = {
      keys: (options: object) => fromAsync(store.keys(options)),
      entries: (options: object) => fromAsync(store.entries(options)),
      size: (options: object) => store.size(options),
      clear: (options: object) => store.clear(options),
    };
    for (const [name, method] of Object.entries(methods)) {
      for (const prefix of [123, null, true, {}, ["1"], /1/, Symbol("1")]) {
        await assert.rejects(method({ prefix }), {
          name: "TypeError",
          message: new RegExp(`^${name}\\(\\): option "prefix" must be a string `),
        });
      }
      for (const prefix of ["a\0", "\ud83d", "🔑".repeat(128) + "k"]) {
        await assert.rejects(method({ prefix }), {
          name: "RangeError",
          message: new RegExp(
            `^${name}\\(\\): option "prefix" must be a string of up to 512 bytes`,
          ),
        });
      }
      await assert.rejects(method({ prefx: "1" }), {
        name: "TypeError",
        message: `${name}(): unknown option "prefx"; did you mean "prefix"?`,
      });
      await assert.rejects(method("123:" as unknown as object), {
        name: "TypeError",
        message:
          `${name}(): options must be a plain object, but this is a string; pass it as { prefix }`,
      });
      await assert.rejects(method(null as unknown as object), TypeError);
    }
    assert.deepEqual(await keysOf(store, { prefix: "" }), ["k"]);
  });
}

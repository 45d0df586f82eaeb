/** Values that can be stored, and how they are read back. */

import assert from "node:assert/strict";
import { type Harness, sized, type Test } from "./harness.ts";

/** Sessions that must be read back unchanged. */
const sessions: Record<string, unknown> = {
  "false": false,
  "true": true,
  "zero": 0,
  "a fraction": 0.1,
  "a negative number": -1e21,
  "the largest safe integer": Number.MAX_SAFE_INTEGER,
  "empty text": "",
  "text": "text",
  "an empty array": [],
  "an empty object": {},
  "nested data": { a: [{ b: { c: [null, false, 0, "", [[]]] } }] },
  "null inside": { a: null, b: [null] },
  "U+0000": { text: "a\0b", "na\u0001me": "c" },
  "emoji and other planes": { "🔑": "👩‍👩‍👧‍👦 𝒳", text: "\u{10ffff}" },
  "quotes and backslashes": { text: `'"\`\\ \n\r\t\b %s ? $1 :name` },
  "line separators": { text: "\u2028\u2029\ufeff" },
  "__proto__ as a field": JSON.parse('{"__proto__": {"admin": true}, "a": 1}'),
  "constructor as a field": { constructor: 1, toString: "x", hasOwnProperty: null },
  "empty field names": { "": 1 },
  "dots in field names": { "a.b": { ".c": 1 } },
  "dollars in field names": { $set: { $a: 1 }, $where: "x" },
  "numbers as field names": { 1: "a", 0: "b" },
};

export function values(test: Test, harness: Harness): void {
  const { rejectedFields, dates = false, largest = Infinity } = harness.supports;

  test("get() of a missing key is undefined", async (store) => {
    assert.equal(await store.get("missing"), undefined);
  });

  test("get() returns what set() stored", async (store) => {
    await store.set("1:2", { count: 1 });
    assert.deepEqual(await store.get("1:2"), { count: 1 });
  });

  test("set() overwrites", async (store) => {
    await store.set("k", { a: 1, b: 1 });
    await store.set("k", { b: 2 });
    assert.deepEqual(await store.get("k"), { b: 2 });
  });

  test("delete() deletes a session, and a missing key is not an error", async (store) => {
    await store.set("k", { a: 1 });
    await store.delete("k");
    assert.equal(await store.get("k"), undefined);
    await store.delete("k");
  });

  test("set() of null or undefined deletes", async (store) => {
    for (const nothing of [null, undefined]) {
      await store.set("k", { a: 1 });
      await store.set("k", nothing);
      assert.equal(await store.get("k"), undefined);
    }
  });

  test("another store can read stored sessions", async (store, where) => {
    await store.set("k", { a: 1 });
    await store.set("gone", { a: 1 });
    await store.delete("gone");
    await using other = harness.store(where);
    assert.deepEqual(await other.get("k"), { a: 1 });
    assert.equal(await other.get("gone"), undefined);
  });

  for (const [what, value] of Object.entries(sessions)) {
    const refused = rejectedFields?.titles.test(what) && rejectedFields.reason;
    test(`keeps ${what}`, async (store, where) => {
      await store.set("k", value);
      assert.deepEqual(await store.get("k"), value);
      await using other = harness.store(where);
      const read = await other.get("k");
      assert.deepEqual(read, value);
      assert.equal(({} as { admin?: true }).admin, undefined);
    }, { skip: refused });
  }

  test("keeps or replaces lone surrogates, and changes nothing else", async (store, where) => {
    await store.set("k", { text: "a\ud800b", after: "c" });
    await using other = harness.store(where);
    const { text, after } = await other.get("k");
    assert.match(text, /^a[\ud800\ufffd]b$/);
    assert.equal(after, "c");
  });

  test("omits fields that are undefined, functions or symbols", async (store, where) => {
    const session = { a: 1, b: undefined, c() {}, d: Symbol("d"), e: [undefined] };
    await store.set("k", session);
    await using other = harness.store(where);
    assert.deepEqual(await store.get("k"), { a: 1, e: [null] });
    assert.deepEqual(await other.get("k"), { a: 1, e: [null] });
  });

  test(`keeps a Date as ${dates ? "a date" : "text"}`, async (store, where) => {
    const date = new Date(1e12);
    await store.set("k", { date });
    await using other = harness.store(where);
    const expected = dates ? date : date.toJSON();
    assert.deepEqual(await store.get("k"), { date: expected });
    assert.deepEqual(await other.get("k"), { date: expected });
  });

  for (const bytes of [1e3, 1e5, 1e6, 8e6]) {
    if (bytes > largest) continue;
    test(`keeps a session of ${bytes / 1e3} kB`, async (store, where) => {
      const session = sized(bytes);
      await store.set("large", session);
      await store.set("small", { a: 1 });
      await using other = harness.store(where);
      assert.deepEqual(await other.get("large"), session);
      assert.deepEqual(await other.get("small"), { a: 1 });
    });
  }

  test(
    "an unchanged session does not overwrite a change by another store",
    async (store, where) => {
      await using other = harness.store(where);
      await store.set("k", { a: 1 });
      const session = await store.get("k");
      await other.set("k", { a: 2 });
      await store.set("k", session);
      assert.deepEqual(await store.get("k"), { a: 2 });
    },
  );

  if (harness.corrupt !== undefined) {
    const { corrupt } = harness;
    test(
      "an invalid stored value is an error until it is replaced",
      async (store, where) => {
        await store.set("good", { a: 1 });
        await corrupt(where, "bad");
        const read = store.get("bad");
        const [good, error] = await Promise.all([
          store.get("good"),
          read.catch((error) => error),
        ]);
        assert.deepEqual(good, { a: 1 });
        assert.equal(error.name, "DecodeError");
        assert.equal(error.key, "bad");
        assert.match(error.message, /"bad"/);
        await assert.rejects(store.get("bad"), { name: "DecodeError" }); // it is still there
        await store.set("bad", { a: 2 });
        assert.deepEqual(await read, { a: 2 });
      },
    );
  }

  if (harness.corrupt !== undefined) {
    const { corrupt } = harness;
    test("onCorrupt discards or replaces an invalid stored value", async (store, where) => {
      await store.ready();
      await corrupt(where, "bad");
      await using discarding = harness.store(where, { onCorrupt: "discard" });
      assert.equal(await discarding.get("bad"), undefined);
      const reported: unknown[] = [];
      await using mending = harness.store(where, {
        onCorrupt: (value, key) => (reported.push(value, key), { mended: true }),
      });
      assert.deepEqual(await mending.get("bad"), { mended: true });
      assert.equal(typeof reported[0], "string");
      assert.equal(reported[1], "bad");
      await mending.set("bad", await mending.get("bad"));
      await using other = harness.store(where);
      assert.deepEqual(await other.get("bad"), { mended: true });
    });
  }
}

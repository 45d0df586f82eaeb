/** The suite that every store passes, on a real server of its backend. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { Store, StoreOptions } from "../../mod.ts";
import { place } from "../support/servers.ts";

/** What the suite needs to know of a backend. */
export interface Harness {
  /** The backend's name, as test titles begin with it. */
  readonly name: string;
  /**
   * A store with a connection of its own on the data of a place: a table, collection or prefix.
   * Two stores of one place share their data.
   */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /** Deletes the data of a place; missing data is no error. */
  drop(place: string): Promise<void>;
  /** What a `Date` in a session comes back as: text in JSON, a date in documents. */
  readonly dates: "text" | "date";
  /** Stores what is no session under the key, past the store; absent where nothing is undecodable. */
  corrupt?(place: string, key: string): Promise<void>;
  /** Whether expired sessions are deleted by `prune()`, and not by the database. */
  readonly prunes: boolean;
  /** Whether the server of this run looks through all sessions for each one: it gets fewer. */
  readonly scans?: boolean;
  /** Whether stores are made on clients that still connect: for that `health()` does not wait. */
  readonly connecting?: boolean;
  /** Field names that the server of this run refuses, with the reason. */
  readonly refused?: { readonly names: RegExp; readonly reason: string };
}

/** Keys that a database may be tempted to fold, trim, cut or interpret; all of them differ. */
const awkwardKeys = [
  "key",
  "Key",
  "KEY",
  "key ",
  " key",
  "key\t",
  "clé",
  "cle\u0301", // the same to the eye, other bytes
  "cle",
  "straße",
  "strasse",
  "ｋｅｙ",
  "ключ",
  "鍵",
  "🔑",
  "İ",
  "i",
  "1",
  "01",
  "1.0",
  "-100123:456",
  "it's",
  'say "hi"',
  "back`tick",
  "back\\slash",
  "100%",
  "10_0",
  "a*b",
  "a?b",
  "[ab]",
  "{a}b",
  "a:b",
  "a.b",
  "$where",
  "__proto__",
  "constructor",
  "new\nline",
  "'; DROP TABLE sessions; --",
  "null",
  "undefined",
];

/** Sessions that must come back as they were stored. */
const values: Record<string, unknown> = {
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

/** A session of about so many bytes, no two alike. */
function sized(bytes: number): { text: string; seed: number } {
  const seed = Math.random();
  return { text: `${seed} "quoted" é `.repeat(bytes / 30).slice(0, bytes), seed };
}

/** All that an iterable gives. */
async function fromAsync<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Runs the suite. */
export function conformance(harness: Harness): void {
  const { name } = harness;

  /** A test with a store on fresh data. */
  function test(
    title: string,
    // deno-lint-ignore no-explicit-any
    body: (store: Store<any>, where: string) => Promise<void>,
    options: { skip?: string | false } = {},
  ): void {
    it(`${name} ${title}`, options, async () => {
      const where = place();
      const store = harness.store(where);
      try {
        await body(store, where);
      } finally {
        await store.close();
        await harness.drop(where);
      }
    });
  }

  describe(`${name} conformance`, () => {
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

    test("delete() deletes, and a missing key is no error", async (store) => {
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

    test("stored sessions are there for another store", async (store, where) => {
      await store.set("k", { a: 1 });
      await store.set("gone", { a: 1 });
      await store.delete("gone");
      await using other = harness.store(where);
      assert.deepEqual(await other.get("k"), { a: 1 });
      assert.equal(await other.get("gone"), undefined);
    });

    test("keys given as numbers are their text", async (store) => {
      await store.set(42 as unknown as string, { a: 1 });
      assert.deepEqual(await store.get("42"), { a: 1 });
    });

    for (const [what, value] of Object.entries(values)) {
      const refused = harness.refused?.names.test(what) ? harness.refused.reason : false;
      test(`keeps ${what}`, async (store, where) => {
        await store.set("k", value);
        assert.deepEqual(await store.get("k"), value);
        await using other = harness.store(where);
        const read = await other.get("k");
        assert.deepEqual(read, value);
        assert.equal(({} as { admin?: true }).admin, undefined);
      }, { skip: refused });
    }

    test("keeps lone surrogates or replaces them, and nothing else", async (store, where) => {
      await store.set("k", { text: "a\ud800b", after: "c" });
      await using other = harness.store(where);
      const { text, after } = await other.get("k");
      assert.match(text, /^a[\ud800\ufffd]b$/);
      assert.equal(after, "c");
    });

    test("leaves out fields that are undefined, functions or symbols", async (store, where) => {
      const session = { a: 1, b: undefined, c() {}, d: Symbol("d"), e: [undefined] };
      await store.set("k", session);
      await using other = harness.store(where);
      assert.deepEqual(await store.get("k"), { a: 1, e: [null] });
      assert.deepEqual(await other.get("k"), { a: 1, e: [null] });
    });

    test(`keeps a Date as ${harness.dates}`, async (store, where) => {
      const date = new Date(1e12);
      await store.set("k", { date });
      await using other = harness.store(where);
      const expected = harness.dates === "date" ? date : date.toJSON();
      assert.deepEqual(await store.get("k"), { date: expected });
      assert.deepEqual(await other.get("k"), { date: expected });
    });

    for (const bytes of [1e3, 1e5, 1e6, 8e6]) {
      test(`keeps a session of ${bytes / 1e3} kB`, async (store, where) => {
        const session = sized(bytes);
        await store.set("large", session);
        await store.set("small", { a: 1 });
        await using other = harness.store(where);
        assert.deepEqual(await other.get("large"), session);
        assert.deepEqual(await other.get("small"), { a: 1 });
      });
    }

    test("tells keys apart byte by byte", async (store, where) => {
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

    test("takes keys of 512 bytes and refuses longer ones", async (store, where) => {
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

    test("refuses what is no key, before any I/O", async (store) => {
      await store.close(); // what gets past the check of the key would say that it is closed
      await assert.rejects(store.get(""), RangeError);
      await assert.rejects(store.get("a\0b"), RangeError);
      await assert.rejects(store.get("\ud800"), RangeError);
      for (const key of [undefined, null, {}, { $ne: null }, [], true, Symbol("k")]) {
        await assert.rejects(store.get(key as string), TypeError);
        await assert.rejects(store.set(key as string, {}), TypeError);
        await assert.rejects(store.delete(key as string), TypeError);
      }
    });

    test("stores side by side do not see each other", async (store) => {
      const where = place();
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

    test("of many unawaited set() calls the last wins", async (store, where) => {
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

    test("set() stores the session as it is at the call", async (store, where) => {
      const session = { list: [1] };
      const write = store.set("k", session);
      session.list.push(2);
      const { list } = await store.get("k");
      list.push(3);
      await write;
      assert.deepEqual(await store.get("k"), { list: [1] });
      await using other = harness.store(where);
      assert.deepEqual(await other.get("k"), { list: [1] });
    });

    test("each get() returns a copy of its own", async (store) => {
      await store.set("k", { list: [1] });
      const [a, b] = await Promise.all([store.get("k"), store.get("k")]);
      a.list.push(2);
      assert.deepEqual(b, { list: [1] });
      assert.deepEqual(await store.get("k"), { list: [1] });
    });

    test(
      "an unchanged session does not overwrite what another store wrote",
      async (store, where) => {
        await using other = harness.store(where);
        await store.set("k", { a: 1 });
        const session = await store.get("k");
        await other.set("k", { a: 2 });
        await store.set("k", session);
        assert.deepEqual(await store.get("k"), { a: 2 });
      },
    );

    test("an unchanged session is written where this store changed it meanwhile", async (store) => {
      await store.set("k", { a: 1 });
      const session = await store.get("k");
      await store.delete("k");
      await store.set("k", session);
      assert.deepEqual(await store.get("k"), { a: 1 });
    });

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

    test("100 sessions at once are stored, read and deleted", async (store, where) => {
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

    test("one bad session in a batch of 100 fails alone", async (store, where) => {
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

    test("more than a batch at once, large ones among them", async (store, where) => {
      const sessions = Array.from(
        { length: harness.scans ? 150 : 300 },
        (_, i) => sized(i % 50 === 0 ? 300_000 : 300),
      );
      await Promise.all(sessions.map((session, i) => store.set(`chat:${i}`, session)));
      await using other = harness.store(where);
      const read = await Promise.all(sessions.map((_, i) => other.get(`chat:${i}`)));
      assert.deepEqual(read, sessions);
    });

    if (harness.corrupt !== undefined) {
      const { corrupt } = harness;
      test(
        "a stored value that cannot be decoded is an error that passes",
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
      test("onCorrupt decides what becomes of what cannot be decoded", async (store, where) => {
        await store.ready();
        await corrupt(where, "bad");
        await using discarding = harness.store(where, { onCorrupt: "discard" });
        assert.equal(await discarding.get("bad"), undefined);
        const told: unknown[] = [];
        await using mending = harness.store(where, {
          onCorrupt: (value, key) => (told.push(value, key), { mended: true }),
        });
        assert.deepEqual(await mending.get("bad"), { mended: true });
        assert.equal(typeof told[0], "string");
        assert.equal(told[1], "bad");
        await mending.set("bad", await mending.get("bad"));
        await using other = harness.store(where);
        assert.deepEqual(await other.get("bad"), { mended: true });
      });
    }

    test("has() tells whether there is a session", async (store) => {
      await store.set("k", { a: 1 });
      assert.equal(await store.has("k"), true);
      assert.equal(await store.has("other"), false);
      await store.delete("k");
      assert.equal(await store.has("k"), false);
    });

    test(
      "keys(), entries(), size() and clear() are about the store's own sessions",
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
          const length = harness.scans ? 200 : 700;
          const keys = [...Array.from({ length }, (_, i) => `chat:${i}`), ...awkwardKeys].sort();
          await Promise.all(keys.map((key) => store.set(key, { key })));
          assert.deepEqual((await fromAsync(store.keys())).sort(), keys);
          const entries = await fromAsync(store.entries());
          assert.deepEqual(entries.map(([key]) => key).sort(), keys);
          assert.ok(entries.every(([key, session]) => session.key === key));
          assert.equal(await store.size(), keys.length);
          void store.set("pending", { a: 1 });
          await store.clear();
          assert.equal(await store.size(), 0);
          assert.equal(await store.get("pending"), undefined);
          for (const other of others) assert.deepEqual(await fromAsync(other.keys()), ["theirs"]);
        } finally {
          await Promise.all(others.map((other) => other.close()));
          await Promise.all(neighbours.map((name) => harness.drop(name)));
        }
      },
    );

    test("a session expires after its ttl, unless an update reads it", async (_store, where) => {
      await using store = harness.store(where, { ttl: 3000 });
      await using forever = harness.store(where);
      await Promise.all([store.set("left", { a: 1 }), store.set("read", { a: 1 })]);
      await forever.set("forever", { a: 1 });
      await wait(1500);
      await store.set("read", await store.get("read"));
      assert.deepEqual(await store.get("left"), { a: 1 });
      await wait(1900);
      for (const some of [store, forever]) {
        assert.equal(await some.get("left"), undefined);
        assert.equal(await some.has("left"), false);
        assert.deepEqual(await some.get("read"), { a: 1 });
        assert.deepEqual((await fromAsync(some.keys())).sort(), ["forever", "read"]);
        assert.equal((await fromAsync(some.entries())).length, 2);
        assert.equal(await some.size(), 2);
      }
      await store.set("left", { a: 2 });
      assert.deepEqual(await store.get("left"), { a: 2 });
    });

    test("a session that a store without ttl stores lives for ever", async (_store, where) => {
      await using store = harness.store(where, { ttl: 400 });
      await using forever = harness.store(where);
      await store.set("k", { a: 1 });
      await forever.set("k", { a: 2 });
      await wait(500);
      assert.deepEqual(await store.get("k"), { a: 2 });
    });

    test("prune() deletes what has expired, and nothing else", async (_store, where) => {
      await using store = harness.store(where, { ttl: 1, pruneInterval: 0 });
      await using forever = harness.store(where);
      const length = harness.scans ? 600 : 1200;
      const keys = Array.from({ length }, (_, i) => `chat:${i}`);
      await Promise.all(keys.map((key) => store.set(key, { key })));
      await forever.set("forever", { a: 1 });
      await wait(20);
      assert.equal(await store.prune(), harness.prunes ? keys.length : 0);
      assert.equal(await store.prune(), 0);
      assert.deepEqual(await fromAsync(forever.keys()), ["forever"]);
    });

    if (harness.prunes) {
      test("expired sessions are pruned every pruneInterval", async (_store, where) => {
        await using store = harness.store(where, { ttl: 1, pruneInterval: 20 });
        await using other = harness.store(where, { pruneInterval: 0 });
        await Promise.all(["a", "b", "c"].map((key) => store.set(key, { a: 1 })));
        await store.close();
        await using again = harness.store(where, { ttl: 1, pruneInterval: 20 });
        await again.get("a");
        for (let i = 0; i < 200 && await other.prune() > 0; i++) await wait(5);
        await wait(100);
        assert.equal(await other.prune(), 0);
      });
    }

    test("health() tells how long an answer takes", async (store) => {
      if (harness.connecting) await store.ready();
      const health = await store.health();
      assert.ok(health.ok);
      assert.ok(health.latency >= 0 && health.latency < 10_000);
      await store.close();
      const closed = await store.health();
      assert.ok(!closed.ok);
      assert.equal(closed.error.name, "ClosedError");
    });

    test("close() waits for what is under way", async (store, where) => {
      const writes = Array.from({ length: 50 }, (_, i) => store.set(`chat:${i}`, { i }));
      const read = store.get("chat:0");
      await store.close();
      await Promise.all(writes);
      assert.deepEqual(await read, { i: 0 });
      await using other = harness.store(where);
      assert.deepEqual(await other.get("chat:49"), { i: 49 });
    });

    test("close() twice is fine, and later operations are refused", async (store) => {
      await store.set("k", { a: 1 });
      await Promise.all([store.close(), store.close()]);
      await store.close();
      for (const operation of [store.get("k"), store.set("k", {}), store.delete("k")]) {
        await assert.rejects(operation, { name: "ClosedError", key: "k" });
      }
      await assert.rejects(store.ready(), { name: "ClosedError" });
    });

    test("close() of a store that was never used", async (store) => {
      await store.close();
    });

    test("ready() opens, as often as asked", async (store) => {
      await Promise.all([store.ready(), store.ready()]);
      await store.ready();
      assert.equal(await store.get("k"), undefined);
    });

    test("refuses unknown options and bad values", () => {
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
  });
}

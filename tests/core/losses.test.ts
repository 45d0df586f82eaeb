/** Reports about values that sessions lose when they are stored. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe, it } from "node:test";
import { runInNewContext } from "node:vm";
import { Long, ObjectId } from "mongodb";
import { Context } from "telegraf";
import { Memory, type Store } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { json } from "../../src/codec/json.ts";
import { document } from "../../src/codec/document.ts";
import { Losses } from "../../src/codec/losses.ts";
import { SQLite } from "../../sqlite.ts";
import { place, serverUrl } from "../support/servers.ts";

class Cart {
  items = 1;
}

/** The messages about sessions in a format, without the text that all of them share. */
function reports(codec: typeof json | typeof document, ...sessions: unknown[]): string[] {
  const found: string[] = [];
  const losses = new Losses(codec.storedAs!, (error) => found.push((error as Error).message));
  for (const session of sessions) losses.inspect(session);
  return found.map((message) =>
    message.replace(/^the session('s value at )?/, "").replace(" is stored as ", ": ")
  );
}

const values: [what: string, value: unknown, json: string | undefined, bson: string | undefined][] =
  [
    ["a Map", new Map([[1, 2]]), "an empty object", "a plain object"],
    ["a Set", new Set([1]), "an empty object", "an empty object"],
    ["a Date", new Date(0), "text", undefined],
    ["a RegExp", /x/, "an empty object", undefined],
    ["an Error", new TypeError("x"), "an empty object", "an empty object"],
    ["a Promise", Promise.resolve(1), "an empty object", "an empty object"],
    ["a Uint8Array", new Uint8Array(2), "a plain object", undefined],
    ["a Uint8Array", Buffer.from("x"), "a plain object", undefined],
    ["a Float64Array", new Float64Array(2), "a plain object", "a plain object"],
    ["a Uint8ClampedArray", new Uint8ClampedArray(2), "a plain object", "a plain object"],
    ["an ArrayBuffer", new ArrayBuffer(2), "an empty object", "an empty object"],
    ["a Map", runInNewContext("new Map()"), "an empty object", "a plain object"],
    ["NaN", NaN, "null", undefined],
    ["Infinity", Infinity, "null", undefined],
    ["-Infinity", -Infinity, "null", undefined],
    ["a function", () => {}, "nothing", "nothing"],
    ["a symbol", Symbol("x"), "nothing", "nothing"],
    ["an object of class Cart", new Cart(), "a plain object", "a plain object"],
    ["an object of class URL", new URL("http://a"), "what its toJSON() returns", "a plain object"],
    ["an object of class ObjectId", new ObjectId(), "what its toJSON() returns", undefined],
    [
      "a whole ctx",
      // deno-lint-ignore no-explicit-any
      new Context({} as any, {} as any, {} as any),
      "a plain object",
      "a plain object",
    ],
  ];

const plain = {
  text: "x",
  number: -0.5,
  yes: true,
  nothing: null,
  missing: undefined,
  list: [1, "a", null, { a: [] }],
  bare: Object.assign(Object.create(null), { a: 1 }),
  other: runInNewContext("({ a: [1, { b: 2 }] })"),
  converter: { toJSON: () => 1 },
};

describe("losses", () => {
  it("plain values lose nothing", () => {
    for (const codec of [json, document]) {
      assert.deepEqual(reports(codec, plain, [plain], "x", 1, true), []);
    }
  });

  it("each kind of value is reported with its path and its stored form", () => {
    for (const [what, value, ...fates] of values) {
      for (const [i, codec] of [json, document].entries()) {
        const storedAs = fates[i];
        const reported = storedAs === undefined ? [] : [`"a.b": ${storedAs} because it is ${what}`];
        assert.deepEqual(reports(codec, { a: { b: value } }), reported, `${what} ${i}`);
      }
    }
    assert.deepEqual(reports(document, { a: 1n }), [
      '"a": a number or a Long because it is a bigint',
    ]);
    assert.deepEqual(reports(document, { a: Long.ONE }), []);
    assert.deepEqual(reports(json, [undefined]), ['"[]": null because it is undefined']);
    assert.deepEqual(reports(json, new Cart()), [
      ": a plain object because it is an object of class Cart",
    ]);
  });

  it("each report matches the stored value", () => {
    for (const [what, value, ...fates] of values) {
      for (const [i, codec] of [json, document].entries()) {
        if (what === "a whole ctx") continue;
        // deno-lint-ignore no-explicit-any
        const { b } = codec.decode(codec.encode({ b: value }) as any, "k") as { b: unknown };
        const storedAs = fates[i];
        const prototype = typeof b === "object" && b !== null && Object.getPrototypeOf(b);
        if (storedAs === "nothing") assert.equal(b, undefined, what);
        else if (storedAs === "null") assert.equal(b, null, what);
        else if (storedAs === "text") assert.equal(typeof b, "string", what);
        else if (storedAs === "an empty object") assert.deepEqual(b, {}, what);
        else if (storedAs === "a plain object") assert.equal(prototype, Object.prototype, what);
        else if (storedAs === undefined) {
          assert.deepEqual(b, Buffer.isBuffer(b) ? Buffer.from(value as Buffer) : value);
        }
      }
    }
  });

  it("each kind and path is reported once", () => {
    const session = { a: new Map(), b: [new Set(), new Set(), new Map()], c: {} };
    const again = { ...session, c: new Map() };
    const reported = reports(json, session, session, session, again);
    assert.deepEqual(reported.map((it) => it.replace(/:.*a /, " ")), [
      '"a" Map',
      '"b[]" Set',
      '"b[]" Map',
      '"c" Map',
    ]);
  });

  it("users' names are not reported, and the number of reports is limited", () => {
    const byUser = { users: { "1234": new Map(), "Zoë": new Map(), "5678": new Map() } };
    assert.deepEqual(reports(json, byUser), [
      '"users.*": an empty object because it is a Map',
    ]);
    const many = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`a${i}`, new Map()]));
    assert.equal(reports(json, many, many).length, 20);
  });

  it("inspects the 1st, 2nd, 4th … and every 1024th session", () => {
    let looks = 0;
    const session = {
      get a() {
        looks++;
        return 1;
      },
    };
    const losses = new Losses(json.storedAs!, () => {});
    for (let i = 1; i <= 5000; i++) losses.inspect(session);
    assert.equal(looks, 13 + 1); // 1 … 4096, and 3072
  });

  it("inspects deep and circular sessions", () => {
    const circular: Record<string, unknown> = { map: new Map() };
    circular.self = [circular];
    assert.equal(reports(json, circular).length, 1);
    let deep: unknown = {};
    for (let i = 0; i < 100_000; i++) deep = [deep];
    assert.deepEqual(reports(json, deep), []);
  });

  it("a bigint that JSON rejects is reported with its path", () => {
    const message = 'the session\'s value at "a[].b" is a bigint, which JSON does not have';
    assert.throws(() => json.encode({ a: [{ b: 1n }] }), { name: "TypeError", message });
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    assert.throws(() => json.encode(circular), /circular|cyclic/i);
  });

  it("every store reports to onError, and still stores the session", async () => {
    const name = place();
    const stores: Record<string, (onError?: (error: unknown) => void) => Store<unknown>> = {
      Memory: (onError) => Memory({ onError }),
      Redis: (onError) => Redis({ url: serverUrl("redis"), prefix: `${name}:`, onError }),
      Mongo: (onError) => Mongo({ url: serverUrl("mongodb"), collection: name, onError }),
      SQLite: (onError) => SQLite({ filename: ":memory:", onError }),
      Postgres: (onError) => Postgres({ url: serverUrl("postgres"), table: name, onError }),
      MySQL: (onError) => MySQL({ url: serverUrl("mysql"), table: name, onError }),
    };
    for (const [kind, make] of Object.entries(stores)) {
      const reported: unknown[] = [];
      await using store = make((error) => reported.push(error));
      await store.set("k", { a: new Set([1]), b: 1 });
      assert.deepEqual(await store.get("k"), { a: {}, b: 1 });
      await store.clear();
      assert.deepEqual(reported.map(String), [
        `Error: the session's value at "a" is stored as an empty object because it is a Set`,
      ], kind);
      await using silent = make();
      await silent.set("k", { a: new Set() });
      await silent.clear();
    }
  });
});

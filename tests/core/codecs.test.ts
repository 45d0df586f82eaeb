/** The option `codec`, and what is stored by stores with other options. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createSecretKey } from "node:crypto";
import { describe, it } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import * as devalue from "devalue";
import { Packr } from "msgpackr";
import superjson from "superjson";
import { Memory, type SessionCodec } from "../../mod.ts";
import { MemoryData } from "../../src/memory.ts";
import { keys, load, put, store, storeOn, valueOf } from "../support/layers.ts";
import { Script } from "../support/scripted.ts";

const packr = new Packr({ structuredClone: true });

/** The codecs that docs/users.md shows. */
const codecs: Record<string, SessionCodec> = {
  superjson: { encode: superjson.stringify, decode: superjson.parse },
  devalue: { encode: devalue.stringify, decode: devalue.parse },
  msgpackr: { encode: (session) => packr.pack(session), decode: (bytes) => packr.unpack(bytes) },
  gzip: {
    encode: (session) => gzipSync(JSON.stringify(session)),
    decode: (bytes) => JSON.parse(String(gunzipSync(bytes))),
  },
};

const rich = {
  map: new Map([["a", 1]]),
  set: new Set([1, "b"]),
  date: new Date(1_700_000_000_000),
  big: 123456789012345678n,
  text: "é ~v1: \u2028",
  list: [{ a: 1 }],
};

describe("codec", () => {
  for (const [name, codec] of Object.entries(codecs)) {
    const session = name === "gzip" ? { list: [1, "é", null] } : rich;
    for (const encrypt of [undefined, { keys }]) {
      it(`${name} keeps a session${encrypt ? ", encrypted" : ""}`, async () => {
        const data = new MemoryData();
        await store(data, "1:1", session, { codec, encrypt });
        assert.match(valueOf(data, "1:1"), /^~(text|bytes)[:,]/);
        assert.deepEqual(await load(data, "1:1", { codec, encrypt }), session);
      });
    }
  }

  it("writes an unchanged session only once", async () => {
    for (const [name, codec] of Object.entries(codecs)) {
      const script = new Script();
      const it = script.store({ codec });
      await script.clock.run(it.set("1:1", { list: [1] }));
      for (let i = 0; i < 3; i++) {
        await script.clock.run(it.set("1:1", await script.clock.run(it.get("1:1"))));
      }
      assert.deepEqual(
        script.calls.filter((call) => call.startsWith("write")),
        ["write 1:1"],
        name,
      );
    }
  });

  it("reads JSON, and stores it in its own format with the update", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { a: 1 });
    await using it = storeOn(data, { codec: codecs.superjson });
    const session = await it.get("1:1");
    assert.deepEqual(session, { a: 1 });
    await it.set("1:1", session); // unchanged
    assert.match(valueOf(data, "1:1"), /^~text:/);
  });

  it("is not read without the option, and nothing changes", async () => {
    const data = new MemoryData();
    await store(data, "1:1", rich, { codec: codecs.devalue });
    const before = valueOf(data, "1:1");
    for (const options of [{}, { encrypt: { keys } }]) {
      await assert.rejects(load(data, "1:1", { ...options, onCorrupt: "discard" }), {
        name: "DecodeError",
        message: 'Cannot read session "1:1": it was stored with the option "codec", ' +
          "which this store does not have",
      });
    }
    assert.equal(valueOf(data, "1:1"), before);
  });

  it("gets nothing that another update changes, and its memory may be used again", async () => {
    const memory = Buffer.alloc(100);
    const codec: SessionCodec = {
      encode: (session) => memory.subarray(0, memory.write(JSON.stringify(session))),
      decode: (bytes) => ({ bytes }), // a session with a part of what is stored
    };
    const data = new MemoryData();
    await using it = storeOn(data, { codec });
    const writes = [it.set("1:1", { n: 1 }), it.set("2:2", { n: 2 })];
    memory.fill(0);
    await Promise.all(writes);
    const first = await it.get("1:1");
    assert.equal(String(first.bytes), '{"n":1}');
    first.bytes.fill(0);
    assert.equal(String((await it.get("1:1")).bytes), '{"n":1}');
  });

  it("may return a session that contains what is stored, and a change of it is stored", async () => {
    const codec: SessionCodec = { encode: ({ bytes }) => bytes, decode: (bytes) => ({ bytes }) };
    const data = new MemoryData();
    await store(data, "1:1", { bytes: Buffer.from("before") }, { codec });
    await using it = storeOn(data, { codec });
    const session = await it.get("1:1");
    session.bytes.write("after!");
    await it.set("1:1", session);
    assert.equal(String((await load(data, "1:1", { codec }) as typeof session).bytes), "after!");
  });

  it("that fails is an error, and nothing changes", async () => {
    const data = new MemoryData();
    const codec: SessionCodec = {
      encode(session) {
        if (session.bad) throw new Error("bad session");
        return session.later ? Promise.resolve("") as never : JSON.stringify(session);
      },
      decode: JSON.parse,
    };
    await using it = storeOn(data, { codec });
    await it.set("1:1", { a: 1 });
    await assert.rejects(it.set("1:1", { bad: true }), {
      name: "EncodeError",
      message: /bad session$/,
    });
    await assert.rejects(it.set("1:1", { later: true }), {
      name: "EncodeError",
      message: /option "codec" must encode to text or a Uint8Array, but made a promise$/,
    });
    assert.deepEqual(await it.get("1:1"), { a: 1 });
    const late: SessionCodec = {
      encode: ({ a }) => `${a.b}`, // needs more than an empty session
      decode: () => Promise.reject(new Error("unhandled")),
    };
    await assert.rejects(load(data, "1:1", { codec: late }), {
      name: "DecodeError",
      message: /option "codec" returned a promise$/,
    });
    put(data, "1:1", "~text:{");
    await assert.rejects(it.get("1:1"), { name: "DecodeError" });
  });

  const decode = JSON.parse;
  const cases: [unknown, string][] = [
    [
      superjson.stringify,
      'option "codec" must be an object with encode and decode, but is a function',
    ],
    [{ encode: JSON.stringify }, 'option "codec" must have the function decode'],
    [{ decode }, 'option "codec" must have the function encode'],
    [
      { encode: () => Promise.resolve(""), decode },
      "must encode to text or a Uint8Array, but made a promise",
    ],
    [{ encode: (it: unknown) => it, decode }, "Uint8Array, but made an object"],
    [{ encode: () => "", decode: () => Promise.resolve({}) }, "must decode without a promise"],
  ];
  for (const [codec, message] of cases) {
    it(`is refused: ${message}`, () => {
      assert.throws(() => Memory({ codec } as never), (error: Error) => {
        assert.equal(error.name, "TypeError");
        assert.ok(
          error.message.startsWith("Memory: ") && error.message.includes(message),
          error.message,
        );
        return true;
      });
    });
  }
});

describe("stores on one client", () => {
  it("must have the same options", () => {
    const script = new Script();
    script.store({ encrypt: { keys } });
    const other = createSecretKey(Buffer.alloc(32, 9));
    const different = [{}, { encrypt: { keys: [other] } }, { codec: codecs.gzip }];
    for (const options of different) {
      assert.throws(() => script.store(options), (error: Error) => {
        assert.match(
          error.message,
          /^option "(encrypt|codec)" is not the same as that of another store on the same data; use the same value for both$/,
        );
        return true;
      });
    }
    const same = keys.map((key) => createSecretKey(Buffer.from(key, "base64")));
    script.store({ encrypt: { keys: same } });
    const second = new Script();
    second.store({ encrypt: { keys: [same[0]!] } });
    assert.throws(() => second.store({ encrypt: { keys: [other] } }), TypeError);
  });
});

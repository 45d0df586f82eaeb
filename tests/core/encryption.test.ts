/** The option `encrypt`, and `rotate()`. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createSecretKey, generateKeyPairSync } from "node:crypto";
import { describe, it } from "node:test";
import { Binary, BSON } from "mongodb";
import { createStore } from "../../backend.ts";
import { Memory } from "../../mod.ts";
import type { Backend } from "../../src/backend.ts";
import { document } from "../../src/codec/document.ts";
import { memoryBackend, MemoryData } from "../../src/memory.ts";
import { documentPacking } from "../../src/mongodb/packing.ts";
import { makeStore } from "../../src/store/store.ts";
import { transformed } from "../../src/transform/backend.ts";
import { keys, load, put, store, storeOn, valueOf } from "../support/layers.ts";
import { requireVersion } from "../support/packages.ts";
import { Script } from "../support/scripted.ts";

const session = { name: "Ada", cart: ["tea"] };
const [key1, key2, key3] = keys as [string, string, string];
const encrypt = { keys: [key1] };
const refused = { name: "DecodeError" };

it("no call of the database has more keys than its limit", async () => {
  const memory = memoryBackend();
  const sizes: number[] = [];
  const counted = <Args extends unknown[], T>(call: (items: never[], ...args: Args) => T) => {
    return (items: unknown[], ...args: Args) => {
      sizes.push(items.length);
      return call(items as never[], ...args);
    };
  };
  const backend: Backend = {
    ...memory,
    open: () => ({ keys: 3, bytes: 1e6 }),
    read: counted(memory.read),
    write: counted(memory.write),
    replace: counted(memory.replace),
    remove: counted(memory.remove),
    renew: counted(memory.renew),
  };
  const open = (...keys: string[]) =>
    createStore<number>({ ...backend, handle: {} }, { encrypt: { keys }, ttl: 60_000 });
  await using old = open(key1);
  await old.ready();
  const all = Array.from({ length: 20 }, (_, i) => `${i}`);
  await Promise.all(all.map((key) => old.set(key, 1)));
  await Promise.all(all.map(async (key) => old.set(key, (await old.get(key))!)));
  await using store = open(key2, key1);
  assert.equal(await store.rotate(), 20);
  for await (const [, session] of store.entries()) assert.equal(session, 1);
  await store.clear();
  assert.equal(await store.size(), 0);
  assert.equal(Math.max(...sizes), 3);
  assert.ok(sizes.length > 5 * 20 / 3);
});

describe("encrypt", () => {
  it("stores nothing readable, and another process reads it", async () => {
    const data = new MemoryData();
    await store(data, "1:1", session, { encrypt });
    assert.match(valueOf(data, "1:1"), /^~k[\da-f]{8}:[\w+/]+=*$/);
    assert.ok(!Buffer.from(valueOf(data, "1:1").split(":")[1]!, "base64").includes("Ada"));
    assert.deepEqual(await load(data, "1:1", { encrypt }), session);
  });

  it("encrypts the same session differently each time, and writes an unchanged one only once", async () => {
    const script = new Script();
    const store = script.store({ encrypt });
    const values = new Set<string>();
    for (let i = 0; i < 3; i++) {
      await script.clock.run(store.set("1:1", { ...session }));
      values.add(valueOf(script.data, "1:1"));
    }
    assert.equal(values.size, 3);
    script.calls.length = 0;
    for (let i = 0; i < 3; i++) {
      await script.clock.run(store.set("1:1", await script.clock.run(store.get("1:1"))));
    }
    assert.deepEqual(script.calls, ["read 1:1", "read 1:1", "read 1:1"]);
  });

  it("reads sessions that are not encrypted, and encrypts them when an update stores them", async () => {
    const data = new MemoryData();
    await store(data, "1:1", session);
    await using other = storeOn(data, { encrypt });
    const found = await other.get("1:1");
    assert.deepEqual(found, session);
    await other.set("1:1", found); // unchanged
    assert.match(valueOf(data, "1:1"), /^~k/);
  });

  it("refuses them if it is required", async () => {
    const data = new MemoryData();
    await store(data, "1:1", session);
    const required = { encrypt: { ...encrypt, required: true } };
    await assert.rejects(load(data, "1:1", required), {
      ...refused,
      message: 'Cannot read session "1:1": the stored value cannot be decoded: it is not encrypted',
    });
    await store(data, "1:2", session, required);
    assert.deepEqual(await load(data, "1:2", required), session);
  });

  it("encrypts with the newest key, and decrypts with all of them", async () => {
    const data = new MemoryData();
    await store(data, "1:1", session, { encrypt });
    const newest = { encrypt: { keys: [key2, key1] } };
    await using other = storeOn(data, newest);
    const found = await other.get("1:1");
    assert.deepEqual(found, session);
    await other.set("1:1", found); // unchanged
    assert.deepEqual(await load(data, "1:1", { encrypt: { keys: [key2] } }), session);
  });

  it("refuses values of another version of MongoDB's driver, and stores the others", async () => {
    const { ObjectId } = requireVersion("mongodb", "5");
    const base = memoryBackend();
    const backend = {
      ...base,
      codec: document,
      packing: documentPacking({ BSON, Binary }),
    } as unknown as Backend<unknown>;
    await using it = makeStore<object, unknown>(transformed("Mongo", backend, { encrypt }));
    const [bad, good] = await Promise.allSettled([
      it.set("bad", { id: new ObjectId() }),
      it.set("good", { at: new Date(1) }),
    ]);
    assert.equal(good.status, "fulfilled");
    assert.equal(bad.status, "rejected");
    const { name, key, message } = (bad as PromiseRejectedResult).reason;
    assert.deepEqual([name, key], ["EncodeError", "bad"]);
    assert.match(message, /the session cannot be encoded: .*version/);
    assert.deepEqual(await it.get("good"), { at: new Date(1) });
    assert.equal(await it.get("bad"), undefined);
  });

  it("takes names and keys of any length", async () => {
    const data = new MemoryData();
    const [key, place] = ["鍵".repeat(170), "p".repeat(5_000)];
    await store(data, key, session, { encrypt }, place);
    assert.deepEqual(await load(data, key, { encrypt }, place), session);
    put(data, "k", valueOf(data, key));
    await assert.rejects(load(data, "k", { encrypt }, place), refused);
  });

  it("takes keys as KeyObject", async () => {
    const data = new MemoryData();
    const key = createSecretKey(Buffer.from(key1, "base64"));
    await store(data, "1:1", session, { encrypt: { keys: [key] } });
    assert.deepEqual(await load(data, "1:1", { encrypt }), session);
  });

  it("does not read what a key that it does not have has encrypted, and changes nothing", async () => {
    const data = new MemoryData();
    await store(data, "1:1", session, { encrypt });
    const before = valueOf(data, "1:1");
    for (const onCorrupt of ["throw", "discard"] as const) {
      const other = { encrypt: { keys: [key2, key3] }, onCorrupt };
      await assert.rejects(load(data, "1:1", other), (error: Error) => {
        assert.match(
          error.message,
          /^Cannot read session "1:1": it is encrypted with key \w{8}, and none of the keys in "encrypt" fits$/,
        );
        assert.equal(error.name, "DecodeError");
        for (const key of keys) assert.ok(!String(error.stack).includes(key));
        return true;
      });
    }
    await assert.rejects(load(data, "1:1", { onCorrupt: "discard" }), {
      ...refused,
      message: /it is encrypted with key \w{8}, and the store has no option "encrypt"$/,
    });
    assert.equal(valueOf(data, "1:1"), before);
  });

  it("moves a session to another key, and updates it under a lease", async () => {
    const data = new MemoryData();
    await store(data, "old", session, { encrypt });
    await using it = storeOn(data, { encrypt: { keys: [key2, key1] } });
    await it.move("old", "new");
    await it.update("new", (session) => void session.cart.push("milk"));
    const newest = { encrypt: { keys: [key2] } };
    assert.deepEqual(await load(data, "new", newest), { name: "Ada", cart: ["tea", "milk"] });
  });

  it("does not move a session that it cannot read", async () => {
    const data = new MemoryData();
    await store(data, "old", session, { encrypt });
    for (const options of [{}, { encrypt: { keys: [key2] } }]) {
      await using other = storeOn(data, options);
      await assert.rejects(other.move("old", "new"), refused);
    }
    assert.deepEqual(await load(data, "old", { encrypt }), session);
    assert.deepEqual([...data.sessions.keys()], ["old"]);
  });
});

describe("tampering", () => {
  /** Asserts that a store refuses what the database has under a key. */
  async function refuses(data: MemoryData, key: string, place?: string): Promise<void> {
    const stored = valueOf(data, key);
    await assert.rejects(load(data, key, { encrypt, version: 2, migrate }, place), refused, stored);
    const reports: unknown[] = [];
    const onCorrupt = (value: unknown) => void reports.push(value);
    await load(data, key, { encrypt, version: 2, migrate, onCorrupt }, place);
    assert.deepEqual(reports, [stored]);
  }
  const migrate = { 1: () => {}, 2: () => {} };

  it("is refused: flipped bits, and missing ends", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { a: 1 }, { encrypt });
    const [header, body] = valueOf(data, "1:1").split(":") as [string, string];
    const bytes = Buffer.from(body, "base64");
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      put(data, "1:1", `${header}:${flipped.toString("base64")}`);
      await refuses(data, "1:1");
    }
    for (let length = 0; length < bytes.length; length++) {
      put(data, "1:1", `${header}:${bytes.subarray(0, length).toString("base64")}`);
      await refuses(data, "1:1");
    }
  });

  it("is refused: the value of another key, or of another table", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { admin: true }, { encrypt });
    put(data, "2:2", valueOf(data, "1:1"));
    await refuses(data, "2:2");
    await refuses(data, "1:1", "other sessions");
  });

  it("is refused: another header", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { a: 1 }, { encrypt, version: 1, migrate: { 1: () => {} } });
    const value = valueOf(data, "1:1");
    for (const version of ["", "v2,"]) {
      put(data, "1:1", value.replace("v1,", version));
      await refuses(data, "1:1");
    }
    put(data, "1:1", value.replace(/^.*:/, "")); // none
    await refuses(data, "1:1");
    const codec = { encode: JSON.stringify, decode: JSON.parse };
    put(data, "1:1", value.replace("v1,", "v1,text,"));
    await assert.rejects(load(data, "1:1", { encrypt, codec, version: 2, migrate }), refused);
  });
});

describe("rotate()", () => {
  const rotating = { encrypt: { keys: [key2, key1] } };
  const newest = { encrypt: { keys: [key2], required: true } };

  it("encrypts all sessions with the newest key", async () => {
    const data = new MemoryData();
    for (let i = 0; i < 300; i++) {
      await store(data, `old ${i}`, { i }, i < 150 ? { encrypt } : {});
      await store(data, `new ${i}`, { i }, newest);
    }
    await using it = storeOn(data, rotating);
    assert.equal(await it.rotate(), 300);
    assert.equal(await it.rotate(), 0);
    for (let i = 0; i < 300; i++) {
      assert.deepEqual(await load(data, `old ${i}`, newest), { i });
      assert.deepEqual(await load(data, `new ${i}`, newest), { i });
    }
  });

  it("keeps versions, formats of codecs, and expiry", async () => {
    const data = new MemoryData();
    const codec = {
      encode: (it: unknown) => Buffer.from(JSON.stringify(it)),
      decode: (bytes: Buffer) => JSON.parse(String(bytes)),
    };
    const options = { codec, version: 1, migrate: { 1: () => {} }, ttl: 60_000 };
    await store(data, "1:1", session, { encrypt, ...options });
    const { expires } = data.sessions.get("1:1")!;
    await using it = storeOn(data, rotating);
    assert.equal(await it.rotate(), 1);
    await assert.rejects(it.get("1:1"), { name: "VersionError", version: 1 });
    assert.equal(data.sessions.get("1:1")!.expires, expires);
    assert.match(valueOf(data, "1:1"), /^~v1,bytes,k/);
    const versioned = { encrypt: newest.encrypt, version: 1, migrate: { 1() {} } };
    const withoutCodec = { name: "DecodeError", message: /the option "codec", which/ };
    await assert.rejects(load(data, "1:1", versioned), withoutCodec);
    assert.deepEqual(await load(data, "1:1", { ...newest, ...options }), session);
  });

  it("overwrites nothing that others write meanwhile, with either key", async () => {
    const script = new Script();
    const { data } = script;
    for (const key of ["a", "b", "deleted"]) await store(data, key, { n: 1 }, { encrypt }, "");
    let replaced = 0;
    script.before = async (call) => {
      if (!call.startsWith("replace") || replaced++ > 0) return;
      await store(data, "a", { n: 2 }, { encrypt }, ""); // a process that does not know the new key
      await store(data, "b", { n: 2 }, newest, "");
      data.sessions.delete("deleted");
    };
    const it = script.store(rotating);
    await it.rotate();
    assert.ok(replaced > 1);
    assert.deepEqual(await load(data, "a", newest, ""), { n: 2 });
    assert.deepEqual(await load(data, "b", newest, ""), { n: 2 });
    assert.deepEqual([...data.sessions.keys()].sort(), ["a", "b"]);
  });

  it("ends although someone writes with an older key all the time", async () => {
    const script = new Script();
    const { data } = script;
    const write = () => store(data, "a", { n: Math.random() }, { encrypt }, "");
    await write();
    await store(data, "b", { n: 1 }, { encrypt }, "");
    script.before = (call) => call.startsWith("replace") && write();
    const it = script.store(rotating);
    assert.equal(await it.rotate(), 1);
    assert.deepEqual(await load(data, "b", newest, ""), { n: 1 });
  });

  it("ends with the error if the database fails, and does not try each session alone", async () => {
    const script = new Script();
    for (const key of ["a", "b", "c"]) await store(script.data, key, session, { encrypt }, "");
    script.before = (call) => {
      if (call.startsWith("replace")) throw new Error("read-only");
    };
    const it = script.store(rotating);
    await assert.rejects(it.rotate(), {
      name: "StoreError",
      message: "Cannot write the store: read-only",
    });
    assert.deepEqual(script.calls.filter((call) => /^replace/.test(call)), ["replace a b c"]);
  });

  it("rejects if a session cannot be read, after all others", async () => {
    const data = new MemoryData();
    await store(data, "a", session, { encrypt: { keys: [key3] } });
    await store(data, "b", session, { encrypt });
    await using it = storeOn(data, rotating);
    await assert.rejects(it.rotate(), { name: "DecodeError", key: "a" });
    assert.deepEqual(await load(data, "b", newest), session);
  });

  it("needs the option", async () => {
    await using plain = Memory();
    await assert.rejects(plain.rotate(), {
      name: "TypeError",
      message: 'rotate(): the store has no option "encrypt"',
    });
  });
});

describe("wrong keys", () => {
  const { privateKey } = generateKeyPairSync("ed25519");
  const cases: [unknown, string][] = [
    ["secret", 'Memory: option "encrypt" must be a plain object, but is a string'],
    [{}, 'Memory: option "encrypt.keys" must be an array with at least one key'],
    [{ keys: [] }, 'Memory: option "encrypt.keys" must be an array with at least one key'],
    [{ key: key1 }, 'Memory: encrypt: unknown option "key"; did you mean "keys"?'],
    [{ keys: key1 }, 'Memory: encrypt: option "keys" must be an array of keys, but is a string'],
    [{ keys: [key1, key1] }, 'Memory: option "encrypt.keys" has the same key twice'],
    [{ keys: [key1, "c2VjcmV0"] }, "but key 2 has 6 bytes"],
    [{ keys: [Buffer.alloc(32, 1).toString("hex")] }, "but key 1 has 48 bytes"],
    [{ keys: ["correct horse battery staple"] }, "but key 1 is a string that is not base64"],
    [{ keys: [privateKey] }, "but key 1 is an object of class"],
    [{ keys: [undefined] }, "but key 1 is undefined"],
    [{ keys: [createSecretKey(Buffer.alloc(16))] }, "but key 1 has 16 bytes"],
    [{ keys: [key1], required: 1 }, 'Memory: encrypt: option "required" must be true or false'],
  ];
  for (const [encrypt, message] of cases) {
    it(`are refused: ${message}`, () => {
      assert.throws(() => Memory({ encrypt } as never), (error: Error) => {
        assert.equal(error.name, "TypeError");
        assert.ok(error.message.includes(message), error.message);
        assert.ok(!error.message.includes(key1));
        return true;
      });
    });
  }
});

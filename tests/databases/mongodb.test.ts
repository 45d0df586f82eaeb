import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe, it } from "node:test";
import process from "node:process";
import { setTimeout as wait } from "node:timers/promises";
import { inspect } from "node:util";
import * as mongodb7 from "mongodb";
import { MongoClient } from "mongodb";
import { Mongo, type MongoOptions } from "../../mongodb.ts";
import { backendOf } from "../../src/store/factory.ts";
import type { Backend } from "../../src/backend.ts";
import { document, Versioned } from "../../src/codec/document.ts";
import { refusedOptions } from "../../src/errors.ts";
import { timeoutOptions } from "../../src/mongodb/options.ts";
import { transient } from "../../src/mongodb/errors.ts";
import { entry, run } from "../support/process.ts";
import { Cleanup } from "../support/cleanup.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  workerOf,
} from "../support/conformance.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = serverUrl("mongodb");
const ferretdb = process.env.TEST_MONGODB_KIND === "ferretdb";

/** Runs a function with a direct connection, without the store. */
async function direct<T>(work: (client: MongoClient) => Promise<T>): Promise<T> {
  const client = new MongoClient(url);
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}

const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/mongodb");

const harness: Harness = {
  name: "MongoDB",
  supports: {
    dates: true,
    prune: ferretdb,
    manySessions: !ferretdb,
    leases: ferretdb ? "FerretDB 1 cannot change a document atomically" : true,
    rejectedFields: ferretdb
      ? {
        titles: /^(dots|dollars) in field|^nested data/,
        reason: "FerretDB refuses dots and dollars in names, and arrays in arrays",
      }
      : undefined,
  },
  worker: (where) => workerOf("mongodb", "Mongo", { url, collection: where }),
  // FerretDB reads the whole collection for each key.
  store: (where, options) =>
    Mongo({ url, collection: where, timeout: ferretdb ? 60_000 : undefined, ...options }),
  backend: (where, options) => backendOf(Mongo, { url, collection: where, ...options }),
  drop: (where) => direct(async (client) => void await client.db().collection(where).drop()),
  writeOld: (where, key, session) =>
    direct((client) => upstream.Mongo({ client, collection: where }).set(key, session)),
};

conformance(harness);
encryptedConformance(harness);

const mongoose = requireVersion("mongoose", "8");
/** Why tests of duplicates cannot run here. */
const unordered = process.env.TEST_MONGODB_KIND === "documentdb" &&
  "DocumentDB reads the documents of a key in any order";

const versions = {
  "mongodb 5": requireVersion("mongodb", "5"),
  "mongodb 6": requireVersion("mongodb", "6"),
  "mongodb 7": mongodb7,
};
const chats = Array.from({ length: 100 }, (_, i) => `chat:${i}`);

/** Runs a test with its own client and a collection that does not exist yet. */
function test(
  title: string,
  body: (collection: mongodb7.Collection, client: MongoClient) => Promise<void>,
  skip: string | false = false,
): void {
  it(`MongoDB ${title}${skip ? `: ${skip}` : ""}`, { skip }, () =>
    direct(async (client) => {
      const collection = client.db().collection(place());
      try {
        await body(collection, client);
      } finally {
        await collection.drop();
      }
    }));
}

/** Returns the unique indexes of a collection, except the one on `_id`. */
async function uniqueIndexes(collection: mongodb7.Collection) {
  return (await collection.indexes()).filter(({ unique }) => unique).map(({ key }) => key);
}

describe("MongoDB data", () => {
  test(
    "reads and changes what @telegraf/session 2.0.0-beta.7 wrote",
    async (collection, client) => {
      const collectionName = collection.collectionName;
      const old = upstream.Mongo({ client, collection: collectionName });
      const session = { count: 1, at: new Date(1e12), list: [null, { a: false }] };
      await old.set("a", session);
      await old.set("b", session);
      await using store = Mongo({ url, collection: collectionName });
      assert.deepEqual(await Promise.all([store.get("a"), store.get("b")]), [session, session]);
      await store.set("a", { count: 2 });
      assert.deepEqual(await old.get("a"), { count: 2 });
      await old.set("a", { count: 3 });
      assert.deepEqual(await store.get("a"), { count: 3 });
      await store.delete("b");
      assert.equal(await old.get("b"), undefined);
      assert.deepEqual(await uniqueIndexes(collection), [{ key: 1 }]);
    },
  );

  /** Runs racing writes of 2.0.0-beta.7 until keys have several documents, then writes again. */
  async function race(collection: mongodb7.Collection, client: MongoClient): Promise<unknown[]> {
    const old = upstream.Mongo({ client, collection: collection.collectionName });
    const keys = chats.slice(0, 20);
    for (let i = 0; i < 20; i++) {
      await Promise.all(keys.flatMap((key) => [old.set(key, { i: 1 }), old.set(key, { i: 2 })]));
      if (await collection.countDocuments() > keys.length) break;
      await collection.deleteMany({});
    }
    assert.ok(await collection.countDocuments() > keys.length, "the writes did not race");
    for (const [i, key] of keys.entries()) if (i % 2) await old.set(key, { i: 3 });
    return Promise.all(keys.map((key) => old.get(key)));
  }

  test("keeps the duplicate of a key that 2.0.0-beta reads", async (collection, client) => {
    const sessions = await race(collection, client);
    await using store = Mongo({ url, collection: collection.collectionName });
    const keys = chats.slice(0, sessions.length);
    assert.deepEqual(await Promise.all(keys.map((key) => store.get(key))), sessions);
    assert.equal(await collection.countDocuments(), keys.length);
    assert.deepEqual(await uniqueIndexes(collection), [{ key: 1 }]);
    const old = upstream.Mongo({ client, collection: collection.collectionName });
    assert.deepEqual(await Promise.all(keys.map((key) => old.get(key))), sessions);
  }, unordered);

  test("opens 12 times at the same time, with duplicates to remove", async (collection, client) => {
    const sessions = await race(collection, client);
    const seen: unknown[] = [];
    const options = { url, collection: collection.collectionName, timeout: 60_000 };
    await using cleanup = new Cleanup();
    const stores = cleanup.stores(
      ...chats.slice(0, 12).map(() => Mongo({ ...options, onError: (error) => seen.push(error) })),
    );
    await Promise.all(stores.map((store) => store.ready()));
    const keys = chats.slice(0, sessions.length);
    for (const store of stores) {
      assert.deepEqual(await Promise.all(keys.map((key) => store.get(key))), sessions);
    }
    assert.equal(await collection.countDocuments(), keys.length);
    assert.deepEqual(await uniqueIndexes(collection), [{ key: 1 }]);
    assert.deepEqual(seen, []);
  }, unordered);

  it("MongoDB opens new collections from 12 processes at the same time", async () => {
    const names = Array.from({ length: 15 }, () => place());
    const errors = await coldStart({
      module: entry("mongodb", import.meta.url),
      factory: "Mongo",
      options: { url, timeout: 60_000 },
      place: "collection",
    }, names);
    assert.deepEqual(errors, []);
    await direct(async (client) => {
      for (const name of names) {
        const collection = client.db().collection(name);
        assert.deepEqual(await uniqueIndexes(collection), [{ key: 1 }]);
        assert.equal(await collection.countDocuments(), processes + 1);
        await collection.drop();
      }
    });
  });

  test("finds sessions with keys that 2.0.0-beta stored as numbers", async (collection, client) => {
    const old = upstream.Mongo({ client, collection: collection.collectionName });
    await old.set(42, { a: 1 });
    await old.set(-1001234567890, { a: 2 });
    await using store = Mongo({ url, collection: collection.collectionName });
    assert.deepEqual(await store.get("42"), { a: 1 });
    assert.deepEqual(await store.get("-1001234567890"), { a: 2 });
  });

  test("does not change documents that are not sessions", async (collection) => {
    await collection.insertMany([{ a: 1 }, { a: 2 }, { key: { b: 1 } }, { key: { b: 1 } }]);
    await using store = Mongo({ url, collection: collection.collectionName });
    await store.set("k", { a: 3 });
    await store.set("k", { a: 4 });
    assert.deepEqual(await store.get("k"), { a: 4 });
    assert.equal(await collection.countDocuments(), 5);
  });

  test("keeps an existing unique index", async (collection, client) => {
    await collection.createIndex({ key: 1 }, { unique: true, name: "mine" });
    const seen: unknown[] = [];
    await using store = Mongo({
      client,
      collection: collection.collectionName,
      onError: (error) => seen.push(error),
    });
    await store.set("k", { a: 1 });
    assert.deepEqual((await collection.indexes()).map(({ name }) => name).sort(), ["_id_", "mine"]);
    assert.deepEqual(seen, []);
  });

  for (const forbidden of [["createIndex"], ["createIndex", "listIndexes"]]) {
    test(`works without the right to ${forbidden.join(" and ")}`, async (collection, client) => {
      // FerretDB does not check rights, so this driver throws MongoDB's error.
      const refuse = () => {
        throw new mongodb7.MongoServerError({ message: "not authorized on test", code: 13 });
      };
      const limited = {
        connect: () => client.connect(),
        db: (name?: string) => ({
          collection: (...args: Parameters<mongodb7.Db["collection"]>) =>
            Object.assign(
              client.db(name).collection(...args),
              Object.fromEntries(forbidden.map((method) => [method, refuse])),
            ),
        }),
      };
      const sessions = await race(collection, client);
      const seen: Error[] = [];
      await using store = Mongo({
        client: limited,
        collection: collection.collectionName,
        onError: (error) => void seen.push(error as Error),
      });
      const keys = chats.slice(0, sessions.length);
      assert.deepEqual(await Promise.all(keys.map((key) => store.get(key))), sessions);
      assert.deepEqual(await store.get(keys[1]!), sessions[1]);
      await store.set(keys[1]!, { i: 4 });
      await store.set("new", { i: 5 });
      assert.deepEqual(await store.get(keys[1]!), { i: 4 });
      assert.deepEqual(await store.get("new"), { i: 5 });
      assert.equal(seen.length, 1);
      assert.match(seen[0]!.message, /no unique index on "key".*: not authorized/);
      await store.delete(keys[1]!);
      assert.equal(await store.get(keys[1]!), undefined);
    }, unordered);
  }

  test("does not return expired sessions, and set() removes their expiry", async (collection) => {
    const expires = new Date(Date.now() + 60_000);
    await collection.insertMany([
      { key: "past", session: { a: 1 }, expires: new Date(Date.now() - 1) },
      { key: "future", session: { a: 2 }, expires },
    ]);
    await using store = Mongo({ url, collection: collection.collectionName });
    assert.equal(await store.get("past"), undefined);
    assert.deepEqual(await store.get("future"), { a: 2 });
    await store.set("past", { a: 3 });
    assert.deepEqual(await store.get("past"), { a: 3 });
    assert.equal((await collection.findOne({ key: "past" }))?.expires, undefined);
  });

  it("MongoDB uses the given database and the default collection", async () => {
    await direct(async (client) => {
      const database = place();
      try {
        await using store = Mongo({ url, database });
        await store.set("k", { a: 1 });
        const collection = client.db(database).collection("telegraf-sessions");
        const { _id, ...rest } = (await collection.findOne())!;
        assert.deepEqual(rest, { key: "k", session: { a: 1 } });
      } finally {
        await client.db(database).dropDatabase();
      }
    });
  });

  test("refuses a session of 17 MB and keeps the old one", async (collection) => {
    await using store = Mongo({ url, collection: collection.collectionName, timeout: 60_000 });
    await store.set("k", { a: 1 });
    const error = { name: "TooLargeError", key: "k", message: /bytes/ };
    await assert.rejects(store.set("k", { text: "x".repeat(17e6) }), error);
    assert.deepEqual(await store.get("k"), { a: 1 });
    const [, large] = await Promise.allSettled([
      store.set("a", { a: 2 }),
      store.set("k", { text: "x".repeat(17e6) }),
      store.set("b", { a: 3 }),
    ]);
    assert.equal(large.status, "rejected");
    assert.deepEqual(await Promise.all([store.get("a"), store.get("b")]), [{ a: 2 }, { a: 3 }]);
  });

  test("stores the largest session that MongoDB allows", async (collection) => {
    await using store = Mongo({ url, collection: collection.collectionName, timeout: 60_000 });
    const most = 16 * 2 ** 20 - document.size({ key: "k", session: "" }) - 35;
    const session = "x".repeat(most);
    await store.set("k", session);
    const stored = await collection.findOne({ key: "k" });
    assert.ok(stored!.session === session);
    const { BSON } = mongodb7;
    assert.ok(BSON.calculateObjectSize(stored!) <= 16 * 2 ** 20);
    await assert.rejects(store.set("k", session + "x"), { name: "TooLargeError" });
  });
});

describe("MongoDB versions of sessions", () => {
  const { signal } = new AbortController();

  /** Opens a backend on a collection. */
  async function open(collectionName: string, expiring = false): Promise<Backend<unknown>> {
    const backend = backendOf(Mongo, { url, collection: collectionName });
    const report = (error: unknown) => assert.fail(String(error));
    await backend.open({ expiring, leasing: false, signal, report });
    return backend;
  }

  /** The values under keys, in their order. */
  async function valuesOf(backend: Backend<unknown>, keys: string[]): Promise<unknown[]> {
    const entries = await backend.read(keys, signal);
    return keys.map((key) => entries.find((entry) => entry.key === key)?.value);
  }

  test("stores the version beside the session, and removes it", async (collection) => {
    await using cleanup = new Cleanup();
    const backend = cleanup.of(
      await open(collection.collectionName, true),
      (backend) => backend.close(),
    );
    const session = { a: 1, version: 7, at: new Date(1e12) };
    const expires = Date.now() + 3_600_000;
    for (const keys of [["a"], ["b", "c"]]) {
      for (const fresh of [true, false, undefined]) {
        const write = (value: unknown, expires?: number) =>
          backend.write(
            keys.map((key) => ({ key, value, ...expires !== undefined && { expires } })),
            signal,
            fresh,
          );
        const assertStored = async (value: unknown, fields: object) => {
          assert.deepEqual(await valuesOf(backend, keys), keys.map(() => value));
          for (const key of keys) {
            const { _id, ...stored } = (await collection.findOne({ key }))!;
            assert.deepEqual(stored, { key, ...fields });
          }
        };
        const date = new Date(expires);
        await write(new Versioned(3, session));
        await assertStored(new Versioned(3, session), { session, version: 3 });
        await write(new Versioned(0, null), expires);
        await assertStored(new Versioned(0, null), { session: null, version: 0, expires: date });
        await write(session, expires);
        await assertStored(session, { session, expires: date });
        await write(new Versioned(2 ** 40, 5));
        await assertStored(new Versioned(2 ** 40, 5), { session: 5, version: 2 ** 40 });
        await backend.renew(keys, expires, signal);
        const renewed = { session: 5, version: 2 ** 40, expires: date };
        await assertStored(new Versioned(2 ** 40, 5), renewed);
        await write(session);
        await assertStored(session, { session });
        await backend.remove(keys, signal);
        assert.deepEqual(await valuesOf(backend, keys), keys.map(() => undefined));
      }
    }
  });

  test("replaces a session if its version is the same too", async (collection) => {
    await using cleanup = new Cleanup();
    const backend = cleanup.of(await open(collection.collectionName), (it) => it.close());
    const session = { a: [1, { b: "c" }] };
    const stored = [session, new Versioned(1, session), new Versioned(2, session)];
    const after = [new Versioned(3, { a: 1 }), { a: 1 }, new Versioned(0, { a: 1 })];
    const keys = stored.map((_, i) => `${i}`);
    for (const next of after) {
      for (const [i, before] of stored.entries()) {
        await backend.write(keys.map((key, at) => ({ key, value: stored[at] })), signal);
        await backend.replace(keys.map((key) => ({ key, before, after: next })), signal);
        const expected = stored.map((value, at) => at === i ? next : value);
        assert.deepEqual(await valuesOf(backend, keys), expected);
        assert.equal(await collection.countDocuments(), keys.length);
      }
    }
  });

  test("replaces no other session that MongoDB takes for the same", async (collection) => {
    await using cleanup = new Cleanup();
    const backend = cleanup.of(await open(collection.collectionName), (it) => it.close());
    const list = ["text", { a: 1 }, null];
    await backend.write([{ key: "list", value: list }], signal);
    await collection.insertOne({ key: "none", note: "kept beside no session" });
    for (const before of ["text", { a: 1 }, null]) {
      const replacements = ["list", "none"].map((key) => ({ key, before, after: 1 }));
      await backend.replace(replacements, signal);
      assert.deepEqual(await valuesOf(backend, ["list", "none"]), [list, undefined]);
    }
    await backend.replace([{ key: "list", before: list, after: "text" }], signal);
    assert.deepEqual(await valuesOf(backend, ["list"]), ["text"]);
  });

  test("counts the version as a part of the document", async (collection) => {
    const { BSON } = mongodb7;
    for (const version of [0, 3, 2 ** 40]) {
      const value = new Versioned(version, { a: "é" });
      const plain = { session: value.session, version };
      const difference = document.size({ session: value }) - BSON.calculateObjectSize(plain);
      assert.ok(difference >= 0 && difference < 10, `${difference}`);
    }
    await using cleanup = new Cleanup();
    const backend = cleanup.of(await open(collection.collectionName), (it) => it.close());
    const most = 16 * 2 ** 20 - document.size({ key: "k", session: "" }) - 35;
    const write = (value: unknown) => backend.write([{ key: "k", value }], signal);
    const error = { name: "TooLargeError", key: "k" };
    await assert.rejects(async () => await write(new Versioned(1, "x".repeat(most))), error);
    const half = "x".repeat(8 * 2 ** 20);
    const replacement = { key: "k", before: half, after: half };
    await assert.rejects(async () => await backend.replace([replacement], signal), error);
  });

  test("replaces a session of nearly 8 MB", async (collection) => {
    await using cleanup = new Cleanup();
    const backend = cleanup.of(await open(collection.collectionName), (it) => it.close());
    const sizes = 8 * 2 ** 20 - 200;
    const before = "x".repeat(sizes);
    const after = "y".repeat(sizes);
    await backend.write([{ key: "k", value: before }], signal);
    await backend.replace([{ key: "k", before, after }], signal);
    assert.ok((await valuesOf(backend, ["k"]))[0] === after);
  });
});

describe("MongoDB clients", () => {
  for (const [version, driver] of Object.entries(versions)) {
    for (const connected of [true, false]) {
      it(`MongoDB accepts a client of ${version}, ${connected ? "" : "not yet "}connected`, async () => {
        await using cleanup = new Cleanup();
        const client = cleanup.of(new driver.MongoClient(url), (client) => client.close());
        if (connected) await client.connect();
        await exercise(client, driver);
      });
    }

    it(`MongoDB rejects operations on a closed client of ${version}`, async () => {
      await using cleanup = new Cleanup();
      const client = cleanup.of(new driver.MongoClient(url), (client) => client.close());
      const collection = place();
      const timeout = 120_000;
      const used = Mongo({ client, collection, timeout });
      assert.equal(await used.get("k"), undefined);
      await client.db().collection(collection).drop();
      const unused = Mongo({ client, collection: place(), timeout });
      await client.close();
      const start = Date.now();
      await Promise.all(
        [used.get("k"), used.set("k", 1), used.delete("k"), unused.get("k")].map((operation) =>
          assert.rejects(operation, { name: "StoreError", message: /must be connected|closed/ })
        ),
      );
      assert.ok(Date.now() - start < 60_000); // well before the deadline
    });
  }

  it("MongoDB accepts mongoose's client", async () => {
    await using cleanup = new Cleanup();
    const connection = await mongoose.createConnection(url).asPromise();
    cleanup.of(connection, () => connection.close());
    await exercise(connection.getClient(), mongoose.mongo);
  });

  /** Tests a store on a client with the types of the same driver. The client stays open. */
  // deno-lint-ignore no-explicit-any
  async function exercise(client: any, driver: any): Promise<void> {
    const collection = place();
    try {
      const store = Mongo({ client, collection });
      const session = {
        id: new driver.ObjectId(),
        at: new Date(1e12),
        bytes: Buffer.from([0, 1, 255]),
        large: driver.Long.fromString("9007199254740993"),
      };
      await store.set("k", session);
      await Promise.all(chats.map((chat, i) => store.set(chat, { i })));
      await store.close();
      const other = Mongo({ client, collection });
      const { id, at, bytes, large } = await other.get("k");
      assert.ok(id instanceof driver.ObjectId && id.equals(session.id));
      assert.deepEqual(at, session.at);
      assert.equal(bytes.toString("hex"), "0001ff");
      assert.equal(String(large), "9007199254740993");
      await other.set("k", { id, bytes });
      assert.ok((await other.get("k")).id.equals(session.id));
      const read = await Promise.all(chats.map((chat) => other.get(chat)));
      assert.deepEqual(read, chats.map((_, i) => ({ i })));
      await other.close();
      assert.equal(await client.db().collection(collection).countDocuments(), 101);
    } finally {
      await client.db().collection(collection).drop();
    }
  }

  it("MongoDB keeps the operations of two stores on one client in order", async () => {
    await direct(async (client) => {
      const collection = place();
      await using a = Mongo({ client, collection });
      await using b = Mongo({ client, collection, database: client.db().databaseName });
      const write = a.set("k", 1);
      assert.equal(await b.get("k"), 1);
      await Promise.all([write, b.set("k", 2), a.set("k", 3)]);
      assert.equal((await client.db().collection(collection).findOne({ key: "k" }))?.session, 3);
      await client.db().collection(collection).drop();
    });
  });

  it("MongoDB sends only a few commands for 100 sessions at the same time", async () => {
    await using cleanup = new Cleanup();
    const client = new MongoClient(url, { monitorCommands: true });
    cleanup.of(client, () => client.close());
    const commands: Record<string, number> = {};
    const collection = place();
    const store = Mongo({ client, collection });
    await store.ready();
    client.on("commandStarted", ({ commandName }) => {
      commands[commandName] = (commands[commandName] ?? 0) + 1;
    });
    await Promise.all(chats.map((chat, i) => store.set(chat, { i })));
    await Promise.all(chats.map((chat) => store.get(chat)));
    await Promise.all(chats.map((chat) => store.delete(chat)));
    assert.deepEqual(commands, { update: 2, find: 2, delete: 2 }); // at most 64 keys in a command
    const again = Mongo({ url, collection });
    await again.ready();
    await again.close();
    await client.db().collection(collection).drop();
  });
});

describe("MongoDB options", () => {
  const bad = (options: unknown) => () => Mongo(options as MongoOptions);

  it("MongoDB refuses invalid options", () => {
    assert.throws(bad(null), { name: "TypeError", message: /^Mongo: options must be/ });
    assert.throws(bad({}), { name: "TypeError", message: /"url" or "client" is missing/ });
    assert.throws(bad({ url, table: "" }), { name: "TypeError", message: /option "table"/ });
    const wrong = [{ url: 1 }, { client: 1 }, { config: 1 }, { database: 1 }, { collection: 1 }];
    for (const options of wrong) {
      const [name] = Object.keys(options);
      const message = RegExp(`option "${name}" must`);
      assert.throws(bad({ url, ...options }), { name: "TypeError", message });
    }
    for (const options of [{ database: "" }, { collection: "" }, { database: "d".repeat(64) }]) {
      assert.throws(bad({ url, ...options }), { name: "RangeError", message: /must be a name/ });
    }
    for (const options of [{ database: "a.b" }, { config: { nmae: 1 } }]) {
      assert.throws(bad({ url, ...options }), {
        name: "TypeError",
        message: /^Mongo: mongodb refuses/,
      });
    }
  });

  it("MongoDB refuses url or config together with client", () => {
    const client = new MongoClient(url);
    for (const other of [{ url }, { config: {} }]) {
      assert.throws(bad({ client, ...other }), {
        name: "TypeError",
        message: /no effect together/,
      });
    }
  });

  it("MongoDB refuses an invalid client", () => {
    const connection = mongoose.createConnection();
    const others = [{}, [], connection, new MongoClient(url).db(), { connect() {} }, { db() {} }];
    for (const client of others) {
      const message = /^Mongo: option "client" must be a MongoClient/;
      assert.throws(bad({ client }), { name: "TypeError", message });
    }
  });

  it("MongoDB refuses an invalid url without repeating it", () => {
    const urls = [
      "",
      "user:s3cret@localhost",
      "mongodb://user:s3cret@",
      "mongodb://us\"er:s3cret@x'y@",
      "mongodb://us:er:s3cret@host",
      "mongodb://user:s3%cret@host",
      "http://user:s3cret@host",
      "mongodb://user:s3cret@host/?nonsense=1",
      "mongodb+srv://user:s3cret@host:1",
    ];
    for (const url of urls) {
      assert.throws(bad({ url }), (error: Error) => {
        assert.equal(error.name, "TypeError");
        assert.match(error.message, /^Mongo: /);
        assert.doesNotMatch(inspect(error, { depth: 9, showHidden: true }), /s3%?cret/);
        return true;
      });
    }
  });

  it("MongoDB removes the url from error messages of older drivers", () => {
    for (const url of ["mongodb://user:s3cret@", "mongodb://us\"er:s3cret@x'y@"]) {
      const make = () => new versions["mongodb 5"].MongoClient(url);
      assert.throws(make, (error: Error) => {
        assert.match(error.message, /s3cret/);
        assert.doesNotMatch(
          inspect(refusedOptions("Mongo", "mongodb", error, url), { depth: 9 }),
          /s3cret/,
        );
        return true;
      });
    }
  });

  it("MongoDB leaves time for a retry unless the url sets the timeouts", () => {
    const all = (selection: number, connect: number, socket: number) => ({
      serverSelectionTimeoutMS: selection,
      connectTimeoutMS: connect,
      socketTimeoutMS: socket,
    });
    assert.deepEqual(timeoutOptions("mongodb://h", 10_000), all(5000, 5000, 5000));
    assert.deepEqual(timeoutOptions("mongodb://h", 60_000), all(5000, 5000, 30_000));
    assert.deepEqual(timeoutOptions("mongodb://h", 1), all(1, 1, 1));
    const given =
      "mongodb://h/?w=1&serverselectiontimeoutMS=9&socketTimeoutMS=9&connectTimeoutMS=9";
    assert.deepEqual(timeoutOptions(given, 10_000), {});
  });
});

describe("MongoDB errors", () => {
  it("MongoDB rejects in time if no server is available, and the process continues", async () => {
    const { code, output, duration } = await run(`
      import { Mongo } from ${JSON.stringify(entry("mongodb", import.meta.url))};
      const store = Mongo({ url: "mongodb://127.0.0.1:1/test", timeout: 4000 });
      const all = [store.get("k"), store.set("k", 1), store.delete("k"), store.ready()];
      for (const { reason: { name, message, cause } } of await Promise.allSettled(all)) {
        console.log(name, /after 4000 ms; last error: .*ECONNREFUSED/.test(message), cause.name);
      }
    `);
    assert.equal(output, "TimeoutError true MongoServerSelectionError\n".repeat(4));
    assert.equal(code, 0);
    assert.ok(duration < 60_000);
  });

  it("MongoDB does not keep the process alive after close()", async () => {
    const collection = place();
    const { code, output, duration } = await run(`
      import { Mongo } from ${JSON.stringify(entry("mongodb", import.meta.url))};
      const store = Mongo({ url: ${JSON.stringify(url)}, collection: "${collection}" });
      console.log(await store.get("k"));
      await store.close();
    `);
    assert.equal(output, "undefined\n");
    assert.equal(code, 0);
    assert.ok(duration < 60_000);
    await harness.drop(collection);
  });

  it("MongoDB rejects immediately if the user may not connect", async () => {
    const at = url.replace("://", "://user:wr0ng@");
    const start = Date.now();
    const seen: unknown[] = [];
    await using store = Mongo({
      url: at,
      timeout: 120_000,
      onInitError: (error) => seen.push(error),
      onError: (error) => seen.push(error),
    });
    const error = await store.get("k").catch((error) => error);
    assert.equal(error.name, "StoreError");
    assert.equal(error.cause.code, 18);
    assert.deepEqual(seen, [error]);
    assert.doesNotMatch(inspect(error, { depth: 9 }), /wr0ng/);
    await assert.rejects(store.set("k", 1), { name: "StoreError" });
    assert.ok(Date.now() - start < 60_000); // well before the deadline
  });

  it("MongoDB works again after the connection was cut, even during commands", async () => {
    await using proxy = await Proxy.to(url);
    const seen: unknown[] = [];
    const where = place();
    await using store = Mongo({
      url: url.replace(new URL(url).host, proxy.host),
      collection: where,
      onError: (error) => seen.push(error),
    });
    await store.set("k", { a: 0 });
    for (let i = 1; i <= 5; i++) {
      const writes = chats.slice(0, 10).map((chat) => store.set(chat, { i }));
      if (i % 2) await wait(1);
      proxy.cut();
      await Promise.all(writes);
      assert.deepEqual(await store.get("k"), { a: 0 });
      assert.deepEqual(await store.get("chat:9"), { i });
    }
    assert.ok(seen.length >= 1 && seen.length <= 10, `${seen.length} errors reported`);
    await harness.drop(where);
  });

  for (const [name, driver] of [["a url", undefined], ...Object.entries(versions)] as const) {
    it(`MongoDB opens, with ${name}, as soon as the server is available`, async () => {
      await using proxy = await Proxy.to(url);
      await proxy.down();
      await using cleanup = new Cleanup();
      const at = url.replace(new URL(url).host, proxy.host);
      const client = driver && cleanup.of(
        new driver.MongoClient(at, { serverSelectionTimeoutMS: 300 }),
        (client) => client.close(),
      );
      const where = place();
      await using store = Mongo({
        ...(client ? { client } : { url: at }),
        collection: where,
        timeout: 2000,
      });
      await assert.rejects(store.get("k"), { name: "TimeoutError", message: /ECONNREFUSED/ });
      await proxy.up();
      assert.equal(await store.get("k"), undefined);
      await harness.drop(where);
    });
  }

  it("MongoDB waits for an unavailable server", async () => {
    await using proxy = await Proxy.to(url);
    const where = place();
    await using store = Mongo({
      url: url.replace(new URL(url).host, proxy.host),
      collection: where,
    });
    await store.set("k", { a: 1 });
    await proxy.down();
    const read = store.get("k");
    const write = store.set("l", { a: 2 });
    await wait(1000);
    await proxy.up();
    assert.deepEqual(await read, { a: 1 });
    await write;
    await harness.drop(where);
  });

  it("MongoDB discards a connection that hangs", async () => {
    await using proxy = await Proxy.to(url);
    const where = place();
    await using store = Mongo({
      url: url.replace(new URL(url).host, proxy.host),
      collection: where,
    });
    await store.set("k", { a: 1 });
    proxy.silence();
    assert.deepEqual(await store.get("k"), { a: 1 }); // within the default timeout
    await harness.drop(where);
  });

  it("MongoDB has no leases if the server has no updates with a pipeline", async () => {
    const collection = place();
    await direct(async (client) => {
      const refuse = () => {
        throw new mongodb7.MongoServerError({ message: "no pipelines", code: 9 });
      };
      const old = {
        connect: () => client.connect(),
        db: () => ({
          collection: (...args: Parameters<mongodb7.Db["collection"]>) =>
            Object.assign(client.db().collection(...args), { updateOne: refuse }),
        }),
      };
      await using store = Mongo({ client: old, collection });
      await assert.rejects(store.update("k", () => 1), /need MongoDB 4.2 or newer.*no pipelines/);
    });
    await harness.drop(collection);
    if (!ferretdb) return;
    await using store = Mongo({ url, collection });
    await assert.rejects(store.update("k", () => 1), /need MongoDB 4.2 or newer/);
    await harness.drop(collection);
  });

  it("MongoDB distinguishes temporary errors from permanent ones", () => {
    const server = (code: number) => new mongodb7.MongoServerError({ message: "no", code });
    for (const code of [11600, 11602, 10107, 13435, 189, 91, 112, 262, 11000, 6, 7, 89]) {
      assert.ok(transient(server(code)), `${code}`);
    }
    for (const code of [18, 13, 8000, 2, 9, 10334, 121]) {
      assert.ok(!transient(server(code)), `${code}`);
    }
    // FerretDB 2, for concurrent upserts of one key.
    for (const message of ["deadlock detected", 'conflicting … exclusion constraint "index"']) {
      assert.ok(transient(new mongodb7.MongoServerError({ message, code: 1 })), message);
    }
    const lost = new mongodb7.MongoNetworkError("connection 1 closed");
    assert.ok(transient(lost));
    assert.ok(transient(new mongodb7.MongoBulkWriteError(lost as never, {} as never)));
    assert.ok(!transient(new mongodb7.MongoNetworkError("self-signed certificate")));
    assert.ok(!transient(new mongodb7.MongoParseError("no")));
  });
});

/**
 * Leases on MongoDB itself, or on FerretDB 2 with DocumentDB. FerretDB 1, which runs the other tests in
 * place of MongoDB, cannot have leases.
 */

import assert from "node:assert/strict";
import process from "node:process";
import { describe, it } from "node:test";
import {
  type AnyBulkWriteOperation,
  type BulkWriteOptions,
  type Collection,
  type Document,
  MongoBulkWriteError,
  MongoClient,
  MongoServerError,
} from "mongodb";
import { Mongo, type MongoOptions } from "../../mongodb.ts";
import type { Backend, Claim, Leases, Settlement } from "../../src/backend.ts";
import { document, Versioned } from "../../src/codec/document.ts";
import { backendOf } from "../../src/store/factory.ts";
import { awkwardKeys } from "../../src/testing/harness.ts";
import { layers, withLayers } from "../../src/testing/layers.ts";
import { leases } from "../../src/testing/leases.ts";
import { moves } from "../../src/testing/moves.ts";
import { replace } from "../../src/testing/replace.ts";
import { processes } from "../../src/testing/processes.ts";
import { cached } from "../suites/cache.ts";
import { type Harness, runTopics, workerOf } from "../support/conformance.ts";
import { requireVersion } from "../support/packages.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = process.env.TEST_MONGODB_KIND === "ferretdb"
  ? process.env.TEST_DOCUMENTDB_URL ?? ""
  : serverUrl("mongodb");
const noLeases = url ? undefined : "neither MongoDB nor DocumentDB is there";
const long = 600_000;
const hour = 3_600_000;
const { signal } = new AbortController();

const harness: Harness = {
  name: "MongoDB",
  supports: { dates: true, prune: false, leases: noLeases ?? true },
  worker: (where) => workerOf("mongodb", "Mongo", { url, collection: where }),
  store: (where, options) => Mongo({ url, collection: where, ...options }),
  backend: (where, options) => backendOf(Mongo, { url, collection: where, ...options }),
  async drop(where) {
    await using direct = await connect();
    await direct.client.db().collection(where).drop();
  },
};

/** A connection without the store, which closes itself. */
async function connect(Client = MongoClient) {
  const client = await new Client(url, { monitorCommands: true }).connect();
  return { client, [Symbol.asyncDispose]: () => client.close() };
}

/** A backend that is open for leases. */
class Holder implements AsyncDisposable {
  readonly backend: Backend<unknown>;
  readonly leases: Leases<unknown>;

  private constructor(backend: Backend<unknown>) {
    this.backend = backend;
    this.leases = backend.leases as Leases<unknown>;
  }

  static async open(options: object, expiring = false): Promise<Holder> {
    const holder = new Holder(backendOf(Mongo, options as MongoOptions));
    const report = (error: unknown) => assert.fail(String(error));
    await holder.backend.open({ expiring, leasing: true, signal, report });
    return holder;
  }

  /** The tokens of the leases after claims, by key. */
  async claim(...claims: Claim[]): Promise<Record<string, string>> {
    const claimed = await this.leases.claim(claims, signal);
    return Object.fromEntries(claimed.map(({ key, token }) => [key, token]));
  }

  /** Claims one key. Returns its session with its expiry. */
  async claimed(claim: Claim) {
    const [claimed] = await this.leases.claim([claim], signal);
    assert.equal(claimed!.token, claim.token);
    return claimed!.entry;
  }

  async settle(...settlements: Settlement<unknown>[]) {
    return await this.leases.settle(settlements, signal);
  }

  async read(key: string) {
    return (await this.backend.read([key], signal))[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend.close();
  }
}

const lease = (key: string, token: string, length = long) => ({ key, token, length });
const write = (key: string, token: string, value: unknown, length = 0, expires?: number) => ({
  ...lease(key, token, length),
  change: { key, value, ...(expires !== undefined && { expires }) },
});
const release = (key: string, token: string) => ({ ...lease(key, token, 0), change: undefined });
const removal = (key: string, token: string) => ({ ...lease(key, token, 0), change: null });

/** A client whose collections have some other methods. */
function intercepted(
  client: MongoClient,
  intercept: (collection: Collection, method: string) => unknown,
) {
  return {
    connect: () => client.connect(),
    db: () => ({
      collection: (...args: Parameters<ReturnType<MongoClient["db"]>["collection"]>) =>
        new Proxy(client.db().collection(...args), {
          get(collection, method) {
            const value = Reflect.get(collection, method);
            return intercept(collection, String(method)) ??
              (typeof value === "function" ? value.bind(collection) : value);
          },
        }),
    }),
  };
}

/** Runs a test with its own collection. */
function test(
  title: string,
  body: (collection: Collection, name: string, client: MongoClient) => Promise<void>,
): void {
  const why = noLeases ? ` (${noLeases})` : "";
  it(`MongoDB ${title}${why}`, { skip: noLeases }, async () => {
    await using direct = await connect();
    const name = place();
    const collection = direct.client.db().collection(name);
    try {
      await body(collection, name, direct.client);
    } finally {
      await collection.drop();
    }
  });
}

cached({
  name: "MongoDB",
  backend: ["mongodb", "Mongo"],
  options: (url, collection) => ({ url, collection }) as object,
  store: (options) => Mongo(options),
  noLeases,
}, () => url);

describe("MongoDB leases", () => {
  runTopics(harness, [leases, processes]);
  // FerretDB 1, which runs the rest of the suite, has no atomic changes.
  if (url && process.env.TEST_MONGODB_KIND === "ferretdb") {
    runTopics(harness, [replace]);
    runTopics({ ...harness, encrypted: true }, [leases, moves, layers], withLayers);
  }

  for (const version of ["5", "6", "7"]) {
    test(`claims and settles with the driver ${version}`, async (_, collection) => {
      await using direct = await connect(requireVersion("mongodb", version).MongoClient);
      const holder = await Holder.open({ client: direct.client, collection });
      const keys = [...awkwardKeys];
      await holder.claim(lease(keys[0]!, "other"));
      const tokens = await holder.claim(...keys.map((key) => lease(key, "t")));
      for (const [i, key] of keys.entries()) assert.equal(tokens[key], i === 0 ? "other" : "t");
      const refused = await holder.settle(...keys.map((key) => write(key, "t", { key }, long)));
      assert.deepEqual(refused, [{ key: keys[0], token: "other" }]);
      const held: string[] = [];
      let start: string | undefined;
      do {
        const page = await holder.leases.held(start, 7, signal);
        for (const { key, left } of page.leases) {
          held.push(key);
          assert.ok(left > long - 60_000 && left <= long, `${left}`);
        }
        start = page.next;
      } while (start !== undefined);
      assert.deepEqual(held.sort(), [...keys].sort());
      const found = await holder.leases.find(["missing", ...keys], signal);
      assert.deepEqual(found.map(({ key }) => key).sort(), [...keys].sort());
      assert.ok(found.every(({ left }) => left > long - 60_000 && left <= long));
      for (const key of keys.slice(1)) assert.deepEqual((await holder.read(key))?.value, { key });
      assert.equal(await holder.read(keys[0]!), undefined);
      assert.deepEqual(await holder.settle(removal(keys[1]!, "t")), []);
      assert.equal(await holder.claimed(lease(keys[1]!, "t2")), undefined);
    });
  }

  test("needs one command for a key, and few for many", async (_, collection, client) => {
    const holder = await Holder.open({ client, collection });
    const sent: string[] = [];
    client.on("commandStarted", ({ commandName }) => sent.push(commandName));
    const one = lease("0", "t");
    const keys = Array.from({ length: 60 }, (_, i) => `${i}`);
    const claimed = await holder.claim(one);
    assert.deepEqual([claimed, sent.splice(0)], [{ 0: "t" }, ["findAndModify"]]);
    for (const change of [{ key: "0", value: 1 }, undefined, null]) {
      for (const length of [long, 0]) {
        await holder.claim(one);
        sent.length = 0;
        assert.deepEqual(await holder.settle({ ...one, length, change }), []);
        const removes = change === null && length === 0;
        assert.deepEqual(sent.splice(0), [removes ? "delete" : "update"]);
      }
    }
    await holder.claim(...keys.map((key) => lease(key, "t")));
    assert.deepEqual(sent.splice(0), ["update", "find"]);
    assert.equal((await holder.leases.find(keys, signal)).length, 60);
    assert.deepEqual(sent.splice(0), ["aggregate"]);
    const settlements = keys.map((key, i) => i % 2 ? write(key, "t", 2) : removal(key, "t"));
    assert.deepEqual(await holder.settle(...settlements), []);
    assert.deepEqual(sent.splice(0), ["delete", "update"]);
    // Refusals, and releases of sessions that someone else has stored.
    await holder.claim(...keys.slice(30).map((key) => lease(key, "t2")));
    await holder.backend.write(keys.map((key) => ({ key, value: 3 })), signal);
    sent.length = 0;
    const refused = await holder.settle(
      ...keys.map((key) => ({ ...release(key, "t2"), absent: true })),
    );
    assert.equal(refused.length, 30);
    assert.deepEqual(sent.splice(0), ["delete", "find", "update"]);
  });

  test("repeats a claim if another process inserts the same key", async (_, name, client) => {
    const failing = new Set(["findOneAndUpdate", "bulkWrite"]);
    const racing = intercepted(client, (_, method) => {
      if (!failing.delete(method)) return undefined;
      return () => Promise.reject(new MongoServerError({ message: "no", code: 11000 }));
    });
    const holder = await Holder.open({ client: racing, collection: name });
    assert.deepEqual(await holder.claim(lease("k", "t")), { k: "t" });
    assert.deepEqual(await holder.claim(lease("k", "t2"), lease("l", "t")), { k: "t", l: "t" });
    assert.equal(failing.size, 0);
  });

  test("takes the time of the server, not that of the process", async (_, collection) => {
    await using holder = await Holder.open({ url, collection });
    await holder.claim(lease("k", "t"), lease("past", "t", 1));
    const { now } = Date;
    try {
      for (const shift of [10 * hour, -10 * hour]) {
        Date.now = () => now() + shift;
        const tokens = await holder.claim(lease("k", "t2"), lease("past", `t${shift}`, 1));
        assert.deepEqual(tokens, { k: "t", past: `t${shift}` });
        const { leases } = await holder.leases.held(undefined, 100, signal);
        const [held] = leases.filter(({ key }) => key === "k");
        assert.ok(held!.left > 0 && held!.left <= long, `${held!.left}`);
        await holder.settle(release("past", `t${shift}`));
      }
    } finally {
      Date.now = now;
    }
  });

  test("stores text that begins with a dollar as it is", async (_, collection) => {
    await using holder = await Holder.open({ url, collection });
    const value = { text: "$key", list: ["$$NOW", "$lease"], $a: { "b.c": "$$ROOT" } };
    for (const length of [long, 0]) {
      await holder.claimed(lease("k", "$lease"));
      assert.deepEqual(await holder.settle(write("k", "$lease", value, length)), []);
      assert.deepEqual((await holder.read("k"))?.value, value);
    }
    assert.deepEqual((await holder.claimed(lease("k", "$key")))?.value, value);
    assert.deepEqual(await holder.claim(lease("k", "$lease")), { k: "$key" });
  });

  test("keeps the version of a session under a lease", async (collection, name) => {
    await using holder = await Holder.open({ url, collection: name }, true);
    const stored = async (key: string) => {
      const { session, version } = (await collection.findOne({ key }))!;
      return [session, version];
    };
    const session = { text: "$key" };
    const expires = Date.now() + hour;
    for (const keys of [["a"], ["b", "c"]]) {
      for (const length of [long, 0]) {
        const settle = async (value: unknown, expires?: number) => {
          await holder.claim(...keys.map((key) => lease(key, "t")));
          const writes = keys.map((key) => write(key, "t", value, length, expires));
          assert.deepEqual(await holder.settle(...writes), []);
          const claimed = await holder.leases.claim(keys.map((key) => lease(key, "t")), signal);
          for (const [i, key] of keys.entries()) {
            const read = await holder.read(key);
            assert.deepEqual([read!.value, claimed[i]!.entry!.value], [value, value]);
            assert.equal(claimed[i]!.entry!.expires, expires);
          }
          return await stored(keys[0]!);
        };
        assert.deepEqual(await settle(new Versioned(3, session)), [session, 3]);
        assert.deepEqual(await settle(new Versioned(0, session), expires), [session, 0]);
        // A settlement without a change leaves both.
        for (const each of [long, 0]) {
          const rest = keys.map((key) => ({ ...lease(key, "t", each), change: undefined }));
          assert.deepEqual(await holder.settle(...rest), []);
          assert.deepEqual(await stored(keys[0]!), [session, 0]);
        }
        assert.deepEqual(await settle(session), [session, undefined]);
        assert.deepEqual(await settle(new Versioned(4, session)), [session, 4]);
        const removals = keys.map((key) => ({ ...removal(key, "t"), length }));
        assert.deepEqual(await holder.settle(...removals), []);
        for (const key of keys) assert.equal(await holder.read(key), undefined);
        assert.equal(await collection.countDocuments({ version: { $exists: true } }), 0);
      }
    }
  });

  test(
    "replaces a session and its version under the lease of another",
    async (collection, name) => {
      await using holder = await Holder.open({ url, collection: name });
      await holder.backend.write([{ key: "k", value: { a: 1 } }], signal);
      await holder.claim(lease("k", "t"));
      const others = async () => {
        const { lease, until, ends, expires } = (await collection.findOne({ key: "k" }))!;
        return { lease, until, ends, expires };
      };
      const before = await others();
      const steps = [{ a: 1 }, new Versioned(1, { a: 2 }), new Versioned(2, { a: 2 }), { a: 3 }];
      for (const [i, after] of steps.slice(1).entries()) {
        await holder.backend.replace([{ key: "k", before: steps[i], after }], signal);
        assert.deepEqual((await holder.read("k"))!.value, after);
        assert.deepEqual(await others(), before);
      }
      assert.deepEqual(await holder.settle(write("k", "t", new Versioned(1, 1))), []);
      assert.deepEqual((await holder.read("k"))!.value, new Versioned(1, 1));
    },
  );

  test("an expired session under a lease does not keep its version", async (collection, name) => {
    await using holder = await Holder.open({ url, collection: name }, true);
    const expires = Date.now() - 1;
    // The server's index may delete it first.
    await collection.insertOne({
      ...{ key: "k", session: 1, version: 2, lease: "t" },
      ...{ until: new Date(0), expires: new Date(expires) },
    });
    const claimed = await holder.claimed(lease("k", "t"));
    assert.equal(claimed, undefined);
    const { session, version } = (await collection.findOne({ key: "k" }))!;
    assert.deepEqual([session, version], [undefined, undefined]);
  });

  test("refuses a settlement if the lease is lost", async (collection, name) => {
    await using holder = await Holder.open({ url, collection: name });
    await holder.backend.write([{ key: "k", value: 1 }], signal);
    await holder.claim(lease("k", "t"), lease("l", "t"));
    // As after a failover to a server that did not know of the claim.
    await collection.deleteMany({ session: { $exists: false } });
    await collection.updateMany({}, { $unset: { lease: "", until: "" } });
    for (const length of [0, long]) {
      for (const change of [{ key: "k", value: 2 }, null]) {
        const refused = await holder.settle({ ...lease("k", "t", length), change });
        assert.deepEqual(refused, [{ key: "k", token: undefined }]);
      }
    }
    assert.equal((await holder.read("k"))?.value, 1);
    assert.deepEqual(await holder.settle(removal("l", "t")), []);
  });

  test("refuses no settlement that is repeated after it was stored", async (_, collection) => {
    await using holder = await Holder.open({ url, collection });
    await holder.claim(lease("a", "t"), lease("b", "t"), lease("c", "t"));
    const batch = [write("a", "t", 1), removal("b", "t"), release("c", "t")];
    assert.deepEqual(await holder.settle(...batch), []);
    await holder.claim(lease("a", "t2"), lease("b", "t2"), lease("c", "t2"));
    assert.deepEqual(await holder.settle(write("a", "t2", 2)), []);
    assert.deepEqual(await holder.settle(...batch), []);
    assert.equal((await holder.read("a"))?.value, 2);
    assert.deepEqual(await holder.settle(write("a", "t", 3)), [{ key: "a", token: "t2" }]);
  });

  test("refuses no part of a batch that failed in another part", async (_, name, client) => {
    let fails = true;
    /** Fails for one operation of a bulk, and executes the others. */
    const failing = intercepted(client, (collection, method) => {
      if (method !== "bulkWrite" || !fails) return undefined;
      return async (operations: AnyBulkWriteOperation[], options: BulkWriteOptions) => {
        const result = await collection.bulkWrite(operations.slice(1), options);
        const error = { index: 0, code: 112, errmsg: "conflict" };
        const errors = { message: "conflict", code: 112, writeErrors: [error] };
        throw new MongoBulkWriteError(errors as never, result);
      };
    });
    const holder = await Holder.open({ client: failing, collection: name });
    const keys = ["a", "b", "c"];
    const batches = [keys.map((key) => write(key, "t", 1)), keys.map((key) => removal(key, "t"))];
    for (const batch of batches) {
      fails = false;
      await holder.claim(...keys.map((key) => lease(key, "t")));
      fails = true;
      await assert.rejects(holder.settle(...batch), { code: 112 });
      fails = false;
      assert.deepEqual(await holder.claim(lease("b", "t2")), { b: "t2" });
      assert.deepEqual(await holder.settle(...batch), []);
      await holder.settle(write("b", "t2", 1));
    }
  });

  test("refuses a session that is too large, and keeps the lease", async (_, collection) => {
    await using holder = await Holder.open({ url, collection, timeout: 60_000 });
    await holder.claim(lease("k", "t"), lease("l", "t"));
    const others = { lease: "t", until: new Date(), ends: new Date() };
    const most = 16 * 2 ** 20 - document.size({ key: "k", session: "", ...others }) - 35;
    const session = "x".repeat(most);
    for (const length of [long, 0]) {
      const large = write("k", "t", `${session}x`, length);
      const error = { name: "TooLargeError", key: "k" };
      await assert.rejects(holder.settle(large), error);
      await assert.rejects(holder.settle(write("l", "t", 1, long), large), error);
      assert.deepEqual(await holder.settle(write("k", "t", session, length)), []);
      const entry = await holder.read("k");
      assert.ok(entry!.value === session);
    }
  });

  test("leaves no more than the last token after a release", async (collection, name) => {
    await using holder = await Holder.open({ url, collection: name }, true);
    const expires = Date.now() + 300_000;
    await holder.backend.write([{ key: "m", value: 1, expires }], signal);
    await holder.claim(...["k", "l", "m", "n"].map((key) => lease(key, "t")));
    await holder.settle(write("k", "t", 1), removal("l", "t"), release("m", "t"), {
      ...release("n", "t"),
      absent: true,
    });
    const fields = { lease: "t", until: new Date(0) };
    const documents = await collection.find({}, { projection: { _id: 0 }, sort: { key: 1 } });
    assert.deepEqual(await documents.toArray(), [
      { key: "k", ...fields, session: 1 },
      { key: "m", session: 1, expires: new Date(expires), ...fields },
    ]);
  });

  test("keeps a leased document from the server's index on expires", async (collection, name) => {
    await using holder = await Holder.open({ url, collection: name }, true);
    const indexes = await collection.indexes();
    assert.ok(
      indexes.some(({ key, expireAfterSeconds }) => key.expires && expireAfterSeconds === 0),
    );
    const start = Date.now();
    const [soon, late, past] = [start + 300_000, start + 100 * hour, start - 60_000];
    // The index may delete this one before the claim, which then finds no session either.
    await holder.backend.write([
      { key: "soon", value: 1, expires: soon },
      { key: "late", value: 1, expires: late },
      { key: "past", value: 1, expires: past },
      { key: "never", value: 1 },
    ], signal);
    const stored = (key: string) => collection.findOne({ key }, { projection: { _id: 0 } });
    const isKept = (it: Document | null) => Number(it?.expires) > start + long + 60_000;
    const claims = ["soon", "late", "past", "never", "new"].map((key) => lease(key, "t"));
    const claimed = await holder.leases.claim(claims, signal);
    const entries = Object.fromEntries(claimed.map(({ key, entry }) => [key, entry]));
    for (const key of ["soon", "past", "new"]) assert.ok(isKept(await stored(key)), key);
    assert.equal((await stored("late"))!.ends, undefined);
    assert.equal((await stored("never"))!.expires, undefined);
    assert.equal(entries.soon?.expires, soon);
    assert.equal(entries.late?.expires, late);
    assert.ok(entries.never && entries.never.expires === undefined);
    // What has expired does not come back.
    assert.equal(entries.past, undefined);
    assert.equal(await holder.read("past"), undefined);
    assert.equal(entries.new, undefined);
    // A repeated claim, renewals, a release and another claim do not change the session's own expiry.
    assert.equal((await holder.claimed(lease("soon", "t")))?.expires, soon);
    for (let i = 0; i < 2; i++) await holder.settle({ ...lease("soon", "t"), change: undefined });
    assert.ok(isKept(await stored("soon")));
    assert.equal((await holder.claimed(lease("soon", "t")))?.expires, soon);
    await holder.settle(release("soon", "t"));
    assert.equal((await holder.read("soon"))?.expires, soon);
    assert.equal((await holder.claimed(lease("soon", "t2")))?.expires, soon);
    // Changes under the lease.
    await holder.settle(write("soon", "t2", 2, long, soon + 1));
    assert.ok(isKept(await stored("soon")));
    assert.equal((await holder.claimed(lease("soon", "t2")))?.expires, soon + 1);
    await holder.settle(write("soon", "t2", 2, 0, soon + 2));
    const fields = { lease: "t2", until: new Date(0), expires: new Date(soon + 2) };
    assert.deepEqual({ ...await stored("soon") }, { key: "soon", session: 2, ...fields });
    // Changes by others, without the lease.
    for (const expires of [soon + 3, undefined]) {
      await holder.claimed(lease("soon", "t3"));
      await holder.backend.write([{ key: "soon", value: 3, expires }], signal);
      assert.equal((await holder.read("soon"))?.expires, expires);
      assert.equal((await holder.claimed(lease("soon", "t3")))?.expires, expires);
      await holder.settle(release("soon", "t3"));
      assert.equal((await holder.read("soon"))?.expires, expires);
    }
    // The index deletes what only has a token.
    await holder.settle(release("new", "t"));
    assert.ok(isKept(await stored("new")));
    // A session that its holder deletes, and that a version without leases writes.
    await holder.settle({ ...lease("late", "t"), change: null });
    assert.ok(isKept(await stored("late")));
    await collection.updateOne({ key: "late" }, { $set: { session: 4 } });
    await holder.settle(release("late", "t"));
    assert.deepEqual(await holder.read("late"), { key: "late", value: 4, expires: undefined });
  });
});

/** `import` of sessions from other packages. The tests use those packages to store them. */

import { FileAdapter } from "@grammyjs/storage-file";
import { MongoDBAdapter } from "@grammyjs/storage-mongodb";
import { PsqlAdapter } from "@grammyjs/storage-psql";
import { RedisAdapter } from "@grammyjs/storage-redis";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { MongoClient } from "mongodb";
import pg from "pg";
import { createClient } from "redis";
import LocalSession from "telegraf-session-local";
import { session as mongodbSession } from "telegraf-session-mongodb";
import RedisSession from "telegraf-session-redis";
import { cli, kinds } from "../support/commandLine.ts";
import { place, serverUrl } from "../support/servers.ts";

/** The expected sessions after the import, by key. */
type Expected = Record<string, unknown>;

const [sqlite] = kinds.filter(({ name }) => name === "SQLite");

/** Imports into one database after the other. */
async function imports(
  format: string,
  source: string,
  expected: Expected,
  output: RegExp,
  ...flags: string[]
): Promise<void> {
  for (const kind of flags.length > 0 ? [sqlite!] : kinds) {
    await using to = kind.place();
    const run = await cli("import", "--format", format, ...flags, source, to.url);
    assert.equal(run.code, 0, run.stderr);
    assert.match(run.stdout, output, kind.name);
    await using store = to.store();
    const found: Expected = {};
    for await (const [key, session] of store.entries()) found[key] = session;
    assert.deepEqual(found, expected, kind.name);
  }
}

/** A session, as Telegraf or grammY stores it. */
const session = { name: "Zoë", cart: [{ id: 1 }] };

describe("import", { timeout: 600_000 }, () => {
  const folder = () => mkdtempSync(join(tmpdir(), "telegraf-session-import-"));

  it("imports sessions of telegraf-session-local", async () => {
    const path = folder();
    try {
      const database = join(path, "sessions.json");
      const local = new LocalSession({ database });
      await local.saveSession("-100500:7", session); // chat, then user
      await local.saveSession("8:8", { n: 8 });
      await local.saveSession("query:9:9", { n: 9 });
      await imports(
        "telegraf-session-local",
        database,
        {
          "7:-100500": session,
          "8:8": { n: 8 },
          "query:9:9": { n: 9 },
        },
        /^Kept 1 key unchanged because it cannot be converted .*\nCopied 3 sessions .* from .*sessions\.json to /,
      );
      await imports(
        "telegraf-session-local",
        database,
        { "-100500:7": session, "8:8": { n: 8 }, "query:9:9": { n: 9 } },
        /^Copied 3 sessions/,
        "--keep-keys",
      );
    } finally {
      rmSync(path, { recursive: true });
    }
  });

  it("imports sessions of telegraf-session-redis, and no other data of that server", async () => {
    const url = new URL(serverUrl("redis"));
    const before = place();
    const own = new RedisSession({
      store: { host: url.hostname, port: Number(url.port), db: 1 },
      ttl: 1_000,
    });
    const other = createClient({ url: `${url}`, database: 1 });
    await other.connect();
    try {
      await own.saveSession(`${before}:1:1`, session);
      await own.saveSession(`${before}:2:-100`, { n: 2 });
      await other.set(`${before}:counter`, "5");
      await other.set(`${before}:text`, "hello");
      await other.hSet(`${before}:hash`, "a", "b");
      // Other programs store JSON on the same server: a job queue, a web site.
      await other.set(`${before}:bull:mails:7`, '{"attempts":1}');
      await other.set(`${before}:sess:xyz`, '{"cookie":{}}');
      await other.set(`${before}:3:3`, "[1]"); // not a JSON object
      const base = url.href.replace(/\/$/, "") + "/1";
      await imports(
        "telegraf-session-redis",
        `${base}?prefix=${before}:`,
        { "1:1": session, "2:-100": { n: 2 } },
        /^Ignored 6 keys of .*--all-keys.*\nCopied 2 sessions/,
      );
      await using all = sqlite!.place();
      const keys = ["1:1", "2:-100", "bull:mails:7", "sess:xyz"];
      const every = ["--format", "telegraf-session-redis", "--all-keys"];
      const run = await cli("import", ...every, `${base}?prefix=${before}:`, all.url);
      assert.equal(run.code, 0, run.stderr);
      assert.match(
        run.stdout,
        /^Ignored 4 keys of .*\. Only JSON objects are imported, .*\nCopied 4/,
      );
      const raw = await all.raw();
      assert.deepEqual([...raw.keys()].toSorted(), keys);
      const { expires = 0 } = raw.get("1:1")!;
      assert.ok(expires > Date.now() && expires < Date.now() + 1_000_000);
      // Without a prefix in the URL, the other keys of this test do not have the right form.
      await other.set("77:77", '{"n":77}');
      await other.set(`telegraf:${before}`, '{"ours":true}');
      await using to = sqlite!.place();
      const bare = await cli("import", "--format", "telegraf-session-redis", base, to.url);
      assert.equal(bare.code, 0, bare.stderr);
      assert.match(
        bare.stdout,
        /^Ignored [89] keys of .*\. Only JSON objects under keys like 1:-2 /,
      );
      assert.deepEqual([...(await to.raw()).keys()], ["77:77"]);
    } finally {
      const { keys } = await other.scan("0", { MATCH: `*${before}*`, COUNT: 100_000 });
      await other.del([...keys, "77:77"]);
      other.destroy();
      own.client.quit();
    }
  });

  it("imports sessions of telegraf-session-mongodb", async () => {
    const client = new MongoClient(serverUrl("mongodb"));
    const collectionName = place();
    try {
      const middleware = mongodbSession(client.db(), { collectionName });
      for (const [id, session] of [[1, { n: 1 }], [2, { list: [1, "b"] }]] as const) {
        const ctx = { from: { id }, chat: { id: -100 }, session: undefined as unknown };
        await middleware(ctx as never, () => Promise.resolve(void (ctx.session = session)));
      }
      await imports(
        "telegraf-session-mongodb",
        `${serverUrl("mongodb")}?collection=${collectionName}`,
        { "1:-100": { n: 1 }, "2:-100": { list: [1, "b"] } },
        /^Copied 2 sessions/,
      );
    } finally {
      await client.db().collection(collectionName).drop();
      await client.close();
    }
  });

  it("imports sessions of grammY's file storage", async () => {
    const path = folder();
    try {
      const storage = new FileAdapter({ dirName: path });
      await storage.write("42", session);
      await storage.write("-100500", { n: 2 });
      await storage.write("43", { __d: { n: 3 }, e: Date.now() + 1_000_000, v: 1 }); // enhanced
      await storage.write("44", { __d: { n: 4 }, e: Date.now() - 1_000 });
      await imports(
        "grammy-file",
        path,
        { "42:42": session, "-100500": { n: 2 }, "43:43": { n: 3 } },
        /^Kept 1 key unchanged .*\nCopied 3 sessions .*\nLeft out 1 expired session\.\n/,
      );
      await imports(
        "grammy-file",
        path,
        { "42": session, "-100500": { n: 2 }, "43": { n: 3 } },
        /^Copied 3 sessions/,
        "--keep-keys",
      );
      writeFileSync(join(path, "42", "bad42.json"), "{");
      await using to = sqlite!.place();
      const run = await cli("import", "--format", "grammy-file", path, to.url);
      assert.equal(run.code, 1);
      assert.match(
        run.stderr,
        /^Not imported: 42.bad42\.json: .*\n1 session was not copied\n$/,
      );
    } finally {
      rmSync(path, { recursive: true });
    }
  });

  it("imports sessions of grammY's Redis storage", async () => {
    const client = createClient({ url: serverUrl("redis"), database: 2 });
    await client.connect();
    const instance = {
      set: (...args: (string | number)[]) => client.sendCommand(["SET", ...args.map(String)]),
    };
    try {
      await new RedisAdapter({ instance: instance as never, ttl: 1_000 }).write("42", session);
      await new RedisAdapter({ instance: instance as never }).write("-100500", { n: 2 });
      await client.set("queue:1", '{"job":true}');
      await client.set("7:7", '{"by":"telegraf-session-redis"}');
      const url = serverUrl("redis").replace(/\/$/, "") + "/2";
      await imports(
        "grammy-redis",
        url,
        { "42:42": session, "-100500": { n: 2 } },
        /^Ignored 2 keys of .*\nKept 1 key unchanged .*\nCopied 2 sessions/,
      );
      await using to = sqlite!.place();
      const run = await cli("import", "--format", "grammy-redis", "--all-keys", url, to.url);
      assert.equal(run.code, 0, run.stderr);
      const keys = [...(await to.raw()).keys()].toSorted();
      assert.deepEqual(keys, ["-100500", "42:42", "7:7", "queue:1"]);
    } finally {
      await client.del(["42", "-100500", "queue:1", "7:7"]);
      client.destroy();
    }
  });

  it("imports sessions of grammY's MongoDB storage", async () => {
    const client = new MongoClient(serverUrl("mongodb"));
    const collection = client.db().collection(place());
    try {
      await collection.insertOne({ session: "of connect-mongo", expires: new Date() });
      const storage = new MongoDBAdapter({ collection: collection as never });
      await storage.write("42", session);
      await storage.write("43", { n: 43 });
      await imports(
        "grammy-mongodb",
        `${serverUrl("mongodb")}?collection=${collection.collectionName}`,
        { "42:42": session, "43:43": { n: 43 } },
        /^Ignored 1 document of .*\. Only documents .*\nCopied 2 sessions/,
      );
    } finally {
      await collection.drop();
      await client.close();
    }
  });

  it("imports sessions of grammY's PostgreSQL storage", async () => {
    const client = new pg.Client(serverUrl("postgres"));
    await client.connect();
    const tableName = place().replace("-", "_");
    try {
      const storage = await PsqlAdapter.create({ tableName, client });
      for (let i = 1; i <= 1_100; i++) await storage.write(`${i}`, { i });
      await using to = sqlite!.place();
      const url = `${serverUrl("postgres")}?table=${tableName}`;
      const run = await cli("import", "--format", "grammy-psql", url, to.url);
      assert.equal(run.code, 0, run.stderr);
      assert.equal((await to.raw()).size, 1_100);
      await client.query(`DELETE FROM "${tableName}" WHERE key NOT IN ('7', '8')`);
      await imports(
        "grammy-psql",
        url,
        { "7:7": { i: 7 }, "8:8": { i: 8 } },
        /^Copied 2 sessions/,
      );
    } finally {
      await client.query(`DROP TABLE IF EXISTS "${tableName}"`);
      await client.end();
    }
  });

  it("reports a missing table, and a database of the wrong kind", async () => {
    await using to = sqlite!.place();
    const run = (...args: string[]) => cli("import", "--format", ...args, to.url);
    const table = await run("grammy-psql", `${serverUrl("postgres")}?table=${place()}`);
    assert.deepEqual([table.code, table.stdout], [1, ""]);
    assert.match(table.stderr, /: relation "test-.*" does not exist\n$/);
    const other = await run("grammy-psql", serverUrl("mysql"));
    assert.deepEqual([other.code, other.stdout], [2, ""]);
    assert.match(other.stderr, /^This --format reads from PostgreSQL, but SOURCE is MySQL .*\n$/);
  });
});

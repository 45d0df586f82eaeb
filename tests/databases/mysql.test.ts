/** Tests that only MySQL and MariaDB need. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { after, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { createPool as createCallbackPool, createPoolCluster, type PoolOptions } from "mysql2";
import { createPool, type RowDataPacket } from "mysql2/promise";
import { MySQL, type MySQLOptions } from "../../mysql.ts";
import { backendOf } from "../../src/store/factory.ts";
import { dialect } from "../../src/mysql/dialect.ts";
import { statements } from "../../src/sql/statements.ts";
import { leases } from "../../src/testing/leases.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  runTopics,
  workerOf,
} from "../support/conformance.ts";
import { urlWith } from "../suites/faults.ts";
import { type SQLOptions, sqlTables } from "../suites/sqlTables.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import { requireVersion } from "../support/packages.ts";
import { entry } from "../support/process.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = serverUrl("mysql");
const admin = createPool({ uri: url, connectionLimit: 3, rowsAsArray: true });
const used: string[] = [];
const databases: string[] = [];
const users: string[] = [];

after(async () => {
  for (const table of used) await drop(table);
  for (const database of databases) await admin.query(`DROP DATABASE ${quoted(database)}`);
  for (const user of users) await admin.query(`DROP USER ${user}`);
  await admin.end();
});

/** Returns the name of a table, which is dropped at the end. */
function table(name = place()): string {
  used.push(name);
  return name;
}

function quoted(...names: string[]): string {
  return names.map((name) => `\`${name.replaceAll("`", "``")}\``).join(".");
}

async function drop(name: string): Promise<void> {
  await admin.query(`DROP TABLE IF EXISTS ${quoted(name)}`);
}

// deno-lint-ignore no-explicit-any
async function rows(sql: string, ...values: unknown[]): Promise<any[][]> {
  const [rows] = await admin.query(sql, values);
  // deno-lint-ignore no-explicit-any
  return rows as any[][];
}

/** Returns the table's columns with their types, and the number of its indexed columns. */
async function shape(...name: string[]): Promise<{ columns: unknown; unique: number }> {
  const columns = await rows(`SHOW FULL COLUMNS FROM ${quoted(...name)}`);
  const indexes = await rows(`SHOW INDEX FROM ${quoted(...name)}`);
  return {
    columns: Object.fromEntries(columns.map(([column, type, collation]) => [
      column,
      [type.replace(/^bigint.*/, "bigint"), collation?.split("_")[0]].filter(Boolean).join(" "),
    ])),
    unique: indexes.length,
  };
}

const ours = {
  columns: { key: "varbinary(512)", session: "longtext utf8mb4", expires: "bigint" },
  unique: 1,
};

/** Creates a store of 2.0.0-beta.7 on a pool. */
function upstream(pool: unknown, table: string) {
  return requireVersion("@telegraf/session", "2.0.0-beta.7", "/mysql").MySQL({ pool, table });
}

/** Creates a table as versions up to 2.0.0-beta.4 did, with rows that later versions added. */
async function keyless(name: string[], charset = "utf8mb4"): Promise<void> {
  const table = quoted(...name);
  await rows(`CREATE TABLE ${table} (\`key\` varchar(32), session text) CHARACTER SET ${charset}`);
  await rows(
    `INSERT INTO ${table} VALUES
    ('1:1', '1'), ('1:2', '1'), ('1:1', '2'), (NULL, '1'), ('K', '1'), ('k', '1'), ('k ', '1'),
    ('1:1', '3'), (NULL, '2'), ('K', '2'), ('é', '1'), ('e', '1')`,
  );
}

const remaining: [key: string | null, session: string][] = [
  [null, "1"],
  [null, "2"],
  ["1:1", "3"],
  ["1:2", "1"],
  ["K", "2"],
  ["e", "1"],
  ["k", "1"],
  ["k ", "1"],
  ["é", "1"],
];

/** Creates a database in which users have only the rights that the test grants. */
async function createDatabase(charset = "utf8mb4"): Promise<{ name: string; url: string }> {
  const name = place();
  await admin.query(`CREATE DATABASE ${quoted(name)} CHARACTER SET ${charset}`);
  databases.push(name);
  const own = new URL(url);
  own.pathname = name;
  return { name, url: own.href };
}

/** Creates a user who has only the given grants; returns the URL. */
async function createUser(url: string, ...grants: string[]): Promise<string> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  await admin.query(`CREATE USER ${name} IDENTIFIED BY 'secret'`);
  users.push(name);
  for (const grant of grants) await admin.query(`${grant} TO ${name}`);
  const own = new URL(url);
  own.username = name;
  own.password = "secret";
  return own.href;
}

const harness: Harness = {
  name: "MySQL",
  store: (table, options) => MySQL({ url, table, ...options }),
  backend: (table, options) => backendOf(MySQL, { url, table, ...options }),
  drop,
  worker: (table) => workerOf("mysql", "MySQL", { url, table }),
  async corrupt(table, key) {
    await admin.query(`INSERT INTO ${quoted(table)} (\`key\`, session) VALUES (?, '{"a"')`, [key]);
  },
  writeOld: (table, key, session) => upstream(admin.pool, table).set(key, session),
};

conformance(harness);
encryptedConformance(harness);

/** The words that MySQL 8 and 9 reserve, and MariaDB does not. */
const reserved = `cube cume_dist dense_rank empty first_value function generated grouping groups
  json_table lag last_value lateral lead library manual nth_value ntile optimizer_costs parallel
  percent_rank qualify rank row row_number stored system tablesample virtual window`.split(/\s+/);

describe("MySQL without INSERT … RETURNING", () => {
  const pools: ReturnType<typeof createCallbackPool>[] = [];
  after(() => pools.forEach((pool) => pool.end()));

  /** A pool on which every server says that it is MySQL 8. */
  function oldPool() {
    const pool = createCallbackPool({ uri: url });
    pools.push(pool);
    pool.on("connection", (connection) => {
      for (const method of ["query", "execute"] as const) {
        const send = connection[method] as unknown as (...args: unknown[]) => never;
        connection[method] = ((options: { sql: string }, callback: unknown) => {
          assert.doesNotMatch(options.sql, /RETURNING/);
          const sql = options.sql.replace("@@version", "'8.0.0'");
          return send.call(connection, { ...options, sql }, callback);
        }) as never;
      }
    });
    return pool;
  }

  const name = "MySQL without RETURNING";
  const options = (name: string, options?: object) => ({
    pool: oldPool(),
    table: table(name),
    ...options,
  });
  runTopics({
    ...harness,
    name,
    store: (where, others) => MySQL(options(where, others)),
    backend: (where, others) => backendOf(MySQL, options(where, others)),
  }, [leases]);

  it(`${name} uses no word that MySQL reserves`, () => {
    const settings = {
      charset: "utf8mb4",
      maxAllowedPacket: 1e6,
      version: "8.4.0",
      returning: false,
    };
    const own = dialect({ schema: undefined, table: "t" }, settings);
    const columns = new Map(
      ["key", "session", "expires", "lease", "until", "note"].map((it) => [it, ""]),
    );
    const statements = own.leases({ columns, unique: true, indexed: true });
    const { claim, settle, remove, removeAbsent, read, held } = statements;
    for (const text of [claim, settle, remove, removeAbsent, read, held].map((make) => make(2))) {
      const words = text.toLowerCase().replace(/`[^`]*`/g, "").match(/\w+/g)!;
      assert.deepEqual(words.filter((word) => reserved.includes(word)), []);
    }
  });
});

/** The name of a table with its database. */
function nameOf({ url, table }: SQLOptions): [database: string, table: string] {
  return [new URL(url!).pathname.slice(1), table!];
}

sqlTables({
  name: "MySQL",
  url,
  factory: "MySQL",
  module: entry("mysql", import.meta.url),
  store: (options) => MySQL(options as MySQLOptions),
  table,
  keyless: {
    " in utf8mb4": (options) => keyless(nameOf(options)),
    " in latin1": (options) => keyless(nameOf(options), "latin1"),
  },
  remaining,
  contents(options) {
    const name = quoted(...nameOf(options));
    return rows(
      `SELECT CONVERT(\`key\` USING utf8mb4), session FROM ${name} ORDER BY \`key\`, 2`,
    );
  },
  async assertCurrent(name) {
    assert.deepEqual(await shape(name), ours);
  },
  upstream,
  pool(url, size) {
    const pool = createCallbackPool({ uri: url, connectionLimit: size });
    let opened = 0;
    pool.on("connection", () => opened++);
    return { pool, opened: () => opened, end: () => pool.promise().end() };
  },
  async restricted(setUp) {
    const { name, url } = await createDatabase();
    await setUp({ url, table: "telegraf-sessions" });
    const grant = `GRANT SELECT, INSERT, UPDATE, DELETE ON ${quoted(name)}.*`;
    return { url: await createUser(url, grant), table: "telegraf-sessions" };
  },
  async whileRead(name, work) {
    const reader = await admin.getConnection();
    try {
      await reader.query("BEGIN");
      await reader.query(`SELECT 1 FROM ${quoted(name)}`);
      await work();
    } finally {
      await reader.query("ROLLBACK");
      reader.release();
    }
  },
  keepIdle: { idleTimeout: 300_000 },
  messages: {
    cannotCreate: (table) =>
      new RegExp(`table \`[^\`]+\`\\.\`${table}\` cannot be created: CREATE command denied`),
    lockTimeout: /Lock wait timeout/,
    wrongPassword: /^Cannot read session "k": Access denied for user/,
    missingDatabase: /Unknown database 'missing'|Access denied/,
  },
});

describe("MySQL tables", () => {
  for (const charset of ["utf8mb4", "latin1"]) {
    it(`MySQL upgrades a table in ${charset} while 2.0.0-beta reads and writes it`, async () => {
      const errors: unknown[] = [];
      const database = await createDatabase(charset);
      const pool = createCallbackPool(database.url);
      const old = upstream(pool, "telegraf-sessions");
      const sessions: Record<string, unknown> = {
        "1:1": { count: 1 },
        "-1001234567890:1234567890": { text: charset === "latin1" ? "é" : "é 🔑" },
        [(charset === "latin1" ? "é" : "🔑").repeat(32)]: { long: "key" },
        "large": { text: "e".repeat(65_000) },
        // These keys are equal in many collations, but not in the default one of latin1.
        ...(charset === "latin1" && { "a": 1, "ä": 2 }),
      };
      for (const [key, session] of Object.entries(sessions)) await old.set(key, session);
      const name = [database.name, "telegraf-sessions"];
      await rows(`INSERT INTO ${quoted(...name)} VALUES ('null', NULL), ('empty', '')`);

      await using store = MySQL({ url: database.url, onError: (error) => errors.push(error) });
      for (const [key, session] of Object.entries(sessions)) {
        assert.deepEqual(await store.get(key), session);
      }
      assert.equal(await store.get("null"), undefined);
      assert.equal(await store.get("empty"), undefined);
      assert.deepEqual(await shape(...name), ours);

      const distinct = ["case", "Case", "case ", "cäse", "🔑".repeat(128)];
      for (const key of distinct) await store.set(key, { key, text: "🔑".repeat(20_000) });
      for (const key of distinct) assert.equal((await store.get(key)).key, key);
      await old.set("1:1", { count: 2 });
      assert.deepEqual(await store.get("1:1"), { count: 2 });
      await store.set("1:1", { count: 3 });
      assert.deepEqual(await old.get("1:1"), { count: 3 });
      const count = await store.size();
      await using expiring = MySQL({ url: database.url, ttl: 1 });
      await expiring.set("1:1", { count: 4 });
      await wait(5);
      assert.equal(await store.get("1:1"), undefined);
      assert.equal(await expiring.prune(), 1);
      assert.equal(await store.size(), count - 1);
      pool.end();
      assert.deepEqual(errors, []);
    });
  }

  it("MySQL finishes an upgrade that another process left unfinished", async () => {
    const errors: unknown[] = [];
    for (let done = 1;; done++) {
      const name = table();
      await keyless([name], "latin1");
      const columns = new Map([["key", "varchar(32) latin1"], ["session", "text latin1"]]);
      const old = { columns, unique: false, indexed: false };
      const settings = {
        charset: "utf8mb4",
        maxAllowedPacket: 1e6,
        version: "8.4.0",
        returning: true,
      };
      const changes = dialect({ schema: undefined, table: name }, settings).changes(
        old,
      );
      if (done > changes.length) break;
      for (const change of changes.slice(0, done)) await admin.query(change);
      await using store = MySQL({ url, table: name, onError: (error) => errors.push(error) });
      await store.ready();
      const left = await rows(
        `SELECT CONVERT(\`key\` USING utf8mb4), session FROM ${quoted(name)} ORDER BY \`key\`, 2`,
      );
      assert.deepEqual(left, remaining);
      assert.deepEqual(await shape(name), ours);
    }
    assert.deepEqual(errors, []);
  });

  it("MySQL opens, upgrades and prunes from 12 processes if the server refuses locks", async () => {
    await using proxy = await Proxy.to(url);
    // A function name of the same length that the server does not know.
    proxy.change = (request) => {
      const at = request.indexOf("GET_LOCK");
      if (at >= 0) request.write("GXT_LOCK", at);
    };
    const through = urlWith(url, { host: proxy.host });
    const all = Array.from({ length: 12 }, () => table());
    for (const name of all.slice(6)) await keyless([name], "latin1");
    const errors = await coldStart({
      module: entry("mysql", import.meta.url),
      factory: "MySQL",
      options: { url: through, timeout: 60_000 },
      place: "table",
    }, all);
    assert.deepEqual(errors, []);
    for (const [i, name] of all.entries()) {
      await using store = MySQL({ url: through, table: name, ttl: 60_000 }); // finishes the upgrade
      await store.ready();
      const { columns, unique } = await shape(name);
      assert.deepEqual({ columns, unique }, { ...ours, unique: 2 }); // the key and the expiry
      const own = await rows(`SELECT 1 FROM ${quoted(name)} WHERE \`key\` LIKE 'process:%'`);
      assert.equal(own.length, processes);
      if (i < 6) continue;
      const left = await rows(
        `SELECT CONVERT(\`key\` USING utf8mb4), session FROM ${quoted(name)}
        WHERE \`key\` IS NULL OR \`key\` NOT LIKE 'process:%' AND \`key\` <> 'shared' ORDER BY \`key\`, 2`,
      );
      assert.deepEqual(left, remaining);
    }
    await using store = MySQL({ url: through, table: all[0], ttl: 1 });
    await store.set("k", 1);
    await wait(5);
    assert.equal(await store.prune(), 1);
  });

  const dml = "GRANT SELECT, INSERT, UPDATE, DELETE ON";

  for (const charset of ["utf8mb4", "latin1"]) {
    it(`MySQL works within the limits of an old table in ${charset} that it may not alter`, async () => {
      const { name, url } = await createDatabase(charset);
      const pool = createCallbackPool(url);
      await upstream(pool, "telegraf-sessions").set("k", { a: "é" });
      pool.end();
      const restricted = await createUser(url, `${dml} ${quoted(name)}.*`);
      for (const charset of ["utf8mb4", "latin1"]) {
        const errors: unknown[] = [];
        await using store = MySQL({
          url: restricted,
          config: { charset },
          onError: (error) => errors.push(error),
        });
        assert.deepEqual(await store.get("k"), { a: "é" });
        await Promise.all(["a", "b", "k"].map((key) => store.set(key, { a: `é${key}` })));
        const read = await Promise.all(["a", "b", "k"].map((key) => store.get(key)));
        assert.deepEqual(read, [{ a: "éa" }, { a: "éb" }, { a: "ék" }]);
        await store.set("k", { a: "é" });
        await assert.rejects(store.set("k".repeat(33), 1), /too long/);
        await assert.rejects(store.set("k", "x".repeat(70_000)), { name: "TooLargeError" });
        assert.deepEqual(await store.get("k"), { a: "é" });
        assert.equal(errors.length, 1);
        assert.match(String(errors[0]), /of an older version and cannot be upgraded.*denied/);
      }
    });
  }

  for (const charset of ["utf8mb4", "latin1"]) {
    it(`MySQL replaces in an old table in ${charset} only what is the same in every byte`, async () => {
      const { name, url } = await createDatabase(charset);
      const pool = createCallbackPool(url);
      await upstream(pool, "telegraf-sessions").set("k", "é a");
      const backend = backendOf(MySQL, { url: await createUser(url, `${dml} ${quoted(name)}.*`) });
      const { signal } = new AbortController();
      const replace = async (before: string, after: string) => {
        await backend.replace([{ key: "k", before, after }], signal);
        const [entry] = await backend.read(["k"], signal);
        return entry!.value;
      };
      try {
        await backend.open({ expiring: false, leasing: false, signal, report() {} });
        for (const other of ['"É a"', '"e a"', '"é A"', '"é a" ']) {
          assert.equal(await replace(other, '"b"'), '"é a"', other);
        }
        assert.equal(await replace('"é a"', '"b"'), '"b"');
      } finally {
        await backend.close();
        pool.end();
      }
    });
  }

  it("MySQL refuses text of a codec that an old table cannot hold, and changes nothing", async () => {
    const { name, url } = await createDatabase("latin1");
    const pool = createCallbackPool(url);
    await upstream(pool, "telegraf-sessions").set("k", "é");
    const codec = { encode: (it: string) => `text: ${it}`, decode: (it: string) => it.slice(6) };
    const restricted = await createUser(url, `${dml} ${quoted(name)}.*`);
    await using store = MySQL({ url: restricted, codec });
    await assert.rejects(store.set("k", "鍵"), {
      name: "StoreError",
      key: "k",
      message: /the character set of the old table lacks characters of the session$/,
    });
    assert.equal(await store.get("k"), "é");
    await store.set("k", "ascii");
    assert.equal(await store.get("k"), "ascii");
    pool.end();
  });

  it("MySQL finds a prefix by the index", async () => {
    const { name, url } = await createDatabase();
    await using store = MySQL({ url });
    const keys = Array.from({ length: 200 }, (_, i) => `${i % 10}:${i}`);
    await Promise.all(keys.map((key) => store.set(key, 1)));
    const shape = { columns: new Map([["key", "varbinary(512)"]]), unique: true, indexed: false };
    const settings = { charset: "utf8mb4", maxAllowedPacket: 1e6, version: "", returning: false };
    const { page } = statements(
      dialect({ schema: name, table: "telegraf-sessions" }, settings),
      shape,
    );
    for (const start of [undefined, "1:1"]) {
      const { text, key } = page(start, 10, "1:");
      const [[plan]] = await admin.query<RowDataPacket[]>({
        sql: `EXPLAIN FORMAT=TRADITIONAL ${text}`,
        values: [Buffer.from(key)],
        rowsAsArray: false,
      });
      assert.equal(plan!.type, "range");
      assert.equal(plan!.key, "PRIMARY");
      assert.doesNotMatch(String(plan!.Extra), /filesort/);
    }
  });

  it("MySQL does not alter data silently in an old table without strict mode", async () => {
    const { name, url } = await createDatabase("latin1");
    const old = createCallbackPool(url);
    await upstream(old, "telegraf-sessions").set("k", { a: "é" });
    const restricted = await createUser(url, `${dml} ${quoted(name)}.*`);
    const pool = createCallbackPool(restricted);
    pool.on("connection", (connection) => connection.query("SET sql_mode = ''"));
    await using store = MySQL({ pool });
    const session = { text: "é ß 鍵 🔑 ' \" \\" };
    await store.set("k", session);
    assert.deepEqual(await store.get("k"), session);
    assert.deepEqual(await upstream(old, "telegraf-sessions").get("k"), session);
    await store.set("é".repeat(32), session);
    assert.deepEqual(await store.get("é".repeat(32)), session);
    const refused = { name: "StoreError", message: /too long|character set lacks characters/ };
    for (const key of ["é".repeat(33), "?".repeat(33), "鍵", "🔑"]) {
      await assert.rejects(store.set(key, 1), refused);
      await assert.rejects(Promise.all([store.set(key, 1), store.set("k", session)]), refused);
    }
    await assert.rejects(store.set("k", "鍵".repeat(11_000)), { name: "TooLargeError" });
    const keys = [];
    for await (const key of store.keys()) keys.push(key);
    assert.deepEqual(keys.toSorted(), ["k", "é".repeat(32)]);
    assert.deepEqual(await store.get("k"), session);
    pool.end();
    old.end();
  });

  it("MySQL opens a table of another database if 2.0.0-beta read the name as database.table", async () => {
    const { name: database } = await createDatabase();
    const pool = createCallbackPool(url);
    const dotted = `${database}.sess`;
    await rows(
      `CREATE TABLE ${quoted(database, "sess")} (\`key\` varchar(32) PRIMARY KEY, session text)`,
    );
    await upstream(pool, dotted).set("k", { old: true });
    await using store = MySQL({ pool, table: dotted });
    assert.deepEqual(await store.get("k"), { old: true });
    await store.set("k", { old: false });
    assert.deepEqual(await upstream(pool, dotted).get("k"), { old: false });
    assert.deepEqual(await shape(database, "sess"), ours);
    await using same = MySQL({ pool, schema: database, table: "sess" });
    assert.deepEqual(await same.get("k"), { old: false });
    pool.end();
  });

  it("MySQL keeps a table with a dot in its name, and creates one if there is no other", async () => {
    const { name: database } = await createDatabase();
    for (const name of [table(`${database}.sess`), table(`${place()}.sess`)]) {
      await using made = MySQL({ url, table: name });
      await made.set("k", 1);
      await rows(`CREATE TABLE IF NOT EXISTS ${quoted(database, "sess")} (x int)`);
      await using store = MySQL({ url, table: name });
      assert.equal(await store.get("k"), 1);
      assert.deepEqual(await rows(`SELECT session FROM ${quoted(name)}`), [["1"]]);
      await using named = MySQL({ url, table: name, schema: new URL(url).pathname.slice(1) });
      assert.equal(await named.get("k"), 1);
    }
  });

  it("MySQL works in a database other than the connection's", async () => {
    const { name: database } = await createDatabase();
    const none = new URL(url);
    none.pathname = "";
    await using store = MySQL({ url: none.href, schema: database, ttl: 60_000 });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    assert.deepEqual(await rows(`SELECT session FROM ${quoted(database, "telegraf-sessions")}`), [[
      "1",
    ]]);
    assert.equal(await store.prune(), 0);
  });

  it("MySQL accepts any table name and quotes it", async () => {
    for (const name of ["`; DROP TABLE x; --", "Ünï.côde \\ '?' \"", "é".repeat(64)]) {
      await using store = MySQL({ url, table: table(name) });
      await store.set("k", { name });
      assert.deepEqual(await store.get("k"), { name });
      assert.deepEqual(await shape(name), ours);
    }
  });
});

describe("MySQL pools", () => {
  it("MySQL does not close pools that were passed in, of either kind", async () => {
    const callbacks = createCallbackPool(url);
    const promises = createPool(url);
    const name = table();
    for (const pool of [callbacks, promises]) {
      const store = MySQL({ pool, table: name });
      await store.set("k", 1);
      assert.equal(await store.get("k"), 1);
      await store.close();
    }
    for (const pool of [callbacks.promise(), promises]) {
      const [[row]] = await pool.query<RowDataPacket[]>(`SELECT session FROM ${quoted(name)}`);
      assert.equal(row!.session, "1");
      await pool.end();
    }
  });

  it("MySQL releases its locks and restores its settings on a connection", async () => {
    const pool = createPool({ uri: url, connectionLimit: 1 });
    const name = table();
    await using store = MySQL({ pool, table: name });
    await store.ready();
    const patience = "SELECT @@lock_wait_timeout = @@GLOBAL.lock_wait_timeout AS same";
    const [[row]] = await pool.query<RowDataPacket[]>(patience);
    assert.equal(row!.same, 1);
    await drop(name);
    await using other = MySQL({ url, table: name, timeout: 1_000 });
    await other.set("k", 1);
    await pool.end();
  });

  it("MySQL keeps the operations of two stores on both forms of one pool in order", async () => {
    const pool = createCallbackPool(url);
    const name = table();
    const stores = [MySQL({ pool, table: name }), MySQL({ pool: pool.promise(), table: name })];
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 100; i++) {
      writes.push(stores[i % 2]!.set("k", i));
      assert.equal(await stores[(i + 1) % 2]!.get("k"), i);
    }
    await Promise.all(writes);
    assert.deepEqual(await rows(`SELECT session FROM ${quoted(name)}`), [["99"]]);
    for (const store of stores) await store.close();
    pool.end();
  });

  it("MySQL has leases on a server that makes all assignments of a statement at the same time", async () => {
    const pool = createCallbackPool({ uri: url });
    const mode = "sql_mode = 'SIMULTANEOUS_ASSIGNMENT'"; // MySQL takes it for a comment
    pool.on("connection", (it) => it.query(`SET @x = 1 /*M!100300 , ${mode} */`));
    const name = table();
    await using store = MySQL({ pool, table: name });
    await using other = MySQL({ url, table: name });
    const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });
    await store.update("k", count);
    await store.update("k", async (session) => {
      await assert.rejects(other.update("k", count, { wait: 1 }), { name: "LeaseError" });
      return count(session as { n: number });
    });
    assert.deepEqual(await other.get("k"), { n: 2 });
    await store.close();
    await new Promise((resolve) => pool.end(resolve));
  });

  it("MySQL keeps keys and sessions on pools with other settings and another version of mysql2", async () => {
    const { createPool: createOldPool } = requireVersion("mysql2", "3.9.0");
    const settings: PoolOptions[] = [
      { charset: "latin1" },
      { charset: "latin1_swedish_ci", rowsAsArray: true },
      { charset: "cp1251", nestTables: true },
      { supportBigNumbers: true, bigNumberStrings: true, namedPlaceholders: true },
      { typeCast: false, dateStrings: true },
      { typeCast: (field, next) => field.type === "TINY" ? field.string() === "1" : next() },
    ];
    const text = `é ß ｷ 鍵 🔑 ÿ ' " \\ \u0080 \u2028`;
    // Before 3.22, mysql2 sent bytes as text in the connection's character set.
    const newer: PoolOptions[] = [...settings, { charset: "utf8" }, { charset: "sjis" }];
    for (const [create, all] of [[createCallbackPool, newer], [createOldPool, settings]]) {
      for (const setting of all) {
        const pool = create({ uri: url, ...setting });
        await using store = MySQL({ pool, table: table() });
        for (const key of ["k", text, text.normalize("NFD")]) {
          await store.set(key, { text, key });
          assert.deepEqual(await store.get(key), { text, key });
        }
        const keys = [..."aàábßｱ鍵🔑"];
        await Promise.all(keys.map((key) => store.set(key, { text, key })));
        const read = await Promise.all(keys.map((key) => store.get(key)));
        assert.deepEqual(read, keys.map((key) => ({ text, key })));
        await Promise.all(keys.map((key) => store.delete(key)));
        await using other = MySQL({ url, table: used.at(-1) });
        assert.deepEqual(await other.get(text), { text, key: text });
        assert.equal(await other.get("🔑"), undefined);
        await new Promise((resolve) => pool.end(resolve));
      }
    }
  });

  it("MySQL works again after the server ended a connection, and reports the loss", async () => {
    const pool = createPool({ uri: url, connectionLimit: 1 });
    const errors: unknown[] = [];
    await using store = MySQL({ pool, table: table(), onError: (error) => errors.push(error) });
    await store.set("k", 1);
    for (let i = 1; i <= 3; i++) {
      const [[row]] = await pool.query<RowDataPacket[]>("SELECT CONNECTION_ID() AS id");
      await admin.query("KILL ?", [row!.id]);
      for (let j = 0; j < 100 && errors.length < i; j++) await wait(20);
      assert.equal(errors.length, i);
      assert.equal(await store.get("k"), 1);
    }
    await pool.end();
  });

  it("MySQL logs in with caching_sha2_password, with and without TLS", async (context) => {
    const [[version]] = await rows("SELECT version()") as [[string]];
    if (version.includes("MariaDB")) return context.skip("MariaDB has no caching_sha2_password");
    const name = `test_${randomBytes(6).toString("hex")}`;
    await admin.query(`CREATE USER ${name} IDENTIFIED WITH caching_sha2_password BY 'secret'`);
    users.push(name);
    await admin.query(`GRANT ALL ON *.* TO ${name}`);
    for (const ssl of [undefined, { rejectUnauthorized: false }]) {
      await admin.query("FLUSH PRIVILEGES"); // The server forgets the password: the login is complete.
      const own = urlWith(url, { username: name, password: "secret" });
      await using store = MySQL({ url: own, table: table(), config: { ssl } });
      await store.set("k", { secure: ssl !== undefined });
      assert.deepEqual(await store.get("k"), { secure: ssl !== undefined });
    }
  });

  it("MySQL refuses only sessions that exceed max_allowed_packet", async () => {
    const [[packet]] = await rows("SELECT @@max_allowed_packet") as [[number]];
    await using store = MySQL({ url, table: table(), timeout: 120_000 });
    await store.set("k", "old");
    const most = "x".repeat(packet - "k".length - 64 - 2); // quotes
    const results = await Promise.allSettled([
      store.set("before", 1),
      store.set("k", `${most}x`),
      store.set("z", 2),
    ]);
    assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    const { reason } = results[1] as PromiseRejectedResult;
    assert.equal(reason.name, "TooLargeError");
    assert.equal(reason.key, "k");
    assert.match(
      reason.message,
      /^Cannot write session "k": session is \d+ bytes; the server's limit is/,
    );
    const read = ["before", "k", "z"].map((key) => store.get(key));
    assert.deepEqual(await Promise.all(read), [1, "old", 2]);
    await store.set("k", most);
    assert.equal((await store.get("k")).length, most.length);
    // The statement of an update has a lease too.
    const other = "y".repeat(most.length);
    await assert.rejects(store.update("k", () => other), { name: "TooLargeError", key: "k" });
    const fits = Math.min(most.length - 8_192, 2 ** 24 - 1 - 2);
    await store.update("k", () => "z".repeat(fits));
    assert.equal((await store.get("k")).length, fits);
  });

  it("MySQL keeps batches within max_allowed_packet, with any content", async () => {
    const [[packet]] = await rows("SELECT @@GLOBAL.max_allowed_packet") as [[number]];
    await admin.query("SET GLOBAL max_allowed_packet = 1048576");
    try {
      await using proxy = await Proxy.to(url);
      const through = urlWith(url, { host: proxy.host });
      await using store = MySQL({ url: through, table: table() });
      // Each character has three bytes in UTF-8. Batches of 5 and 65 get the most padding.
      for (const [count, size] of [[1, 300_000], [5, 60_000], [65, 5_000], [300, 1_000]] as const) {
        const sessions = Array.from({ length: count }, (_, i) => "鍵".repeat(size) + i);
        await Promise.all(sessions.map((session, i) => store.set("k".repeat(500) + i, session)));
        const read = sessions.map((_, i) => store.get("k".repeat(500) + i));
        assert.deepEqual(await Promise.all(read), sessions);
      }
      assert.equal(proxy.connections, 1); // the server closes a connection that sends too much
    } finally {
      await admin.query("SET GLOBAL max_allowed_packet = ?", [packet]);
    }
  });
});

describe("MySQL options", () => {
  const refused = (options: unknown) => () => MySQL(options as MySQLOptions);

  it("MySQL refuses invalid options", () => {
    assert.throws(refused({ tabel: "x" }), /^TypeError: MySQL: unknown option "tabel"/);
    assert.throws(refused({ schema: "" }), RangeError);
    assert.throws(refused({ table: "" }), RangeError);
    assert.throws(refused({ table: "x".repeat(65) }), RangeError);
    assert.throws(refused({ table: "a\0b" }), RangeError);
    assert.throws(refused({ table: 5 }), TypeError);
    assert.throws(refused({ port: "x" }), RangeError);
    assert.throws(refused({ port: 65536 }), RangeError);
    assert.throws(refused({ config: "x" }), TypeError);
    assert.throws(refused({ password: 12345 }), (error: Error) => {
      assert.match(error.message, /"password" must be a string/);
      return error instanceof TypeError && !error.message.includes("12345");
    });
    const pool = createPool(url);
    assert.throws(refused({ pool, host: "x" }), /"host" has no effect together with "pool"/);
    assert.throws(refused({ pool, url }), TypeError);
    assert.throws(refused({ url, host: "x" }), /"host" has no effect together with "url"/);
    return pool.end();
  });

  it("MySQL refuses an invalid pool", () => {
    const method = () => {};
    for (
      const pool of [
        {},
        [],
        { query: method, execute: method, promise: method }, // a connection
        { getConnection: method, query: method, execute: method }, // of another driver
        createPoolCluster(),
        { pool: {} },
        { pool: null },
      ]
    ) {
      assert.throws(refused({ pool }), {
        name: "TypeError",
        message: /^MySQL: option "pool" must be a Pool of mysql2 or mysql2\/promise, but is an? /,
      });
    }
  });

  it("MySQL refuses an invalid url without repeating it", () => {
    for (
      const url of [
        "mysql://user:s3cret@host:port/db",
        "mysql://user:s3cret@[host/db",
        "postgres://user:s3cret@host/db",
        "user:s3cret@host",
        "s3cret",
        "",
      ]
    ) {
      assert.throws(refused({ url }), (error: Error) => {
        assert.ok(error instanceof TypeError);
        assert.match(error.message, /^MySQL: mysql2 refuses these options/);
        assert.doesNotMatch(`${error.stack} ${JSON.stringify(error)}`, /s3cret/);
        assert.equal(error.cause, undefined);
        return true;
      });
    }
  });

  it("MySQL accepts host, port, database, user, password and config", async () => {
    const { hostname, port, pathname, username: user, password } = new URL(url);
    const own = { host: hostname, port: Number(port), database: pathname.slice(1), user, password };
    const name = table();
    await using store = MySQL({ ...own, config: { connectionLimit: 1 }, table: name });
    await store.set("k", 1);
    assert.deepEqual(await rows(`SELECT session FROM ${quoted(name)}`), [["1"]]);
  });
});

describe("MySQL errors", () => {
  it("MySQL rejects immediately if no database is selected", async () => {
    const wrong = new URL(url);
    const started = Date.now();
    wrong.pathname = "";
    await using store = MySQL({ url: wrong.href, timeout: 120_000 });
    await assert.rejects(store.set("k", 1), /No database selected/);
    assert.ok(Date.now() - started < 60_000);
  });
});

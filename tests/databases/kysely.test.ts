/** Tests of Kysely: the suites with dialects of each family and with older versions of Kysely. */

import { PGlite } from "@electric-sql/pglite";
import { LibsqlDialect } from "@libsql/kysely-libsql";
import BetterSqlite3 from "better-sqlite3";
import * as kysely29 from "kysely";
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { createPool } from "mysql2/promise";
import pg from "pg";
import { backendOf } from "../../src/store/factory.ts";
import { KyselyStore, type KyselyStoreOptions } from "../../kysely.ts";
import type { Store } from "../../mod.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { SQLite } from "../../sqlite.ts";
import { transient } from "../../src/kysely/errors.ts";
import { entry, run } from "../support/process.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import { conformance, encryptedConformance } from "../support/conformance.ts";
import { goesOnAfterCuts, opensOnceThere, urlWith } from "../suites/faults.ts";
import { factories, optionsOf, versions } from "../support/kysely.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-kysely-"));
const filename = join(folder, "sessions.sqlite");
const postgres = new pg.Pool({ connectionString: serverUrl("postgres"), max: 3 });
const mysql = createPool({ uri: serverUrl("mysql"), connectionLimit: 3, rowsAsArray: true });

/** Starts PGlite on first use because its start blocks the process for a while. */
const pglite = () => started ??= new PGlite();
let started: PGlite | undefined;

const used: [Family, string][] = [];

after(async () => {
  for (const [family, name] of used) {
    await family.query(`DROP TABLE IF EXISTS ${family.quoted(name)}`);
  }
  await postgres.end();
  await mysql.end();
  await started?.close();
  rmSync(folder, { recursive: true });
});

/** A database as connections other than the store see it. */
interface Family {
  quoted(name: string): string;
  query(sql: string): Promise<unknown[][]>;
}

const ansi = (name: string) => `"${name.replaceAll('"', '""')}"`;

const families = {
  SQLite: {
    quoted: ansi,
    query(sql) {
      const database = new BetterSqlite3(filename, { timeout: 5_000 });
      try {
        const statement = database.prepare(sql);
        if (statement.reader) return Promise.resolve(statement.raw().all() as unknown[][]);
        statement.run();
        return Promise.resolve([]);
      } finally {
        database.close();
      }
    },
  },
  Postgres: {
    quoted: ansi,
    query: async (text) => (await postgres.query({ text, rowMode: "array" })).rows,
  },
  MySQL: {
    quoted: (name) => `\`${name.replaceAll("`", "``")}\``,
    query: async (sql) => (await mysql.query(sql))[0] as unknown[][],
  },
} satisfies Record<string, Family>;

type Name = keyof typeof families;
const names: Name[] = ["SQLite", "Postgres", "MySQL"];
const address = {
  SQLite: { filename },
  Postgres: { url: serverUrl("postgres") },
  MySQL: { url: serverUrl("mysql") },
};
const direct = { SQLite, Postgres, MySQL };
const title = { SQLite: "SQLite", Postgres: "PostgreSQL", MySQL: "MySQL" };

/** Creates a store from the options of the entry that uses the driver directly. */
// deno-lint-ignore no-explicit-any
type Factory = (options: any) => Store<any>;

/** Returns the name of a new table, which is dropped at the end. */
function table(name: Name): string {
  const table = place();
  used.push([families[name], table]);
  return table;
}

/** Connects a Kysely to a database of the family. */
function connect(name: Name): kysely29.Kysely<Record<string, never>> {
  const { url } = { url: "", ...address[name] };
  switch (name) {
    case "SQLite":
      return new kysely29.Kysely({
        dialect: new kysely29.SqliteDialect({ database: new BetterSqlite3(filename) }),
      });
    case "Postgres":
      return new kysely29.Kysely({
        dialect: new kysely29.PostgresDialect({ pool: new pg.Pool({ connectionString: url }) }),
      });
    case "MySQL":
      return new kysely29.Kysely({
        dialect: new kysely29.MysqlDialect({ pool: createPool({ uri: url }).pool as never }),
      });
  }
}

for (const [version, kysely] of Object.entries(versions)) {
  for (const name of names) {
    const { quoted, query } = families[name];
    const harness = {
      name: `${version} on ${title[name]}`,
      store: (table: string, options?: object) =>
        (factories(kysely)[name] as Factory)({ ...address[name], table, ...options }),
      backend: (table: string, options?: object) =>
        backendOf(
          KyselyStore,
          optionsOf(kysely)[name]({ ...address[name], table, ...options } as never),
        ),
      drop: async (table: string) => void await query(`DROP TABLE IF EXISTS ${quoted(table)}`),
      updates: 250,
      async corrupt(table: string, key: string) {
        const column = name === "MySQL" ? "`key`" : "key";
        await query(`INSERT INTO ${quoted(table)} (${column}, session) VALUES ('${key}', '{"a"')`);
      },
    };
    conformance(harness);
    if (version !== "Kysely") continue;
    if (name === "MySQL") encryptedConformance(harness);
  }
}

/** SQLite with the limits of Cloudflare's D1: no transactions, up to 100 values in a statement. */
function d1(): kysely29.SqliteDialect {
  const database = new BetterSqlite3(filename);
  return new kysely29.SqliteDialect({
    database: {
      close: () => database.close(),
      prepare(sql) {
        assert.doesNotMatch(sql, /^(BEGIN|COMMIT|SAVEPOINT)/i);
        const statement = database.prepare(sql);
        const checked = (values: readonly unknown[]) => {
          assert.ok(values.length <= 100, "too many SQL variables");
          return values;
        };
        return {
          reader: statement.reader,
          all: (values) => statement.all(checked(values)),
          run: (values) => statement.run(checked(values)),
          iterate: (values) => statement.iterate(checked(values)) as IterableIterator<unknown>,
        };
      },
    },
  });
}

const dropSQLite = async (table: string) =>
  void await families.SQLite.query(`DROP TABLE IF EXISTS ${ansi(table)}`);

conformance({
  name: "Kysely on SQLite with the limits of D1",
  store: (table, options) => KyselyStore({ dialect: d1(), table, ...options }),
  backend: (table, options) => backendOf(KyselyStore, { dialect: d1(), table, ...options }),
  drop: dropSQLite,
});

/** A Kysely on PGlite. A dialect would close the database together with the store. */
function onPGlite(): kysely29.Kysely<unknown> {
  return new kysely29.Kysely({
    dialect: new kysely29.PGliteDialect({ pglite: () => Promise.resolve(pglite()) }),
  });
}

conformance({
  name: "Kysely on PGlite",
  store: (table, options) => KyselyStore({ db: onPGlite(), table, ...options }),
  backend: (table, options) => backendOf(KyselyStore, { db: onPGlite(), table, ...options }),
  drop: async (table) => void await pglite().query(`DROP TABLE IF EXISTS ${ansi(table)}`),
});

if (process.versions.deno) {
  it("Kysely on libSQL", { skip: "on Deno, the client of libSQL cannot open files" });
} else {
  const url = `file:${join(folder, "libsql.sqlite")}`;
  conformance({
    name: "Kysely on libSQL",
    store: (table, options) =>
      KyselyStore({ dialect: new LibsqlDialect({ url }), table, ...options }),
    backend: (table, options) =>
      backendOf(KyselyStore, { dialect: new LibsqlDialect({ url }), table, ...options }),
    async drop(table) {
      const db = new kysely29.Kysely({ dialect: new LibsqlDialect({ url }) });
      await db.executeQuery(kysely29.CompiledQuery.raw(`DROP TABLE IF EXISTS ${ansi(table)}`));
      await db.destroy();
    },
  });
}

/** Returns the table's columns with their types. */
async function shape(name: Name, table: string): Promise<unknown> {
  const columns = {
    SQLite: `SELECT name, lower(type) FROM pragma_table_info('${table}')`,
    Postgres: `SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
      WHERE attrelid = '"${table}"'::regclass AND attnum > 0 AND NOT attisdropped`,
    MySQL: `SELECT COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS
      WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '${table}'`,
  };
  return Object.fromEntries(await families[name].query(columns[name]));
}

/** Creates a table without a unique key, as versions up to 2.0.0-beta.4 did, with duplicates. */
async function keyless(name: Name): Promise<string> {
  const old = table(name);
  const { quoted, query } = families[name];
  const key = name === "MySQL" ? "`key`" : "key";
  await query(`CREATE TABLE ${quoted(old)} (${key} varchar(32), session text)`);
  await query(
    `INSERT INTO ${quoted(old)} VALUES
    ('1:1', '1'), ('1:2', '1'), ('1:1', '2'), (NULL, '1'), ('1:1', '3'), (NULL, '2')`,
  );
  return old;
}

const made = factories() as Record<Name, Factory>;

describe("Kysely tables", () => {
  for (const name of names) {
    it(`Kysely opens a table that ${name} created, and ${name} opens one that Kysely created`, async () => {
      const errors: unknown[] = [];
      const onError = (error: unknown) => errors.push(error);
      const tables = [table(name), table(name)];
      const stores = [made[name], direct[name] as Factory];
      for (const [first, second] of [stores, stores.toReversed()]) {
        const own = { ...address[name], table: tables.pop(), onError };
        await using maker = first!({ ...own, ttl: 60_000 });
        await maker.set("k", { a: "🔑" });
        await using opener = second!(own);
        assert.deepEqual(await opener.get("k"), { a: "🔑" });
        await opener.set("k", { a: 2 });
        assert.deepEqual(await maker.get("k"), { a: 2 });
      }
      const [one, two] = used.slice(-2).map(([, table]) => table);
      assert.deepEqual(await shape(name, one!), await shape(name, two!));
      assert.deepEqual(errors, []);
    });

    it(`Kysely upgrades an old table without a key in ${title[name]}`, async () => {
      const errors: unknown[] = [];
      const old = await keyless(name);
      const own = { ...address[name], table: old, onError: (error: unknown) => errors.push(error) };
      await using store = made[name](own);
      assert.equal(await store.get("1:1"), 3);
      assert.equal(await store.get("1:2"), 1);
      await store.set("🔑".repeat(128), 1);
      assert.equal(await store.size(), 3);
      const { quoted, query } = families[name];
      assert.equal((await query(`SELECT 1 FROM ${quoted(old)}`)).length, 5);
      await using other = (direct[name] as Factory)(own); // has nothing left to change
      assert.equal(await other.get("1:1"), 3);
      assert.deepEqual(errors, []);
    });

    it(`Kysely upgrades a table of 2.0.0-beta in ${title[name]}`, async () => {
      const path = { SQLite: "/sqlite", Postgres: "/pg", MySQL: "/mysql" }[name];
      const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", path)[name];
      const database = name === "SQLite"
        ? new BetterSqlite3(join(folder, "old.sqlite"))
        : undefined;
      const old = table(name);
      const before = database
        ? upstream({ database })
        : upstream({ pool: name === "MySQL" ? mysql.pool : postgres, table: old });
      const sessions: [string, unknown][] = [["1:1", { count: 1 }], ["1:2", {
        text: "é".repeat(9),
      }]];
      for (const [key, session] of sessions) await before.set(key, session);
      const own = database ? { filename: database.name } : { ...address[name], table: old };
      await using store = made[name](own);
      for (const [key, session] of sessions) assert.deepEqual(await store.get(key), session);
      await using expiring = made[name]({ ...own, ttl: 1, pruneInterval: 0 });
      await expiring.set("1:1", { count: 2 });
      await wait(5);
      assert.equal(await expiring.prune(), 1);
      assert.equal(await store.size(), 1);
      database?.close();
    });

    it(`Kysely opens new and old tables in ${title[name]} from 12 processes at the same time`, async () => {
      const tables = Array.from({ length: 8 }, () => table(name));
      for (let i = 0; i < 3; i++) tables.push(await keyless(name));
      const errors = await coldStart({
        module: entry("tests/support/kysely", import.meta.url),
        factory: name,
        options: { ...address[name], ttl: 60_000 },
        place: "table",
      }, tables);
      assert.deepEqual(errors, []);
      const { quoted, query } = families[name];
      const key = name === "MySQL" ? "`key`" : "key";
      const first = await shape(name, tables[0]!);
      for (const table of tables) {
        const own = `SELECT 1 FROM ${quoted(table)} WHERE ${key} LIKE 'process:%'`;
        assert.equal((await query(own)).length, processes);
        const all = Object.keys(await shape(name, table) as object).sort();
        assert.deepEqual(all, Object.keys(first as object).sort());
      }
    });
  }

  it("Kysely works within the limits of an old table if the role may not alter it", async () => {
    const old = table("Postgres");
    const role = `test_${randomBytes(6).toString("hex")}`;
    await postgres.query(`CREATE TABLE "${old}" (key varchar(32) PRIMARY KEY, session text)`);
    await postgres.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'`);
    // As PostgreSQL 15 and newer do.
    await postgres.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    try {
      await postgres.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON "${old}" TO ${role}`);
      const url = new URL(serverUrl("postgres"));
      Object.assign(url, { username: role, password: "secret" });
      const errors: unknown[] = [];
      const onError = (error: unknown) => errors.push(error);
      await using store = made.Postgres({ url: url.href, table: old, onError });
      await Promise.all(["a", "b"].map((key) => store.set(key, { key })));
      assert.deepEqual(await store.get("b"), { key: "b" });
      assert.equal(errors.length, 1);
      assert.match(String(errors[0]), /of an older version and cannot be upgraded.*must be owner/);
      await using none = made.Postgres({ url: url.href, table: place() });
      await assert.rejects(none.get("k"), /cannot be created: permission denied/);
    } finally {
      await postgres.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  it("Kysely accepts a schema for PostgreSQL and MySQL, and refuses one for SQLite", async () => {
    const schema = place();
    await postgres.query(`CREATE SCHEMA "${schema}"`);
    const db = connect("Postgres");
    const lite = connect("SQLite");
    const mine = connect("MySQL");
    try {
      await using store = KyselyStore({ db, schema });
      await store.set("k", 1);
      await using other = Postgres({ ...address.Postgres, schema });
      assert.equal(await other.get("k"), 1);
      await using third = KyselyStore({
        db: mine,
        schema: new URL(serverUrl("mysql")).pathname.slice(1),
        table: table("MySQL"),
      });
      await third.set("k", 1);
      assert.equal(await third.get("k"), 1);
      assert.throws(() => KyselyStore({ db: lite, schema }), {
        name: "TypeError",
        message: 'KyselyStore: option "schema" is for PostgreSQL and MySQL, but this is SQLite',
      });
    } finally {
      await db.destroy();
      await lite.destroy();
      await mine.destroy();
      await postgres.query(`DROP SCHEMA "${schema}" CASCADE`);
    }
  });

  it("Kysely accepts any table name and quotes it", async () => {
    for (const name of names) {
      const own = Math.random().toString(36).slice(2, 10);
      const odds = ['"; DROP TABLE x; --' + own, "Ünï.côde \\ '$1?1'`" + own, own.padEnd(35, "é")];
      for (const odd of odds) {
        used.push([families[name], odd]);
        await using store = made[name]({ ...address[name], table: odd });
        await store.set("k", { odd });
        assert.deepEqual(await store.get("k"), { odd });
      }
    }
  });
});

describe("Kysely databases", () => {
  for (const name of names) {
    it(`Kysely does not close a db on ${title[name]} that was passed in`, async () => {
      const db = connect(name);
      const store = KyselyStore({ db, table: table(name) });
      await store.set("k", 1);
      await store.close();
      const { rows } = await db.executeQuery(kysely29.CompiledQuery.raw("SELECT 1 AS one"));
      assert.deepEqual(rows, [{ one: 1 }]);
      await db.destroy();
    });
  }

  it("Kysely destroys the instance that it created from a dialect", async () => {
    const database = new BetterSqlite3(join(folder, "own.sqlite"));
    const dialect = new kysely29.SqliteDialect({ database });
    await KyselyStore({ dialect }).close(); // never used
    assert.ok(database.open);
    const store = KyselyStore({ dialect });
    await store.set("k", 1);
    await store.close();
    assert.ok(!database.open);
  });

  it("Kysely closes a dialect that connects and gets no reply", async () => {
    await using proxy = await Proxy.to(serverUrl("mysql"));
    proxy.blackHole = true;
    const uri = urlWith(serverUrl("mysql"), { host: proxy.host });
    const { pool } = createPool({ uri, connectTimeout: 400 });
    const dialect = new kysely29.MysqlDialect({ pool: pool as never });
    const store = KyselyStore({ dialect, timeout: 300 });
    await assert.rejects(store.get("k"), { name: "TimeoutError" });
    const error = await store.close().catch((error) => error);
    // The driver's timeout comes after the store's on a busy machine.
    if (error?.name !== "TimeoutError") assert.equal(error, undefined);
  });

  it("Kysely does not hide why a dialect cannot be closed", async () => {
    const dialect = new kysely29.SqliteDialect({
      database: Object.assign(new BetterSqlite3(":memory:"), { close: () => refuse() }),
    });
    const refuse = () => {
      throw new Error("cannot be closed");
    };
    const store = KyselyStore({ dialect });
    await store.set("k", 1);
    await assert.rejects(store.close(), /cannot be closed/);
  });

  it("Kysely keeps the operations of two stores on one db and table in order", async () => {
    const db = connect("Postgres");
    const own = { db, table: table("Postgres") };
    const stores = [KyselyStore(own), KyselyStore(own)];
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 100; i++) {
      writes.push(stores[i % 2]!.set("k", i));
      assert.equal(await stores[(i + 1) % 2]!.get("k"), i);
    }
    await Promise.all(writes);
    for (const store of stores) await store.close();
    await db.destroy();
  });

  it("Kysely does not apply the plugins of a db", async () => {
    const db = connect("SQLite")
      .withPlugin(new kysely29.ParseJSONResultsPlugin())
      .withPlugin(new kysely29.CamelCasePlugin({ upperCase: true }));
    await using store = KyselyStore({ db, table: table("SQLite") });
    await Promise.all([store.set("a_b", { a_b: "{}" }), store.set("c", "text")]);
    assert.deepEqual(await store.get("a_b"), { a_b: "{}" });
    assert.equal(await store.get("c"), "text");
    await db.destroy();
  });

  it("Kysely writes and reads simultaneous operations in batches", async () => {
    const log: string[] = [];
    const db = new kysely29.Kysely({
      dialect: d1(),
      log: ({ query }) => void log.push(query.sql.split(" ", 1)[0]!),
    });
    await using store = KyselyStore({ db, table: table("SQLite") });
    await store.ready();
    log.length = 0;
    const keys = Array.from({ length: 40 }, (_, i) => `${i}`);
    await Promise.all(keys.map((key) => store.set(key, { key })));
    await Promise.all(keys.map((key) => store.get(key)));
    await Promise.all(keys.map((key) => store.delete(key)));
    assert.deepEqual(log, ["INSERT", "INSERT", "SELECT", "SELECT", "DELETE", "DELETE"]);
    await db.destroy();
  });

  it("Kysely has no deadlocks between stores that write the same keys", async () => {
    const name = table("Postgres");
    const failures: string[] = [];
    const stores = Array.from({ length: 3 }, () => {
      const pool = new pg.Pool({ connectionString: serverUrl("postgres") });
      const db = new kysely29.Kysely({
        dialect: new kysely29.PostgresDialect({ pool }),
        log: (event) => void (event.level === "error" && failures.push(String(event.error))),
      });
      return { db, store: KyselyStore({ db, table: name }) };
    });
    await Promise.all(stores.map(({ store }) => store.ready()));
    failures.length = 0; // several of them may have tried to create the table
    const keys = Array.from({ length: 40 }, (_, i) => `${i}`);
    await Promise.all(stores.map(async ({ store }, i) => {
      for (let round = 0; round < 40; round++) {
        const shuffled = keys.toSorted(() => Math.random() - 0.5);
        await Promise.all(shuffled.map((key, j) => {
          return (round + i + j) % 3 === 0 ? store.delete(key) : store.set(key, { round, i });
        }));
      }
    }));
    assert.deepEqual(failures, []);
    for (const { store, db } of stores) await store.close().then(() => db.destroy());
  });

  for (const name of ["Postgres", "MySQL"] as const) {
    it(`Kysely works again after connections to ${title[name]} were cut`, () =>
      goesOnAfterCuts(address[name].url, (url) => made[name]({ url, table: table(name) })));

    it(`Kysely opens as soon as ${title[name]} is available`, () =>
      opensOnceThere(address[name].url, (url) => made[name]({ url, table: table(name) })));

    it(`Kysely times out if ${title[name]} does not respond`, async () => {
      await using proxy = await Proxy.to(address[name].url);
      const through = urlWith(address[name].url, { host: proxy.host });
      const store = made[name]({ url: through, table: table(name), timeout: 500 });
      await store.set("k", 1);
      proxy.silence();
      await assert.rejects(store.get("k"), { name: "TimeoutError" });
      await store.set("k", 2); // on another connection
      proxy.cut();
      await store.close().catch(() => {}); // mysql2 rejects because of the lost connection
    });
  }

  it("Kysely retries while SQLite is locked", async () => {
    const where = table("SQLite");
    await using store = made.SQLite({ filename, table: where });
    await store.ready();
    const other = new BetterSqlite3(filename);
    other.exec("BEGIN IMMEDIATE");
    const write = store.set("k", 1);
    await wait(200);
    other.exec("COMMIT");
    await write;
    other.close();
  });

  it("Kysely refuses only a session that exceeds MySQL's limit", async () => {
    const [[most]] = await families.MySQL.query("SELECT @@max_allowed_packet") as [[number]];
    await using store = made.MySQL({ ...address.MySQL, table: table("MySQL"), timeout: 120_000 });
    const fits = Math.floor(most * 3 / 4) - 2048; // in base64
    const large = "x".repeat(fits + 2048);
    const results = await Promise.allSettled([
      store.set("large", large),
      store.set("k", { a: 1 }),
      store.set("fits", "x".repeat(fits)),
    ]);
    assert.deepEqual(results.map(({ status }) => status), ["rejected", "fulfilled", "fulfilled"]);
    await assert.rejects(store.set("large", large), { name: "TooLargeError", key: "large" });
    assert.equal((await store.get("fits")).length, fits);
    const update = store.update("large", () => "x".repeat(fits + 1024));
    await assert.rejects(update, { name: "TooLargeError", key: "large" });
    const leased = Math.min(fits - 8_192, 2 ** 24 - 1 - 2);
    await store.update("fits", () => "x".repeat(leased));
    assert.equal((await store.get("fits")).length, leased);
  });

  it("Kysely does not keep the process alive after close()", async () => {
    const name = table("Postgres");
    const { code, output } = await run(`
      import { Postgres } from "${entry("tests/support/kysely", import.meta.url)}";
      const store = Postgres({ url: "${serverUrl("postgres")}", table: "${name}" });
      await Promise.all([store.set("k", 1), store.get("l"), store.set("m", 1)]);
      await store.close();
      console.log("closed");
    `);
    assert.equal(code, 0, output);
    assert.equal(output, "closed\n");
  });
});

describe("Kysely errors", () => {
  const error = (message: string, properties: object = {}) =>
    Object.assign(new Error(message), properties);

  it("Kysely distinguishes temporary errors of each driver from permanent ones", () => {
    const passing = [
      error("deadlock detected", { code: "40P01" }), // pg, postgres.js, Neon, PGlite
      error("write CONNECTION_CLOSED localhost:5432", { code: "CONNECTION_CLOSED" }), // postgres.js
      error("Deadlock found", { code: "ER_LOCK_DEADLOCK" }), // mysql2
      error("rpc error: Deadlock found (errno 1213) (sqlstate 40001)"), // PlanetScale
      error("database is locked", { code: "SQLITE_BUSY" }), // better-sqlite3, libSQL
      error("socket closed", { code: "HRANA_WEBSOCKET_ERROR" }), // libSQL
      error("D1_ERROR: Network connection lost."),
      error("D1_ERROR: duplicate column name: expires: SQLITE_ERROR"),
      error("fetch failed", { cause: error("connect", { code: "ECONNREFUSED" }) }),
      error("Error connecting to database", { cause: error("x", { code: "UND_ERR_SOCKET" }) }),
    ];
    for (const it of passing) assert.ok(transient(it), it.message);
    const lasting = [
      error("password authentication failed", { code: "28P01" }),
      error("syntax error", { code: "42601" }),
      error("Access denied", { code: "ER_ACCESS_DENIED_ERROR" }),
      error("D1_ERROR: string or blob too big: SQLITE_TOOBIG"),
      error("attempt to write a readonly database", { code: "SQLITE_READONLY" }),
      error("Transactions are not supported with Neon HTTP connections"),
      error("no", { cause: error("no") }),
      "text",
      undefined,
    ];
    for (const it of lasting) assert.ok(!transient(it), String(it));
  });
});

describe("Kysely options", () => {
  const refused = (options: unknown) => () => KyselyStore(options as KyselyStoreOptions);

  it("Kysely refuses invalid options", () => {
    assert.throws(refused({}), /^TypeError: KyselyStore: option "db" or "dialect" is needed/);
    const db = connect("SQLite");
    const dialect = d1();
    assert.throws(refused({ db, dialect }), /"dialect" has no effect together with "db"/);
    assert.throws(refused({ db, tabel: "x" }), /^TypeError: KyselyStore: unknown option "tabel"/);
    assert.throws(refused({ db, table: "é".repeat(32) }), RangeError);
    assert.throws(refused({ db: "x" }), TypeError);
    assert.throws(refused({ dialect: "x" }), TypeError);
    return db.destroy();
  });

  it("Kysely refuses an invalid db, and transactions", async () => {
    const message = /^KyselyStore: option "db" must be a Kysely, but is an? /;
    const pool = new pg.Pool();
    for (const db of [{}, pool, [], new Map(), d1(), { executeQuery() {} }]) {
      assert.throws(refused({ db }), { name: "TypeError", message });
    }
    const db = connect("SQLite");
    await db.transaction().execute((transaction) => {
      assert.throws(refused({ db: transaction }), {
        name: "TypeError",
        message: 'KyselyStore: option "db" must be a Kysely, but is a transaction',
      });
      return Promise.resolve();
    });
    await db.destroy();
  });

  it("Kysely rejects the first operation if the dialect is invalid", async () => {
    await using store = refused({ dialect: {} })();
    await assert.rejects(store.get("k"), { name: "StoreError", message: /createDriver/ });
  });

  it("Kysely refuses dialects of other families, and names the supported families", async () => {
    // A dialect with the compiler of SQL Server. It does not connect.
    const dialect = Object.assign(d1(), {
      createQueryCompiler: () => new kysely29.MssqlQueryCompiler(),
      createAdapter: () => new kysely29.MssqlAdapter(),
    });
    const message = "the dialect must be of one of these families: PostgreSQL, MySQL, SQLite";
    for (const kysely of Object.values(versions)) {
      const db = new kysely.Kysely({ dialect });
      assert.throws(refused({ db }), { name: "TypeError", message: `KyselyStore: ${message}` });
    }
    await using store = KyselyStore({ dialect });
    await assert.rejects(store.get("k"), { name: "StoreError", message: new RegExp(message) });
  });
});

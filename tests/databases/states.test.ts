/**
 * Tests of states that an application may leave on a connection that it shares with the store. In
 * each state, every other connection sees a session that `set()` has stored, and the store does not
 * commit changes that the application did not commit.
 */

import BetterSqlite3 from "better-sqlite3";
import { Redis as IORedis } from "ioredis";
import * as kysely from "kysely";
import { createPool, type Pool as MySQLPool } from "mysql2/promise";
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import { createClient } from "redis";
import { KyselyStore } from "../../kysely.ts";
import type { Store, StoreOptions } from "../../mod.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import { place, serverUrl } from "../support/servers.ts";

// deno-lint-ignore no-explicit-any
type AnyStore = Store<any>;

/** A pool of one connection, which the application has used. */
interface Application {
  /** Runs statements on the connection. */
  run(...statements: string[]): Promise<void>;
  store(options: StoreOptions): AnyStore;
  close(): unknown;
}

/** The data as other connections see it. */
interface Others {
  /** Returns the sessions in the store's table, by key. */
  sessions(): Promise<Record<string, string>>;
  /** Changes a session in the store's table. */
  change(key: string, session: string): Promise<unknown>;
  /** Returns the number of rows in the application's own table. */
  rows(): Promise<number>;
}

/** Sets, reads and deletes sessions after the application has done something to the connection. */
async function keepsSessions(
  application: Application,
  others: Others,
  statements: string[],
): Promise<void> {
  await using store = application.store({ ttl: 1_000_000 });
  await store.set("old", { n: 0 });
  await store.set("gone", { n: 0 });
  await application.run(...statements);
  for (let n = 1; n <= 3; n++) {
    await store.set("old", { n });
    assert.equal((await others.sessions()).old, `{"n":${n}}`);
    await application.run(...statements);
    assert.deepEqual(await store.get("old"), { n });
    await application.run(...statements);
    await others.change("old", `{"n":-${n}}`);
    assert.deepEqual(await store.get("old"), { n: -n });
    await store.set("old", { n });
  }
  // Before the first update the table gets the columns of leases.
  await application.run(...statements);
  await store.update("old", ({ n }) => ({ n: n + 1 }));
  assert.equal((await others.sessions()).old, '{"n":4}');
  for (let n = 1; n <= 3; n++) {
    await application.run(...statements);
    await others.change("old", `{"n":-${n}}`);
    await store.update("old", (session) => {
      assert.deepEqual(session, { n: -n });
      return { n };
    });
    assert.equal((await others.sessions()).old, `{"n":${n}}`);
    assert.deepEqual(await store.get("old"), { n });
  }
  await Promise.all(["a", "b", "c"].map((key) => store.set(key, key)));
  await application.run(...statements);
  await store.delete("gone");
  assert.deepEqual(await others.sessions(), { old: '{"n":3}', a: '"a"', b: '"b"', c: '"c"' });
  const read = ["a", "b", "c", "gone"].map((key) => store.get(key));
  assert.deepEqual(await Promise.all(read), ["a", "b", "c", undefined]);
  assert.equal(await store.size(), 4);
  await application.run(...statements);
  await store.clear();
  assert.deepEqual(await others.sessions(), {});
  assert.equal(await others.rows(), 0);
}

const mysqlUrl = serverUrl("mysql");
const mysql = createPool({ uri: mysqlUrl, connectionLimit: 2, rowsAsArray: true });
const postgresUrl = serverUrl("postgres");
const postgres = new pg.Pool({ connectionString: postgresUrl, max: 2 });
const used: string[] = [];
const databases: string[] = [];

after(async () => {
  for (const name of used) {
    await mysql.query(`DROP TABLE IF EXISTS \`${name}\``);
    await postgres.query(`DROP TABLE IF EXISTS "${name}"`);
  }
  for (const name of databases) {
    await mysql.query(`DROP DATABASE IF EXISTS \`${name}\``);
    await postgres.query(`DROP SCHEMA IF EXISTS "${name}" CASCADE`);
  }
  await mysql.end();
  await postgres.end();
});

/** The names of the store's table, the application's table, and another database or schema. */
interface Names {
  table: string;
  own: string;
  other: string;
}

function names(): Names {
  const all = { table: place(), own: place(), other: place() };
  used.push(all.table, all.own);
  databases.push(all.other);
  return all;
}

const mysqlStates: Record<string, (names: Names) => string[]> = {
  "autocommit off": () => ["SET autocommit = 0"],
  "autocommit off and uncommitted rows": ({ own }) => [
    "SET autocommit = 0",
    `INSERT INTO \`${own}\` VALUES (1)`,
  ],
  "autocommit off and an old snapshot": ({ own }) => [
    "SET autocommit = 0",
    `SELECT * FROM \`${own}\``,
  ],
  "a transaction that was left open": ({ own }) => ["BEGIN", `INSERT INTO \`${own}\` VALUES (1)`],
  "an old snapshot": ({ own }) => ["BEGIN", `SELECT * FROM \`${own}\``],
  "transactions that begin after each other": () => ["SET completion_type = CHAIN", "ROLLBACK"],
  "a read-only transaction that was left open": () => ["START TRANSACTION READ ONLY"],
  "transactions read-only": () => ["SET SESSION TRANSACTION READ ONLY"],
  "tables that were left locked": ({ own }) => [`LOCK TABLES \`${own}\` READ`],
  "another database": ({ other }) => [`USE \`${other}\``],
  "a limit of one row": () => ["SET sql_select_limit = 1"],
  "other SQL modes": () => [
    "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH'",
  ],
  "no SQL mode": () => ["SET sql_mode = ''"],
};

async function mysqlOthers({ table, own, other }: Names): Promise<Others> {
  await mysql.query(`CREATE TABLE \`${own}\` (x int)`);
  await mysql.query(`CREATE DATABASE \`${other}\``);
  await mysql.query(`CREATE TABLE \`${other}\`.\`${table}\`
    (\`key\` varbinary(512) PRIMARY KEY, session longtext CHARACTER SET utf8mb4, expires bigint)`);
  const read = async (sql: string) => (await mysql.query(sql))[0] as unknown as string[][];
  return {
    async sessions() {
      const rows = await read(`SELECT CONVERT(\`key\` USING utf8mb4), session FROM \`${table}\``);
      return Object.fromEntries(rows);
    },
    change: (key, session) =>
      mysql.query(`UPDATE \`${table}\` SET session = ? WHERE \`key\` = ?`, [session, key]),
    rows: async () => (await read(`SELECT x FROM \`${own}\``)).length,
  };
}

function onMySQL(make: (pool: MySQLPool, options: StoreOptions) => AnyStore): Application {
  const pool = createPool({ uri: mysqlUrl, connectionLimit: 1 });
  return {
    async run(...statements) {
      const connection = await pool.getConnection();
      for (const statement of statements) await connection.query(statement);
      connection.release();
    },
    store: (options) => make(pool, options),
    close: () => pool.end(),
  };
}

describe("MySQL states of connections", () => {
  for (const [state, statements] of Object.entries(mysqlStates)) {
    it(`MySQL keeps sessions on a connection with ${state}`, async () => {
      const all = names();
      const application = onMySQL((pool, options) => MySQL({ pool, table: all.table, ...options }));
      await keepsSessions(application, await mysqlOthers(all), statements(all));
      await application.close();
    });
  }

  // Kysely's driver keeps a connection after an error, so `set()` rejects in these states.
  const {
    "tables that were left locked": _locked,
    "transactions read-only": _readOnly,
    ...states
  } = mysqlStates;
  for (const [state, statements] of Object.entries(states)) {
    it(`Kysely on MySQL keeps sessions on a connection with ${state}`, async () => {
      const all = names();
      const application = onMySQL((pool, options) => {
        const dialect = new kysely.MysqlDialect({ pool: pool.pool as never });
        return KyselyStore({ db: new kysely.Kysely({ dialect }), table: all.table, ...options });
      });
      await keepsSessions(application, await mysqlOthers(all), statements(all));
      await application.close();
    });
  }

  for (const sql of ["SET autocommit = 0", "SET autocommit = 0, sql_select_limit = 1"]) {
    it(`MySQL and Kysely keep sessions on pools whose connections begin with ${sql}`, async () => {
      const all = names();
      const others = await mysqlOthers(all);
      const pool = createPool({ uri: mysqlUrl, connectionLimit: 3 });
      pool.pool.on("connection", (connection) => connection.query(sql));
      const dialect = new kysely.MysqlDialect({ pool: pool.pool as never });
      const db = new kysely.Kysely({ dialect });
      for (
        const store of [MySQL({ pool, table: all.table }), KyselyStore({ db, table: all.table })]
      ) {
        for (let n = 0; n < 10; n++) {
          await Promise.all(["a", "b", "c"].map((key) => store.set(key, n)));
          assert.deepEqual(await others.sessions(), { a: `${n}`, b: `${n}`, c: `${n}` });
          await mysql.query(`UPDATE \`${all.table}\` SET session = '"${n}"'`);
          const read = await Promise.all(["a", "b", "c"].map((key) => store.get(key)));
          assert.deepEqual(read, [`${n}`, `${n}`, `${n}`]);
        }
        await store.close();
      }
      await mysql.query(`ALTER TABLE \`${all.table}\` COMMENT ''`); // the table is not locked
      await pool.end();
    });
  }

  for (const mode of ["NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", ""]) {
    it(`Kysely on MySQL stores any text with the SQL mode "${mode}"`, async () => {
      const { table } = names();
      const pool = createPool({ uri: mysqlUrl, connectionLimit: 2 });
      pool.pool.on("connection", (connection) => connection.query(`SET sql_mode = '${mode}'`));
      const dialect = new kysely.MysqlDialect({ pool: pool.pool as never });
      await using store = KyselyStore({ db: new kysely.Kysely({ dialect }), table });
      const texts = [
        `it's`,
        `'; DROP TABLE \`${table}\`; -- `,
        `\\'; DROP TABLE \`${table}\`; -- `,
        `\\" ' \` \0 \n \r \t \b \x1a % _ é 🔑`,
      ];
      for (const text of texts) {
        const key = text.replaceAll("\0", "");
        await store.set(key, { text });
        assert.deepEqual(await store.get(key), { text });
      }
      await Promise.all(texts.map((text, i) => store.set(`${i}`, { text })));
      const read = await Promise.all(texts.map((_, i) => store.get(`${i}`)));
      assert.deepEqual(read, texts.map((text) => ({ text })));
      await pool.end();
    });
  }
});

const failing = "SELECT 1/0";

const postgresStates: Record<string, (names: Names) => string[]> = {
  "a transaction that was left open": ({ own }) => ["BEGIN", `INSERT INTO "${own}" VALUES (1)`],
  "an old snapshot": ({ own }) => [
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    `SELECT * FROM "${own}"`,
  ],
  "a read-only transaction that was left open": () => ["BEGIN READ ONLY"],
  "a failed transaction": () => ["BEGIN", failing],
  "transactions read-only": () => ["SET default_transaction_read_only = on"],
  "another search path": ({ other }) => [`SET search_path = "${other}"`],
  "no search path": () => ["SET search_path = ''"],
  "a temporary table of the same name": ({ table }) => [
    `CREATE TEMP TABLE IF NOT EXISTS "${table}" (key text PRIMARY KEY, session text, expires bigint)`,
  ],
  "other rules for strings": () => [
    "SET standard_conforming_strings = off",
    "SET backslash_quote = on",
  ],
};

async function postgresOthers({ table, own, other }: Names): Promise<Others> {
  await postgres.query(`CREATE TABLE "${own}" (x int)`);
  await postgres.query(`CREATE SCHEMA "${other}"`);
  await postgres.query(
    `CREATE TABLE "${other}"."${table}" (key text PRIMARY KEY, session text, expires bigint)`,
  );
  return {
    async sessions() {
      const text = `SELECT key, session FROM "${table}"`;
      const { rows } = await postgres.query({ text, rowMode: "array" });
      return Object.fromEntries(rows as string[][]);
    },
    change: (key, session) =>
      postgres.query(`UPDATE "${table}" SET session = $1 WHERE key = $2`, [session, key]),
    rows: async () => (await postgres.query(`SELECT x FROM "${own}"`)).rows.length,
  };
}

function onPostgres(make: (pool: pg.Pool, options: StoreOptions) => AnyStore): Application {
  const pool = new pg.Pool({ connectionString: postgresUrl, max: 1 });
  return {
    async run(...statements) {
      const client = await pool.connect();
      for (const statement of statements) {
        const result = client.query(statement);
        await (statement === failing ? assert.rejects(result, /division by zero/) : result);
      }
      client.release();
    },
    store: (options) => make(pool, options),
    close: () => pool.end(),
  };
}

describe("PostgreSQL states of connections", () => {
  for (const [state, statements] of Object.entries(postgresStates)) {
    it(`PostgreSQL keeps sessions on a connection with ${state}`, async () => {
      const all = names();
      const { table } = all;
      const application = onPostgres((pool, options) => Postgres({ pool, table, ...options }));
      await keepsSessions(application, await postgresOthers(all), statements(all));
      await application.close();
    });
  }

  // Kysely's driver keeps a connection after an error, so `set()` rejects in these states. It also
  // cannot detect a snapshot of the application.
  const {
    "an old snapshot": _snapshot,
    "a read-only transaction that was left open": _readOnly,
    "a failed transaction": _failed,
    "transactions read-only": _default,
    ...states
  } = postgresStates;
  for (const state of Object.keys(states)) {
    it(`Kysely on PostgreSQL keeps sessions on a connection with ${state}`, async () => {
      const all = names();
      const application = onPostgres((pool, options) => {
        const dialect = new kysely.PostgresDialect({ pool });
        return KyselyStore({
          db: new kysely.Kysely({ dialect }),
          table: all.table,
          ...options,
        });
      });
      await keepsSessions(application, await postgresOthers(all), postgresStates[state]!(all));
      await application.close();
    });
  }

  it("PostgreSQL refuses connections whose text is not UTF-8", async () => {
    const pool = new pg.Pool({ connectionString: postgresUrl, max: 1 });
    await pool.query("SET client_encoding = 'latin1'");
    await using store = Postgres({ pool, table: place() });
    await assert.rejects(store.set("k", 1), /client_encoding of the connection is LATIN1/);
    await pool.end();
  });
});

const redisUrl = serverUrl("redis");

/** Clients that the store and the application share, and the application's transaction commands. */
const clients: Record<
  string,
  () => {
    store(options: object): AnyStore;
    send(command: "MULTI" | "EXEC" | "DISCARD"): Promise<unknown>;
    close(): unknown;
  }
> = {
  "node-redis"() {
    const client = createClient({ url: redisUrl });
    return {
      store: (options) => Redis({ client, ...options }),
      send: (command) => client.sendCommand([command]),
      close: () => client.close(),
    };
  },
  "ioredis"() {
    const client = new IORedis(redisUrl);
    return {
      store: (options) => Redis({ client, ...options }),
      send: (command) => client.call(command),
      close: () => client.quit(),
    };
  },
};

describe("Redis states of clients", () => {
  for (const [name, open] of Object.entries(clients)) {
    for (const end of ["EXEC", "DISCARD"] as const) {
      it(`Redis on ${name} waits for a MULTI of the application that ends with ${end}`, async () => {
        const application = open();
        const prefix = `${place()}:`;
        await using others = Redis({ url: redisUrl, prefix });
        await using store = application.store({ prefix, ttl: 1_000_000 });
        await store.set("old", 1);
        for (const read of [false, true]) {
          await application.send("MULTI");
          let ended = false;
          const work = read
            ? Promise.all([store.get("old"), store.get("none"), store.has("old")])
            : Promise.all([store.set("a", end), store.set("b", 2), store.delete("old")]);
          const result = work.finally(() => ended = true);
          await wait(50);
          assert.equal(ended, false);
          await application.send(end);
          if (read) assert.deepEqual(await result, [undefined, undefined, false]);
          else await result;
          const stored = ["a", "b", "old"].map((key) => others.get(key));
          assert.deepEqual(await Promise.all(stored), [end, 2, undefined]);
        }
        await store.clear();
        await store.close();
        await application.close();
      });
    }
  }
});

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-states-"));
after(() => rmSync(folder, { recursive: true }));

/** Undefined on Node.js 20. */
const node = process.getBuiltinModule("node:sqlite");
// deno-lint-ignore no-explicit-any
const bun = process.getBuiltinModule("bun:sqlite") as any;

// deno-lint-ignore no-explicit-any
const kinds: Record<string, { open: (filename: string) => any; skip: string | false }> = {
  "better-sqlite3": { open: (filename) => new BetterSqlite3(filename), skip: false },
  "node:sqlite": {
    open: (filename) => new node.DatabaseSync(filename),
    skip: !node && "node:sqlite came with Node.js 22",
  },
  "bun:sqlite": {
    open: (filename) => new bun.Database(filename),
    skip: !bun && "only Bun has bun:sqlite",
  },
};

describe("SQLite states of databases", () => {
  for (const [kind, { open, skip }] of Object.entries(kinds)) {
    for (const opened of [true, false]) {
      const when = opened ? "" : " while it opens";
      it(
        `SQLite on ${kind} waits for a transaction of the application${when}`,
        { skip },
        async () => {
          const filename = join(folder, `${place()}.sqlite`);
          const database = open(filename);
          database.exec("CREATE TABLE own (x); PRAGMA journal_mode = WAL");
          const other = open(filename);
          await using store = SQLite({ database });
          if (opened) await store.set("gone", 1);
          for (const end of ["ROLLBACK", "COMMIT"]) {
            database.exec("BEGIN; INSERT INTO own VALUES (1)");
            let stored = false;
            const writes = Promise.all([
              store.set("a", end),
              ...["b", "c"].map((key) => store.set(key, end)),
              store.delete("gone"),
            ]).then(() => stored = true);
            await wait(50);
            assert.equal(stored, false);
            assert.equal(await store.get("a"), end);
            database.exec(end);
            await writes;
            assert.equal(
              other.prepare("SELECT count(*) AS n FROM own").get().n,
              end === "COMMIT" ? 1 : 0,
            );
            const rows = other.prepare('SELECT key, session FROM "telegraf-sessions" ORDER BY key')
              .all();
            assert.deepEqual(
              rows.map((row: object) => Object.values(row)),
              ["a", "b", "c"].map((key) => [key, JSON.stringify(end)]),
            );
          }
          for (const connection of [database, other]) connection.close();
        },
      );
    }

    it(`SQLite on ${kind} reports an open transaction when it times out`, {
      skip,
    }, async () => {
      const database = open(":memory:");
      await using store = SQLite({ database, timeout: 200 });
      await store.set("k", 1);
      database.exec("BEGIN");
      await assert.rejects(store.set("k", 2), {
        name: "TimeoutError",
        message: /the application has a transaction open/,
      });
      database.exec("ROLLBACK");
      assert.equal(await store.get("k"), 1);
      await store.set("k", 3);
      assert.equal(await store.get("k"), 3);
      await store.close();
      database.close();
    });
  }
});

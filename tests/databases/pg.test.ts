/** Tests that only PostgreSQL needs. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import { dialect } from "../../src/pg/dialect.ts";
import { statements } from "../../src/sql/statements.ts";
import { Postgres, type PostgresOptions } from "../../pg.ts";
import { backendOf } from "../../src/store/factory.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  workerOf,
} from "../support/conformance.ts";
import { sqlTables } from "../suites/sqlTables.ts";
import { requireVersion } from "../support/packages.ts";
import { entry } from "../support/process.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = serverUrl("postgres");
const admin = new pg.Pool({ connectionString: url, max: 3 });
const used: string[] = [];

after(async () => {
  for (const table of used) await drop(table);
  await admin.end();
});

/** Returns the name of a table, which is dropped at the end. */
function table(name = place()): string {
  used.push(name);
  return name;
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

async function drop(name: string): Promise<void> {
  await admin.query(`DROP TABLE IF EXISTS ${quoted(name)}`);
}

async function rows(text: string, ...values: unknown[]): Promise<unknown[][]> {
  return (await admin.query({ text, values, rowMode: "array" })).rows;
}

/** Returns the table's columns with their types, and the number of its unique indexes. */
async function shape(name: string): Promise<{ columns: unknown; unique: number }> {
  const columns = await rows(
    `SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`,
    quoted(name),
  );
  const indexes = await rows(
    "SELECT FROM pg_index WHERE indrelid = $1::regclass AND indisunique",
    quoted(name),
  );
  return { columns: Object.fromEntries(columns), unique: indexes.length };
}

const ours = { columns: { key: "text", session: "text", expires: "bigint" }, unique: 1 };

/** Creates a store of 2.0.0-beta.7 on a pool. */
function upstream(pool: unknown, table: string) {
  return requireVersion("@telegraf/session", "2.0.0-beta.7", "/pg").Postgres({ pool, table });
}

/** Creates a table without a unique key, as versions up to 2.0.0-beta.4 did, with duplicates. */
async function keyless(name: string): Promise<void> {
  await admin.query(`CREATE TABLE ${quoted(name)} (key varchar(32), session text)`);
  await admin.query(
    `INSERT INTO ${quoted(name)} (key, session) VALUES
    ('1:1', '1'), ('1:2', '1'), ('1:1', '2'), (NULL, '1'), ('1:1', '3'), (NULL, '2')`,
  );
}

/** Creates a role that has only the given grants; returns the URL. */
async function role(...grants: string[]): Promise<string> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  await admin.query(`CREATE ROLE ${name} LOGIN PASSWORD 'secret'`);
  // As PostgreSQL 15 and newer do.
  await admin.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
  for (const grant of grants) await admin.query(`${grant} TO ${name}`);
  roles.push(name);
  const own = new URL(url);
  own.username = name;
  own.password = "secret";
  return own.href;
}
const roles: string[] = [];

after(async () => {
  const cleaner = new pg.Client({ connectionString: url });
  await cleaner.connect();
  for (const name of roles) await cleaner.query(`DROP OWNED BY ${name}; DROP ROLE ${name}`);
  await cleaner.end();
});

const harness: Harness = {
  name: "PostgreSQL",
  store: (table, options) => Postgres({ url, table, ...options }),
  backend: (table, options) => backendOf(Postgres, { url, table, ...options }),
  drop,
  worker: (table) => workerOf("pg", "Postgres", { url, table }),
  async corrupt(table, key) {
    await admin.query(`INSERT INTO ${quoted(table)} (key, session) VALUES ($1, '{"a"')`, [key]);
  },
  writeOld: (table, key, session) => upstream(admin, table).set(key, session),
};

conformance(harness);
encryptedConformance(harness);

sqlTables({
  name: "PostgreSQL",
  url,
  factory: "Postgres",
  module: entry("pg", import.meta.url),
  store: (options) => Postgres(options as PostgresOptions),
  table,
  keyless: { "": ({ table }) => keyless(table!) },
  remaining: [["1:1", "3"], ["1:2", "1"], [null, "1"], [null, "2"]],
  contents: ({ table }) => rows(`SELECT key, session FROM ${quoted(table!)} ORDER BY key, session`),
  async assertCurrent(name) {
    assert.deepEqual(await shape(name), ours);
  },
  upstream,
  pool(url, size) {
    const pool = new pg.Pool({ connectionString: url, max: size });
    let opened = 0;
    pool.on("connect", () => opened++);
    return { pool, opened: () => opened, end: () => pool.end() };
  },
  async restricted(setUp) {
    const name = table();
    await setUp({ url, table: name });
    const exists = (await rows("SELECT to_regclass($1)", quoted(name)))[0]![0] !== null;
    const grants = exists ? [`GRANT SELECT, INSERT, UPDATE, DELETE ON ${quoted(name)}`] : [];
    return { url: await role(...grants), table: name };
  },
  async whileRead(name, work) {
    const reader = await admin.connect();
    try {
      await reader.query(`BEGIN; SELECT FROM ${quoted(name)}`);
      await work();
    } finally {
      await reader.query("ROLLBACK");
      reader.release();
    }
  },
  keepIdle: { idleTimeoutMillis: 300_000 },
  messages: {
    cannotCreate: (table) =>
      new RegExp(`table "public"\\."${table}" cannot be created: permission denied`),
    lockTimeout: /lock timeout/,
    wrongPassword: /^Cannot read session "k": password authentication failed/,
    missingDatabase: /database "missing" does not exist/,
  },
});

describe("PostgreSQL tables", () => {
  it("PostgreSQL upgrades a table while 2.0.0-beta reads and writes it", async () => {
    const errors: unknown[] = [];
    const name = table();
    const old = upstream(admin, name);
    const sessions: Record<string, unknown> = {
      "1:1": { count: 1 },
      "-1001234567890:1234567890": { text: "🔑 é" },
      ["é".repeat(32)]: { long: "key" },
      "large": { text: "é".repeat(100_000) },
      "Case": 1,
      "case": 2,
      "case ": 3,
      "cäse": 4,
    };
    for (const [key, session] of Object.entries(sessions)) await old.set(key, session);
    await rows(`INSERT INTO ${quoted(name)} VALUES ('null', NULL), ('empty', '')`);

    await using store = Postgres({ url, table: name, onError: (error) => errors.push(error) });
    for (const [key, session] of Object.entries(sessions)) {
      assert.deepEqual(await store.get(key), session);
    }
    assert.equal(await store.get("null"), undefined);
    assert.equal(await store.get("empty"), undefined);
    assert.deepEqual(await shape(name), ours);

    const long = "🔑".repeat(128);
    await store.set(long, { a: 1 });
    assert.deepEqual(await store.get(long), { a: 1 });
    await old.set("1:1", { count: 2 });
    assert.deepEqual(await store.get("1:1"), { count: 2 });
    await store.set("1:1", { count: 3 });
    assert.deepEqual(await old.get("1:1"), { count: 3 });
    const count = await store.size();
    await using expiring = Postgres({ url, table: name, ttl: 1 });
    await expiring.set("1:1", { count: 4 });
    await wait(5);
    assert.equal(await store.get("1:1"), undefined);
    assert.equal(await expiring.prune(), 1);
    assert.equal(await store.size(), count - 1);
    assert.deepEqual(errors, []);
  });

  it("PostgreSQL works within the limits of an old table that it may not alter", async () => {
    const name = table();
    const old = upstream(admin, name);
    await old.set("k", { a: 1 });
    const restricted = await role(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${quoted(name)}`);
    const errors: unknown[] = [];
    await using store = Postgres({
      url: restricted,
      table: name,
      onError: (error) => errors.push(error),
    });
    assert.deepEqual(await store.get("k"), { a: 1 });
    await store.set("k", { a: 2 });
    await Promise.all(["a", "b", "c"].map((key) => store.set(key, key)));
    assert.deepEqual(await Promise.all(["a", "b", "k"].map((key) => store.get(key))), [
      "a",
      "b",
      { a: 2 },
    ]);
    await assert.rejects(store.set("k".repeat(33), 1), /too long/);
    assert.equal(errors.length, 1);
    assert.match(String(errors[0]), /of an older version and cannot be upgraded.*must be owner/);
  });

  it("PostgreSQL opens a table of another schema if 2.0.0-beta read the name as schema.table", async () => {
    const schema = place();
    await admin.query(`CREATE SCHEMA ${quoted(schema)}`);
    try {
      const dotted = `${schema}.sess`;
      const full = `${quoted(schema)}.${quoted("sess")}`;
      await admin.query(`CREATE TABLE ${full} (key varchar(32) PRIMARY KEY, session text)`);
      await upstream(admin, dotted).set("k", { old: true });
      await using store = Postgres({ pool: admin, table: dotted });
      assert.deepEqual(await store.get("k"), { old: true });
      await store.set("k", { old: false });
      assert.deepEqual(await upstream(admin, dotted).get("k"), { old: false });
      await using same = Postgres({ pool: admin, schema, table: "sess" });
      assert.deepEqual(await same.get("k"), { old: false });
    } finally {
      await admin.query(`DROP SCHEMA ${quoted(schema)} CASCADE`);
    }
  });

  it("PostgreSQL keeps a table with a dot in its name, and creates one if there is no other", async () => {
    const schema = place();
    await admin.query(`CREATE SCHEMA ${quoted(schema)}`);
    try {
      for (const name of [table(`${schema}.sess`), table(`${place()}.sess`)]) {
        await using made = Postgres({ url, table: name });
        await made.set("k", 1);
        await admin.query(`CREATE TABLE IF NOT EXISTS ${quoted(schema)}.sess (x int)`);
        await using store = Postgres({ url, table: name });
        assert.equal(await store.get("k"), 1);
        assert.deepEqual(await rows(`SELECT session FROM ${quoted(name)}`), [["1"]]);
        await using named = Postgres({ url, table: name, schema: "public" });
        assert.equal(await named.get("k"), 1);
      }
    } finally {
      await admin.query(`DROP SCHEMA ${quoted(schema)} CASCADE`);
    }
  });

  it("PostgreSQL asks for the lock of prune() once, in SQL that version 11 supports", async () => {
    const text = dialect('"t"').prune(1, "").next().value as unknown as [string];
    assert.doesNotMatch(text[0], /MATERIALIZED/); // only since version 12
    // The CTE must not be inlined because then it would ask for the lock once per row.
    const name = table();
    await using store = Postgres({ url, table: name, ttl: 1 });
    await Promise.all(Array.from({ length: 20 }, (_, i) => store.set(`${i}`, i)));
    await wait(5);
    const [statement, ...values] = dialect(quoted(name)).prune(Date.now(), "").next()
      .value as unknown as string[];
    const { rows: plan } = await admin.query(`EXPLAIN (FORMAT JSON) ${statement}`, values);
    assert.match(JSON.stringify(plan), /CTE turn/);
    assert.equal(await store.prune(), 20);
  });

  it("PostgreSQL finds a prefix by the index", async () => {
    const name = table();
    await using store = Postgres({ url, table: name });
    await store.ready();
    const shape = { columns: new Map([["key", "text"]]), unique: true, indexed: false };
    const { page } = statements(dialect(quoted(name)), shape);
    const client = await admin.connect();
    try {
      // Otherwise the server would scan the table, which is small.
      await client.query(
        "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
      );
      for (const start of [undefined, "1:1"]) {
        const { text, key } = page(start, 10, "1:");
        const { rows: [plan] } = await client.query(`EXPLAIN (FORMAT JSON) ${text}`, [key]);
        assert.match(JSON.stringify(plan), /"Index Cond":"\(key >=? '1:/);
        assert.doesNotMatch(JSON.stringify(plan), /"Sort/);
      }
    } finally {
      await client.query("ROLLBACK");
      client.release();
    }
  });

  it("PostgreSQL finds a prefix byte by byte in a table with another collation", async (t) => {
    const [[collation] = []] = await rows(
      `SELECT collname FROM pg_collation
      WHERE collname IN ('en-x-icu', 'en_US.utf8', 'en_US') ORDER BY collname LIMIT 1`,
    );
    if (collation === undefined) return t.skip("this server has only the collation C");
    const name = table();
    await admin.query(`CREATE TABLE ${quoted(name)}
      (key text COLLATE ${quoted(String(collation))} PRIMARY KEY, session text, expires bigint)`);
    await using store = Postgres({ url, table: name });
    const names = ["a:", "A:", "á:", "b:", "a", "a-"];
    const keys = names.flatMap((name) => Array.from({ length: 150 }, (_, i) => name + i)).sort();
    await Promise.all(keys.map((key) => store.set(key, key)));
    for (const prefix of [...names, "a:1", "A", "á", "z"]) {
      const found = [];
      for await (const key of store.keys({ prefix })) found.push(key);
      assert.deepEqual(found.sort(), keys.filter((key) => key.startsWith(prefix)), prefix);
    }
  });

  it("PostgreSQL accepts any table name and quotes it", async () => {
    const schema = place() + ' "s"';
    await admin.query(`CREATE SCHEMA ${quoted(schema)}`);
    try {
      for (const name of ['"; DROP TABLE x; --', "Ünï.côde \\ '$1'", "é".repeat(31)]) {
        await using store = Postgres({ url, schema, table: name });
        await store.set("k", { name });
        assert.deepEqual(await store.get("k"), { name });
        await using other = Postgres({ url, table: table(name) });
        assert.equal(await other.get("k"), undefined);
        const full = `SELECT FROM ${quoted(schema)}.${quoted(name)}`;
        assert.equal((await rows(full)).length, 1);
      }
    } finally {
      await admin.query(`DROP SCHEMA ${quoted(schema)} CASCADE`);
    }
  });

  it("PostgreSQL works again after a table with prepared statements was altered", async () => {
    const errors: unknown[] = [];
    const name = table();
    await using store = Postgres({ url, table: name, onError: (error) => errors.push(error) });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    await admin.query(`ALTER TABLE ${quoted(name)} ALTER COLUMN session TYPE varchar`);
    assert.equal(await store.get("k"), 1);
    await store.set("k", 2);
    assert.equal(await store.get("k"), 2);
    assert.deepEqual(errors, []);
  });
});

describe("PostgreSQL pools", () => {
  it("PostgreSQL does not close a pool that was passed in", async () => {
    const pool = new pg.Pool({ connectionString: url });
    const name = table();
    const store = Postgres({ pool, table: name });
    await store.set("k", 1);
    await store.close();
    const { rows } = await pool.query(`SELECT session FROM ${quoted(name)}`);
    assert.deepEqual(rows, [{ session: "1" }]);
    await pool.end();
  });

  it("PostgreSQL keeps the operations of two stores on one pool and table in order", async () => {
    const pool = new pg.Pool({ connectionString: url });
    const name = table();
    const stores = [Postgres({ pool, table: name }), Postgres({ pool, table: name })];
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 100; i++) {
      writes.push(stores[i % 2]!.set("k", i));
      assert.equal(await stores[(i + 1) % 2]!.get("k"), i);
    }
    await Promise.all(writes);
    assert.deepEqual(await rows(`SELECT session FROM ${quoted(name)}`), [["99"]]);
    for (const store of stores) await store.close();
    await pool.end();
  });

  it("PostgreSQL adds only one listener to a pool, and reports lost connections", async () => {
    const pool = new pg.Pool({ connectionString: url });
    const errors: unknown[] = [];
    const onError = (error: unknown) => errors.push(error);
    for (let i = 0; i < 20; i++) {
      await using store = Postgres({ pool, table: table(), onError });
      await store.ready();
      assert.equal(pool.listenerCount("error"), 1);
    }
    await using store = Postgres({ pool, table: table(), onError });
    await store.ready();
    await pool.query("SELECT 1");
    const { rows } = await pool.query("SELECT pg_backend_pid() AS pid");
    await admin.query("SELECT pg_terminate_backend($1)", [rows[0].pid]);
    for (let i = 0; i < 100 && errors.length === 0; i++) await wait(20);
    assert.equal(errors.length, 1);
    assert.match(String(errors[0]), /terminating connection/);
    assert.equal(await store.get("k"), undefined);
    await pool.end();
  });

  it("PostgreSQL prepares its statements unless `prepare` is false", async () => {
    for (const prepare of [undefined, true, false]) {
      const pool = new pg.Pool({ connectionString: url, max: 1 });
      let queries = 0;
      pool.on("connect", (client: { query(...args: unknown[]): unknown }) => {
        const query = client.query.bind(client);
        client.query = (...args) => (queries++, query(...args));
      });
      await using store = Postgres({ pool, table: table(), prepare });
      for (let i = 0; i < 3; i++) {
        await store.set("k", i);
        await store.get("k");
        // Batches of three and four entries share one statement; batches of two use another.
        for (const keys of [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]) {
          queries = 0;
          await Promise.all(keys.map((key) => store.set(key, key + i)));
          const found = await Promise.all(keys.map((key) => store.get(key)));
          assert.equal(queries, 2);
          assert.deepEqual(found, keys.map((key) => key + i));
        }
        await Promise.all(["a", "b"].map((key) => store.delete(key)));
        await store.delete("k");
      }
      const { rows } = await pool.query("SELECT name FROM pg_prepared_statements");
      assert.equal(rows.length, prepare === false ? 0 : 7);
      await pool.end();
    }
  });

  it("PostgreSQL reports what to do if prepared statements get lost", async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    const name = table();
    await using store = Postgres({ pool, table: name });
    await store.set("k", 1);
    await pool.query("DEALLOCATE ALL"); // like a pooler that gives the client another connection
    const message = /prepared statement .* does not exist; set the option "prepare" to false/;
    await assert.rejects(store.set("k", 2), { name: "StoreError", message });
    await store.set("k", 3);
    await using unprepared = Postgres({ pool, table: table(), prepare: false });
    await unprepared.set("k", 1);
    await pool.query("DEALLOCATE ALL");
    await unprepared.set("k", 2);
    assert.equal(await unprepared.get("k"), 2);
    await pool.end();
  });
});

describe("PostgreSQL options", () => {
  const refused = (options: unknown) => () => Postgres(options as PostgresOptions);

  it("PostgreSQL refuses invalid options", () => {
    assert.throws(refused({ tabel: "x" }), /^TypeError: Postgres: unknown option "tabel"/);
    assert.throws(refused({ table: "" }), RangeError);
    assert.throws(refused({ table: "é".repeat(32) }), RangeError);
    assert.throws(refused({ table: "a\0b" }), RangeError);
    assert.throws(refused({ table: 5 }), TypeError);
    assert.throws(refused({ schema: "" }), RangeError);
    assert.throws(refused({ port: "x" }), RangeError);
    assert.throws(refused({ port: 0 }), RangeError);
    assert.throws(refused({ prepare: 1 }), TypeError);
    assert.throws(refused({ config: "x" }), TypeError);
    assert.throws(refused({ password: 12345 }), (error: Error) => {
      assert.match(error.message, /"password" must be a string or function/);
      return error instanceof TypeError && !error.message.includes("12345");
    });
    const pool = new pg.Pool();
    assert.throws(refused({ pool, host: "x" }), /"host" has no effect together with "pool"/);
    assert.throws(refused({ pool, url }), TypeError);
    assert.throws(refused({ url, host: "x" }), /"host" has no effect together with "url"/);
  });

  it("PostgreSQL refuses an invalid pool", () => {
    const client = new pg.Client();
    for (const pool of [{}, client, { query() {} }, { connect() {}, on() {} }, [], new Map()]) {
      assert.throws(refused({ pool }), {
        name: "TypeError",
        message: /^Postgres: option "pool" must be a Pool of pg, but is an? /,
      });
    }
  });

  it("PostgreSQL refuses an invalid url without repeating it", () => {
    for (
      const url of [
        "postgres://user:s3cret@host:port/db",
        "postgres://user:s3cret@[host/db",
        "mysql://user:s3cret@host/db",
        "user:s3cret@host",
        "s3cret",
        "",
      ]
    ) {
      assert.throws(refused({ url }), (error: Error & { input?: unknown }) => {
        assert.ok(error instanceof TypeError);
        assert.match(error.message, /^Postgres: pg refuses these options/);
        assert.doesNotMatch(`${error.stack} ${JSON.stringify(error)}`, /s3cret/);
        assert.equal(error.cause, undefined);
        return true;
      });
    }
  });

  it("PostgreSQL accepts host, port, database, user, password and config", async () => {
    const { hostname, port, pathname, username, password } = new URL(url);
    const own = { host: hostname, port: Number(port), database: pathname.slice(1), user: username };
    let asked = 0;
    const passwords = [password, () => password, () => Promise.resolve((asked++, password))];
    for (const password of passwords) {
      const config = { application_name: place(), max: 1 };
      await using store = Postgres({ ...own, password, config, table: table() });
      await store.set("k", 1);
      const found = await rows(
        "SELECT FROM pg_stat_activity WHERE application_name = $1",
        config.application_name,
      );
      assert.equal(found.length, 1);
    }
    assert.equal(asked, 1);
  });
});

/** What is special to PostgreSQL. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import { dialect } from "../../src/pg/dialect.ts";
import { Postgres, type PostgresOptions } from "../../pg.ts";
import { entry, run } from "../support/process.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import { conformance } from "../suites/conformance/index.ts";
import { goesOnAfterCuts, opensOnceThere, urlWith } from "../suites/faults.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = serverUrl("postgres");
const admin = new pg.Pool({ connectionString: url, max: 3 });
const used: string[] = [];

after(async () => {
  for (const table of used) await drop(table);
  await admin.end();
});

/** A table of its own, dropped at the end. */
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

/** The table's columns with their types, and the definitions of its unique indexes. */
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

/** Upstream's store on a pool. */
function upstream(pool: unknown, table: string) {
  return requireVersion("@telegraf/session", "2.0.0-beta.7", "/pg").Postgres({ pool, table });
}

/** The table as upstream's versions up to beta.4 made it, with duplicates. */
async function keyless(name: string, columns = "key varchar(32), session text"): Promise<void> {
  await admin.query(`CREATE TABLE ${quoted(name)} (${columns})`);
  await admin.query(
    `INSERT INTO ${quoted(name)} (key, session) VALUES
    ('1:1', '1'), ('1:2', '1'), ('1:1', '2'), (NULL, '1'), ('1:1', '3'), (NULL, '2')`,
  );
}

/** A role that may do only what the grants say; its URL. */
async function role(...grants: string[]): Promise<string> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  await admin.query(`CREATE ROLE ${name} LOGIN PASSWORD 'secret'`);
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

conformance({
  name: "PostgreSQL",
  store: (table, options) => Postgres({ url, table, ...options }),
  drop,
  dates: "text",
  prunes: true,
  async corrupt(table, key) {
    await admin.query(`INSERT INTO ${quoted(table)} (key, session) VALUES ($1, '{"a"')`, [key]);
  },
});

describe("PostgreSQL tables", () => {
  it("PostgreSQL reads what upstream wrote, and upgrades its table beside it", async () => {
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

  it("PostgreSQL keeps the newest of duplicates, and loses nothing else", async () => {
    const errors: unknown[] = [];
    const name = table();
    await keyless(name);
    await using store = Postgres({ url, table: name, onError: (error) => errors.push(error) });
    assert.equal(await store.get("1:1"), 3);
    assert.equal(await store.get("1:2"), 1);
    await store.set("1:1", 4);
    assert.equal(await store.get("1:1"), 4);
    const left = await rows(`SELECT key, session FROM ${quoted(name)} ORDER BY key, session`);
    assert.deepEqual(left, [["1:1", "4"], ["1:2", "1"], [null, "1"], [null, "2"]]);
    assert.deepEqual(await shape(name), ours);
    assert.deepEqual(errors, []);
  });

  it("PostgreSQL opens new and old tables from 12 processes at once", async () => {
    const fresh = Array.from({ length: 15 }, () => table());
    const old = Array.from({ length: 5 }, () => table());
    for (const [i, name] of old.entries()) {
      await keyless(name, `key varchar(32) ${i % 2 ? "UNIQUE" : ""}, session text`)
        .catch(() => {}); // no duplicates where they are not allowed
    }
    const errors = await coldStart({
      module: entry("pg", import.meta.url),
      factory: "Postgres",
      options: { url },
      place: "table",
    }, [...fresh, ...old]);
    assert.deepEqual(errors, []);
    for (const name of [...fresh, ...old]) {
      assert.deepEqual(await shape(name), ours);
      const own = await rows(`SELECT FROM ${quoted(name)} WHERE key LIKE 'process:%'`);
      assert.equal(own.length, processes);
    }
  });

  it("PostgreSQL works for a role without the right to create, on a table that is there", async () => {
    const errors: unknown[] = [];
    const name = table();
    await using made = Postgres({ url, table: name });
    await made.ready();
    const restricted = await role(
      `GRANT SELECT, INSERT, UPDATE, DELETE ON ${quoted(name)}`,
    );
    await using store = Postgres({
      url: restricted,
      table: name,
      onError: (error) => errors.push(error),
    });
    await store.set("k", { a: 1 });
    assert.deepEqual(await store.get("k"), { a: 1 });
    await store.delete("k");
    assert.deepEqual(errors, []);
  });

  it("PostgreSQL says that a role without the right to create cannot begin", async () => {
    const name = table();
    const errors: unknown[] = [];
    const restricted = await role();
    await using store = Postgres({
      url: restricted,
      table: name,
      onInitError: (error) => errors.push(error),
    });
    const message = new RegExp(`table "public"\\."${name}" cannot be created: permission denied`);
    await assert.rejects(store.get("k"), { name: "StoreError", message });
    assert.equal(errors.length, 1);
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

  it("PostgreSQL does not open a table without a key that it may not alter", async () => {
    const name = table();
    await keyless(name);
    const restricted = await role(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${quoted(name)}`);
    await using store = Postgres({ url: restricted, table: name });
    await assert.rejects(store.get("1:1"), /cannot be upgraded, but the store needs a unique key/);
    assert.equal((await rows(`SELECT FROM ${quoted(name)}`)).length, 6);
  });

  it("PostgreSQL does not lock others out while somebody reads the old table", async () => {
    const name = table();
    const old = upstream(admin, name);
    await old.set("k", 1);
    const reader = await admin.connect();
    await using store = Postgres({ url, table: name, timeout: 1_500 });
    try {
      await reader.query(`BEGIN; SELECT FROM ${quoted(name)}`);
      const opening = store.get("k");
      const waits: number[] = [];
      let open = true;
      const ended = opening.catch(() => {}).then(() => open = false);
      while (open) {
        const started = Date.now();
        assert.equal(await old.get("k"), 1);
        waits.push(Date.now() - started);
        await wait(10);
      }
      await ended;
      await assert.rejects(opening, { name: "TimeoutError", message: /lock timeout/ });
      assert.ok(Math.max(...waits) < 2_000, `waited ${Math.max(...waits)} ms`);
    } finally {
      await reader.query("ROLLBACK");
      reader.release();
    }
    assert.equal(await store.get("k"), 1);
    assert.deepEqual(await shape(name), ours);
  });

  it("PostgreSQL opens the table of another schema that upstream took a dot for", async () => {
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

  it("PostgreSQL keeps a table with a dot in its name, and makes one where there is no other", async () => {
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

  it("PostgreSQL prunes in one turn, with what version 11 understands", async () => {
    const text = dialect('"t"').prune(1).next().value as unknown as [string];
    assert.doesNotMatch(text[0], /MATERIALIZED/); // since 12
    // Not inlined: that would ask for the lock once per row.
    const name = table();
    await using store = Postgres({ url, table: name, ttl: 1 });
    await Promise.all(Array.from({ length: 20 }, (_, i) => store.set(`${i}`, i)));
    await wait(5);
    const [statement, ...values] = dialect(quoted(name)).prune(Date.now()).next()
      .value as unknown as string[];
    const { rows: plan } = await admin.query(`EXPLAIN (FORMAT JSON) ${statement}`, values);
    assert.match(JSON.stringify(plan), /CTE turn/);
    assert.equal(await store.prune(), 20);
  });

  it("PostgreSQL takes any names, quoted", async () => {
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

  it("PostgreSQL goes on when the table is altered under its prepared statements", async () => {
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
  it("PostgreSQL leaves a pool that was passed in open", async () => {
    const pool = new pg.Pool({ connectionString: url });
    const name = table();
    const store = Postgres({ pool, table: name });
    await store.set("k", 1);
    await store.close();
    const { rows } = await pool.query(`SELECT session FROM ${quoted(name)}`);
    assert.deepEqual(rows, [{ session: "1" }]);
    await pool.end();
  });

  it("PostgreSQL keeps one order for two stores on one pool and table", async () => {
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

  it("PostgreSQL listens to a pool once, and reports the connections that it loses", async () => {
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

  it("PostgreSQL prepares its statements, unless it is told not to", async () => {
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
        // Three entries and four are one statement, and those of two another.
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

  it("PostgreSQL says what to do when prepared statements get lost", async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    const name = table();
    await using store = Postgres({ pool, table: name });
    await store.set("k", 1);
    await pool.query("DEALLOCATE ALL"); // as a pooler, that gives the client another connection
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

  it("PostgreSQL has no deadlocks between stores that write the same keys", async () => {
    const name = table();
    const pools = Array.from({ length: 3 }, () => new pg.Pool({ connectionString: url }));
    const stores = pools.map((pool) => Postgres({ pool, table: name }));
    let lost = 0;
    for (const pool of pools) pool.on("remove", () => lost++); // as after every error
    const keys = Array.from({ length: 40 }, (_, i) => `${i}`);
    await Promise.all(stores.map(async (store, i) => {
      for (let round = 0; round < 40; round++) {
        const shuffled = keys.toSorted(() => Math.random() - 0.5);
        await Promise.all(shuffled.map((key, j) => {
          return (round + i + j) % 3 === 0 ? store.delete(key) : store.set(key, { round, i });
        }));
      }
    }));
    assert.equal(lost, 0);
    for (const store of stores) await store.close();
    for (const pool of pools) await pool.end();
  });

  it("PostgreSQL gives up a connection that hangs", async () => {
    await using proxy = await Proxy.to(url);
    const through = urlWith(url, { host: proxy.host });
    const pool = new pg.Pool({ connectionString: through, max: 1 });
    await using store = Postgres({ pool, table: table(), timeout: 500 });
    await store.set("k", 1);
    for (const operation of [() => store.get("k"), () => store.set("k", 2)]) {
      proxy.silence();
      await assert.rejects(operation(), { name: "TimeoutError" });
      assert.equal(await store.get("k"), 1); // by another connection, of a pool of one
    }
    assert.equal(pool.totalCount, 1);
    await pool.end();
  });

  it("PostgreSQL goes on after connections were cut", () =>
    goesOnAfterCuts(url, (url) => Postgres({ url, table: table() })));

  it("PostgreSQL opens once the server is there", () =>
    opensOnceThere(url, (url) => Postgres({ url, table: table() })));
});

describe("PostgreSQL options", () => {
  const refused = (options: unknown) => () => Postgres(options as PostgresOptions);

  it("PostgreSQL refuses options that are wrong", () => {
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

  it("PostgreSQL refuses what is no pool", () => {
    const client = new pg.Client();
    for (const pool of [{}, client, { query() {} }, { connect() {}, on() {} }, [], new Map()]) {
      assert.throws(refused({ pool }), {
        name: "TypeError",
        message: /^Postgres: option "pool" must be a Pool of pg, but is an? /,
      });
    }
  });

  it("PostgreSQL refuses a bad URL without repeating it", () => {
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

  it("PostgreSQL takes host, port, database, user, password and config", async () => {
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

describe("PostgreSQL errors", () => {
  it("PostgreSQL tells at once that a password is wrong, without repeating it", async () => {
    const wrong = new URL(url);
    wrong.password = "wr0ng";
    const started = Date.now();
    await using store = Postgres({ url: wrong.href, table: place() });
    await assert.rejects(store.get("k"), (error: Error) => {
      assert.equal(error.name, "StoreError");
      assert.match(error.message, /^Cannot read session "k": password authentication failed/);
      assert.doesNotMatch(`${error.stack} ${JSON.stringify(error)}`, /wr0ng/);
      return true;
    });
    assert.ok(Date.now() - started < 8_000); // not at its deadline
  });

  it("PostgreSQL tells at once that a database is missing", async () => {
    const wrong = new URL(url);
    wrong.pathname = "/missing";
    const started = Date.now();
    await using store = Postgres({ url: wrong.href });
    await assert.rejects(store.set("k", 1), /database "missing" does not exist/);
    assert.ok(Date.now() - started < 8_000); // not at its deadline
  });

  it("PostgreSQL that is down is an error in time, and the process lives", async () => {
    const { code, output, duration } = await run(`
      import { Postgres } from "${entry("pg", import.meta.url)}";
      const store = Postgres({ url: "postgres://user:s3cret@127.0.0.1:1/db", timeout: 500 });
      for (let i = 0; i < 2; i++) {
        await store.get("k").catch((error) => console.log(error.name, error.message));
      }
      store.set("k", 1).catch(() => {});
      await store.close();
    `);
    assert.equal(code, 0, output);
    assert.match(output, /^(TimeoutError Cannot read session "k": .*ECONNREFUSED.*\n){2}$/);
    assert.ok(duration < 20_000, `took ${duration} ms`);
  });

  it("PostgreSQL keeps no process alive after close()", async () => {
    const name = table();
    const { code, output, duration } = await run(`
      import { Postgres } from "${entry("pg", import.meta.url)}";
      const store = Postgres({ url: "${url}", table: "${name}" });
      await Promise.all([store.set("k", 1), store.get("l"), store.set("m", 1)]);
      await store.close();
      console.log("closed");
    `);
    assert.equal(code, 0, output);
    assert.equal(output, "closed\n");
    assert.ok(duration < 9_500, `took ${duration} ms`);
  });
});

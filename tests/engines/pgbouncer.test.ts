/** PostgreSQL behind PgBouncer. */

import assert from "node:assert/strict";
import { after, it } from "node:test";
import pg from "pg";
import { pgbouncer } from "../../scripts/servers/pgbouncer.ts";
import { Postgres, type PostgresOptions } from "../../pg.ts";
import { backendOf } from "../../src/store/factory.ts";
import { conformance, type Harness, workerOf } from "../support/conformance.ts";
import { faults, ownServer, urlWith } from "../suites/faults.ts";
import { leaseFaults } from "../suites/leaseFaults.ts";
import { rows } from "../support/pg.ts";
import { place, serverUrl } from "../support/servers.ts";

const direct = serverUrl("postgres");
const start = (mode: "transaction" | "statement") => ownServer("postgres", pgbouncer(mode, direct));
const shared = await start("transaction");
const statement = await start("statement");
after(() => Promise.all([shared.stop(), statement.stop()]));
console.log(`engine: ${shared.description}`);

/** Runs a statement on PostgreSQL itself. */
const onServer = (text: string, ...values: unknown[]) => rows(direct, text, ...values);

const drop = async (table: string) => void await onServer(`DROP TABLE IF EXISTS "${table}"`);

/** Stores on the pooler. */
function harness(name: string, fixed: PostgresOptions): Harness {
  return {
    name,
    store: (table, options) => Postgres({ ...fixed, table, ...options }),
    backend: (table, options) => backendOf(Postgres, { ...fixed, table, ...options }),
    drop,
    updates: 250,
    worker: (table) => workerOf("pg", "Postgres", { ...fixed, table }),
    async corrupt(table, key) {
      await onServer(`INSERT INTO "${table}" (key, session) VALUES ($1, '{"a"')`, key);
    },
  };
}

const transaction = harness("PgBouncer in transaction mode", { url: shared.url });
const unprepared = { url: shared.url, prepare: false };
conformance(transaction);
conformance(harness("PgBouncer in transaction mode, without prepared statements", unprepared));

// Without a server that refuses writes: PgBouncer restores a client's default_transaction_read_only.
faults({
  name: "PgBouncer",
  backend: ["pg", "Postgres"],
  start: () => start("transaction"),
  options: (url, table) => ({ url, table }) as object,
  store: (options) => Postgres(options),
  durable: true,
  async peek(_url, table, key) {
    const [row] = await onServer(`SELECT session FROM "${table}" WHERE key = $1`, key);
    return row && JSON.parse(String(row[0]));
  },
  broken: {
    "a wrong password": {
      options: (url) => ({ url: urlWith(url, { password: "s3cret-wrong" }) }),
      error: /SASL authentication failed/,
    },
    "a missing database": {
      options: (url) => ({ url: urlWith(url, { pathname: "/later" }) }),
      error: /database "later" does not exist/,
    },
  },
  /** The pooler's connections to the server. */
  async disconnect() {
    await onServer(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
    );
  },
  async exhaust({ url }, { place: table, timeout }) {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    const store = Postgres({ pool, table, timeout });
    await store.ready();
    const client = await pool.connect();
    return {
      store,
      release: () => Promise.resolve(client.release()),
      close: () => pool.end(),
    };
  },
  secure: () => Promise.resolve(undefined),
});

leaseFaults({
  name: "PgBouncer",
  url: shared.url,
  store: (url, table, options, cleanup) => cleanup.stores(Postgres({ url, table, ...options }))[0]!,
  backend: (url, table) => backendOf(Postgres, { url, table }),
  roundTrips: () => Promise.resolve(2),
  drop,
});

it("PgBouncer loses no write while an administrator pauses and reconnects it", async () => {
  const admin = new pg.Client(urlWith(shared.url, { pathname: "/pgbouncer" }));
  await admin.connect();
  const table = place();
  await using store = Postgres({ url: shared.url, table, timeout: 60_000 });
  try {
    for (const command of ["PAUSE", "RESUME", "RECONNECT", "PAUSE", "RESUME"]) {
      const writes = Array.from({ length: 50 }, (_, i) => store.set(`${i}`, command));
      await admin.query(command);
      writes.push(...Array.from({ length: 50 }, (_, i) => store.set(`${i + 50}`, command)));
      // The pause ends these writes only after the next command.
      if (command !== "PAUSE") await Promise.all(writes);
      else for (const write of writes) write.catch(() => {});
    }
    const keys = Array.from({ length: 100 }, (_, i) => `${i}`);
    const read = await Promise.all(keys.map((key) => store.get(key)));
    assert.deepEqual(read, keys.map(() => "RESUME"));
  } finally {
    await admin.end();
    await drop(table);
  }
});

it("PgBouncer in statement mode serves a table that exists", async () => {
  const table = place();
  await using creator = Postgres({ url: direct, table });
  await creator.ready();
  await creator.update("lease", () => 1); // adds the columns of leases
  const errors: unknown[] = [];
  const onError = (error: unknown) => errors.push(error);
  await using store = Postgres({ url: statement.url, table, onError });
  try {
    await Promise.all(Array.from({ length: 100 }, (_, i) => store.set(`${i}`, i)));
    assert.deepEqual(await Promise.all([store.get("7"), store.get("99")]), [7, 99]);
    await Promise.all(Array.from({ length: 20 }, () => store.update("7", (it: number) => it + 1)));
    assert.equal(await store.get("7"), 27);
    assert.equal(await store.prune(), 0);
    await store.delete("7");
    assert.equal(await store.size(), 100);
    assert.deepEqual(errors, []);
  } finally {
    await drop(table);
  }
});

it("PgBouncer in statement mode says that it cannot prepare a table, without repeating it", async () => {
  await using store = Postgres({ url: statement.url, table: place(), timeout: 600_000 });
  await assert.rejects(store.set("k", 1), {
    name: "StoreError",
    message: /cannot be created: .*transaction blocks not allowed in statement pooling mode/,
  });
});

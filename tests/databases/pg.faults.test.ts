/** Tests of PostgreSQL under faults. */

import assert from "node:assert/strict";
import { it } from "node:test";
import pg from "pg";
import { Postgres } from "../../pg.ts";
import { withTLS } from "../support/certificate.ts";
import { backendOf } from "../../src/store/factory.ts";
import { type FaultHarness, faults, ownServer, patiently, urlWith } from "../suites/faults.ts";
import { leaseFaults } from "../suites/leaseFaults.ts";
import { rows } from "../support/pg.ts";
import { place, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";

const harness: FaultHarness = {
  name: "PostgreSQL",
  backend: ["pg", "Postgres"],
  start: () => ownServer("postgres"),
  options: (url, table) => ({ url, table }) as object,
  store: (options) => Postgres(options),
  durable: true,
  async peek(url, table, key) {
    const [row] = await rows(url, `SELECT session FROM "${table}" WHERE key = $1`, key);
    return row && JSON.parse(String(row[0]));
  },
  broken: {
    "a wrong password": {
      options: (url) => ({ url: urlWith(url, { username: "late", password: "s3cret-late" }) }),
      error: /password authentication failed/,
      repair: (url) => rows(url, "CREATE ROLE late SUPERUSER LOGIN PASSWORD 's3cret-late'"),
    },
    "a missing database": {
      options: (url) => ({ url: urlWith(url, { pathname: "/later" }) }),
      error: /database "later" does not exist/,
      repair: (url) => rows(url, "CREATE DATABASE later"),
    },
    "a host that does not exist": {
      options: (url) => ({ url: urlWith(url, { host: "nowhere.invalid" }) }),
      error: /ENOTFOUND|EAI_AGAIN/,
    },
    "a server without TLS": {
      options: (url) => ({ url, config: { ssl: true } }),
      error: /does not support SSL/,
    },
    "a server of another kind": {
      options: () => ({ url: urlWith(serverUrl("redis"), { protocol: "postgres:" }) }),
      error: /./,
    },
  },
  async disconnect(url) {
    await rows(
      url,
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
    );
  },
  async refuseWrites(url, _proxy, refuse) {
    await rows(url, `ALTER SYSTEM SET default_transaction_read_only = ${refuse ? "on" : "off"}`);
    await rows(url, "SELECT pg_reload_conf()");
  },
  async exhaust({ url }, { place: table, timeout }) {
    const pool = new pg.Pool({ connectionString: url, max: 2 });
    const store = Postgres({ pool, table, timeout });
    await patiently(() => store.set("k", 0));
    const clients: pg.PoolClient[] = [await pool.connect(), await pool.connect()];
    return {
      store,
      release: () => Promise.resolve(clients.forEach((client) => client.release())),
      close: () => pool.end(),
    };
  },
  async secure({ url }) {
    const secured = await withTLS(url, true);
    const at = urlWith(url, { host: secured.host, search: "sslmode=require" });
    return {
      ...secured,
      options: (table, ssl) => ({ url: at, table, config: { ssl } }),
      [Symbol.asyncDispose]: () => secured[Symbol.asyncDispose](),
    };
  },
};

faults(harness);

leaseFaults({
  name: "PostgreSQL",
  url: serverUrl("postgres"),
  store: (url, table, options, cleanup) => cleanup.stores(Postgres({ url, table, ...options }))[0]!,
  backend: (url, table) => backendOf(Postgres, { url, table }),
  roundTrips: () => Promise.resolve(2),
  drop: (table) => rows(serverUrl("postgres"), `DROP TABLE IF EXISTS "${table}"`),
});

it("PostgreSQL does not reject a write that is the victim of a deadlock", async () => {
  const url = serverUrl("postgres");
  const table = place();
  const config = { application_name: table };
  await using store = Postgres({ url, table, config, timeout: 60_000 });
  await Promise.all(["a", "b"].map((key) => store.set(key, 0)));
  const other = new pg.Client({ connectionString: url });
  await other.connect();
  try {
    const deadlocks = async () =>
      Number((await rows(url, "SELECT sum(deadlocks) FROM pg_stat_database"))[0]![0]);
    const before = await deadlocks();
    const set = (key: string) =>
      other.query(`UPDATE "${table}" SET session = '9' WHERE key = $1`, [key]);
    // The session with the shorter deadlock_timeout is the victim.
    await other.query("SET deadlock_timeout = '60s'");
    await other.query("BEGIN");
    await set("b");
    const writes = Promise.all(["a", "b"].map((key) => store.set(key, 1)));
    await until(async () => {
      const waiting = await rows(
        url,
        "SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'",
        table,
      );
      return waiting.length > 0;
    });
    await set("a");
    await other.query("COMMIT");
    await until(async () => await deadlocks() > before);
    await writes;
    assert.deepEqual([await store.get("a"), await store.get("b")], [1, 1]);
  } finally {
    await other.end();
    await rows(url, `DROP TABLE "${table}"`);
  }
});

it("PostgreSQL rejects immediately if the table does not allow a session", async () => {
  const url = serverUrl("postgres");
  const table = place();
  await using store = Postgres({ url, table });
  await store.set("k", { a: 1 });
  await rows(url, `ALTER TABLE "${table}" ADD CHECK (session NOT LIKE '%bad%')`);
  try {
    await assert.rejects(store.set("k", "bad"), { name: "StoreError", message: /constraint/ });
    assert.deepEqual(await store.get("k"), { a: 1 });
  } finally {
    await rows(url, `DROP TABLE "${table}"`);
  }
});

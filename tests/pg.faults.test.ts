/** What PostgreSQL survives. */

import pg from "pg";
import { Postgres } from "../pg.ts";
import { type FaultHarness, faults, ownServer, patiently, urlWith } from "./faults.ts";
import { serverUrl } from "./servers.ts";

/** Works past the store. */
async function rows(url: string, text: string, ...values: unknown[]): Promise<unknown[][]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text, values, rowMode: "array" })).rows;
  } finally {
    await client.end();
  }
}

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
};

faults(harness);

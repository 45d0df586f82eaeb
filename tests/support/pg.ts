/** Statements on PostgreSQL without the store, and pools of pg for tests. */

import pg from "pg";
import { type Callback, type See, seeing } from "../suites/failover.ts";

/** Runs a statement on a direct connection, without the store. */
export async function rows(url: string, text: string, ...values: unknown[]): Promise<unknown[][]> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query({ text, values, rowMode: "array" })).rows;
  } finally {
    await client.end();
  }
}

/** A pool whose errors the test sees before the store does. */
export function watchedPool(connectionString: string, see: See): pg.Pool {
  const pool = new pg.Pool({ connectionString, connectionTimeoutMillis: 5000 });
  // deno-lint-ignore no-explicit-any
  pool.on("connect", (client: any) => {
    const { query } = client;
    client.query = (config: object, callback?: Callback) =>
      query.call(client, config, callback && seeing(see, callback));
  });
  const connect = pool.connect as (callback: Callback) => void;
  // deno-lint-ignore no-explicit-any
  (pool as any).connect = (callback: Callback) => connect.call(pool, seeing(see, callback));
  return pool;
}

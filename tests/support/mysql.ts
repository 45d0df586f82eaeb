/** Statements on MySQL without the store, and pools of mysql2 for tests. */

import { createPool, type Pool } from "mysql2";
import { createConnection } from "mysql2/promise";
import { type Callback, type See, seeing } from "../suites/failover.ts";

/** Runs statements; returns the rows of the last one. */
export async function query(
  { url: uri }: { url: string },
  ...statements: string[]
): Promise<unknown[][]> {
  const connection = await createConnection({ uri, connectTimeout: 5000, rowsAsArray: true });
  connection.on("error", () => {});
  try {
    let rows: unknown;
    for (const statement of statements) [rows] = await connection.query(statement);
    return rows as unknown[][];
  } finally {
    connection.destroy();
  }
}

/** A pool whose errors the test sees before the store does. */
export function watchedPool(uri: string, see: See): Pool {
  const pool = createPool({ uri });
  // deno-lint-ignore no-explicit-any
  pool.on("connection", (connection: any) => {
    for (const name of ["execute", "query"]) {
      const method = connection[name];
      connection[name] = (config: object, callback: Callback) =>
        method.call(connection, config, seeing(see, callback));
    }
  });
  const getConnection = pool.getConnection as (callback: Callback) => void;
  // deno-lint-ignore no-explicit-any
  (pool as any).getConnection = (callback: Callback) =>
    getConnection.call(pool, seeing(see, callback));
  return pool;
}

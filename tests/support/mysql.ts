/** Pools of mysql2 for tests. */

import { createPool, type Pool } from "mysql2";

/** A pool whose errors the test sees before the store does. */
export function watchedPool(uri: string, see: (error: unknown) => void): Pool {
  const pool = createPool({ uri });
  // deno-lint-ignore no-explicit-any
  type Callback = (error: unknown, ...rest: any[]) => void;
  const seeing = (callback: Callback): Callback => (error, ...rest) => {
    if (error) see(error);
    callback(error, ...rest);
  };
  // deno-lint-ignore no-explicit-any
  pool.on("connection", (connection: any) => {
    for (const name of ["execute", "query"]) {
      const method = connection[name];
      connection[name] = (config: object, callback: Callback) =>
        method.call(connection, config, seeing(callback));
    }
  });
  const getConnection = pool.getConnection as (callback: Callback) => void;
  // deno-lint-ignore no-explicit-any
  (pool as any).getConnection = (callback: Callback) => getConnection.call(pool, seeing(callback));
  return pool;
}

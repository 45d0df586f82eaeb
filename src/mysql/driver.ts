/**
 * The interfaces of mysql2, and running statements on it.
 *
 * @module
 */

import { type Answer, Failovers } from "../sql/failover.ts";
import { addErrorListener, type PoolAdapter } from "../sql/pool.ts";
import type { Row } from "../sql/script.ts";
import { described } from "../validation.ts";
import { isReadOnly } from "./errors.ts";

type Callback<T = unknown> = (error: unknown, result: T) => void;

/** The part of a pool of mysql2, with callbacks, that is used. */
export interface Pool {
  getConnection(callback: Callback<Connection>): void;
  // deno-lint-ignore no-explicit-any
  on(event: string, listener: (argument: any) => void): unknown;
  end(callback: Callback): void;
}

/** The part of a connection of mysql2 that is used. */
export interface Connection {
  execute(query: object, callback: Callback<Row[] | Done>): unknown;
  query(query: object, callback: Callback<Row[] | Done>): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
  release(): void;
  destroy(): void;
  /** Counts the bytes sent. A stream that the application provides may not count them. */
  readonly stream?: { readonly bytesWritten?: number };
  /** Settings of the pool. */
  readonly config?: { readonly typeCast?: unknown };
}

/** The server's answer to a statement that returns no rows. */
interface Done {
  readonly affectedRows: number;
  /** Flags. Bit 0: a transaction is open. Bit 1: autocommit is on. */
  readonly serverStatus?: number;
}

/** The properties by which a pool of mysql2 or mysql2/promise is recognized. */
export interface MySQLPool {
  getConnection: (...args: never[]) => unknown;
  execute: (...args: never[]) => unknown;
}

/**
 * Checks a pool by duck typing because a user may have another installed version of the driver. For a
 * pool with promises it returns the underlying pool with callbacks.
 *
 * @throws {TypeError} if the pool is not supported.
 */
export function checkPool(given: MySQLPool): Pool {
  const { pool = given } = given as { pool?: unknown };
  const { getConnection, execute, promise } = Object(pool);
  const methods = [getConnection, execute, promise];
  if (methods.every((method) => typeof method === "function")) return pool as Pool;
  const kinds = "a Pool of mysql2 or mysql2/promise";
  throw new TypeError(`MySQL: option "pool" must be ${kinds}, but is ${described(given)}`);
}

/** How `withConnection` uses the pool. */
export function poolAdapter(pool: Pool): PoolAdapter<Connection> {
  return {
    failovers: Failovers.watch(pool, "connection"),
    acquire: (callback) =>
      pool.getConnection((error, connection) => {
        if (!error) addErrorListener(connection, pool);
        callback(error, connection);
      }),
    release(connection, error) {
      if (error !== undefined) return connection.destroy();
      const sent = connection.stream?.bytesWritten;
      if (sent !== undefined && clean.has(connection)) clean.set(connection, sent);
      connection.release();
    },
    isReadOnly,
    ask: async (connection) => answer(await rows(connection, roleQuery, [])),
  };
}

/** Shows whether the server is read-only. A proxy that splits reads does not send it to a replica. */
export const roleQuery = "SHOW GLOBAL VARIABLES WHERE Variable_name IN " +
  "('read_only', 'super_read_only', 'innodb_read_only', 'tidb_super_read_only', 'server_uuid')";

/** Whether the server takes writes, by the rows of `roleQuery`. */
export function answer(rows: Row[]): Answer {
  const variables = new Map(rows.map(([name, value]) => [String(name), String(value)]));
  const server = variables.get("server_uuid");
  variables.delete("server_uuid");
  return { writable: [...variables.values()].every((value) => /^(OFF|0)$/i.test(value)), server };
}

/** Closes a pool. The only possible error is that of a connection that is lost anyway. */
export function endPool(pool: Pool): Promise<void> {
  return new Promise((resolve) => pool.end(() => resolve()));
}

/** Returns rows as the server sent them, whatever the settings of the pool are. */
const plain = { rowsAsArray: true, nestTables: false };

/** The same for a pool with a `typeCast`. Replaces it by one that does nothing, which is slower. */
const uncast = { ...plain, typeCast: (_field: unknown, next: () => unknown) => next() };

/**
 * Runs a statement, prepared if it has values. A statement without a result set is committed when this
 * resolves, whatever the application did to the connection; its only row has the number of affected
 * rows.
 */
export function rows(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  return new Promise((resolve, reject) =>
    send(connection, sql, values, (error, result) => {
      if (error) reject(error);
      else if (Array.isArray(result)) resolve(result);
      else if (isPending(result)) resolve(runCommitted(connection, sql, values));
      else resolve([[result.affectedRows]]);
    })
  );
}

function send(
  connection: Connection,
  sql: string,
  values: unknown[],
  callback: Callback<Row[] | Done>,
): void {
  const options = connection.config?.typeCast === true ? plain : uncast;
  connection[values.length > 0 ? "execute" : "query"]({ ...options, sql, values }, callback);
}

/**
 * Repeats a statement that has become part of a transaction because autocommit is off, or because the
 * application left a transaction open. The store must not commit the application's transaction.
 */
async function runCommitted(
  connection: Connection,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  await execute(connection, "ROLLBACK");
  const result = await execute(connection, sql, values);
  if (isPending(result)) {
    clean.delete(connection);
    await execute(connection, "COMMIT");
  }
  return [[result.affectedRows]];
}

/** Runs a statement without a result set. */
function execute(connection: Connection, sql: string, values: unknown[] = []): Promise<Done> {
  return new Promise((resolve, reject) =>
    send(connection, sql, values, (error, result) => {
      if (error) reject(error);
      else resolve(result as Done);
    })
  );
}

/** Whether the statement is part of a transaction that is still open. */
function isPending({ serverStatus = 0 }: Done): boolean {
  return (serverStatus & 1) !== 0;
}

/** Whether the next statement is a transaction of its own. */
function isAutocommit({ serverStatus = 2 }: Done): boolean {
  // After ROLLBACK a transaction is open if completion_type is CHAIN.
  return (serverStatus & 3) === 2;
}

/**
 * How many bytes each connection had sent when the store released it outside a transaction. If it has
 * sent more since then, the application has used it.
 */
const clean = new WeakMap<Connection, number>();

/** Whether nobody has used the connection since the store has left it outside a transaction. */
function isClean(connection: Connection): boolean {
  const sent = connection.stream?.bytesWritten;
  return sent !== undefined && clean.get(connection) === sent;
}

/**
 * Reads the current rows. In a transaction that the application left open, or with autocommit off, the
 * connection would still see the snapshot of the moment when the transaction began.
 */
export function read(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  if (isClean(connection)) return rows(connection, sql, values);
  return readAfterRollback(connection, sql, values);
}

/** Runs a statement on leases. A change is committed when this resolves, also if it returns rows. */
export async function runLease(
  connection: Connection,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  if (sql.startsWith("SELECT")) return await read(connection, sql, values);
  const autocommit = isClean(connection) || isAutocommit(await execute(connection, "ROLLBACK"));
  const result = await rows(connection, sql, values);
  if (!autocommit) await execute(connection, "COMMIT");
  else {
    const sent = connection.stream?.bytesWritten;
    if (sent !== undefined) clean.set(connection, sent);
  }
  return result;
}

async function readAfterRollback(
  connection: Connection,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  const autocommit = isAutocommit(await execute(connection, "ROLLBACK"));
  const result = await rows(connection, sql, values);
  if (autocommit) {
    clean.set(connection, 0); // `release` sets the number
  } else {
    clean.delete(connection);
    await execute(connection, "ROLLBACK"); // releases the metadata lock
  }
  return result;
}

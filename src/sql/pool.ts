/**
 * Taking connections from a pool, and the errors of pools.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "../abort.ts";
import { transactionOpen } from "./errors.ts";

/** How `withConnection` uses a pool. */
export interface PoolAdapter<Connection> {
  acquire(callback: (error: unknown, connection: Connection) => void): void;
  /** Whether a transaction is open on the connection, if the driver can tell. */
  inTransaction?(connection: Connection): boolean;
  /** Returns the connection to the pool. Destroys it after an error. */
  release(connection: Connection, error?: unknown): void;
}

/** Runs work on a connection of a pool. Discards the connection when the signal aborts. */
export function withConnection<Connection, T>(
  pool: PoolAdapter<Connection>,
  signal: AbortSignal,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) =>
    pool.acquire((error, connection) => {
      if (error) return reject(error);
      let held = true;
      const release = (error?: unknown) => {
        if (!held) return;
        held = false;
        clearAbortHandler(signal);
        pool.release(connection, error);
      };
      const fail = (error: unknown) => {
        release(error);
        reject(error);
      };
      if (signal.aborted) return fail(signal.reason);
      if (pool.inTransaction?.(connection)) return fail(transactionOpen());
      setAbortHandler(signal, () => fail(signal.reason));
      work(connection).then((result) => {
        // In a transaction of the application nothing is stored yet, and reads may be outdated.
        if (pool.inTransaction?.(connection)) return fail(transactionOpen());
        release();
        resolve(result);
      }, fail);
    })
  );
}

/** A pool or a connection. */
interface Emitter {
  on(event: "error", listener: (error: unknown) => void): unknown;
}

const reporters = new WeakMap<object, Set<(error: unknown) => void>>();

/** Reports errors of a pool and its connections, until the returned function is called. */
export function reportErrors(pool: Emitter, report: (error: unknown) => void): () => void {
  addErrorListener(pool, pool);
  let all = reporters.get(pool);
  if (all === undefined) reporters.set(pool, all = new Set());
  all.add(report);
  return () => all.delete(report);
}

const withListener = new WeakSet<Emitter>();

/**
 * Adds the error listener of a pool or of one of its connections, unless it has one. Without a listener
 * an error would end the process. One listener serves all stores.
 */
export function addErrorListener(emitter: Emitter, pool: object): void {
  if (withListener.has(emitter)) return;
  withListener.add(emitter);
  emitter.on("error", (error) => {
    // Errors of a pool carry the client, and logs would show it with its password.
    delete (error as { client?: unknown }).client;
    reporters.get(pool)?.forEach((report) => report(error));
  });
}

/**
 * Taking connections from a pool, and the errors of pools.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "../abort.ts";
import { serverReadOnly } from "./errors.ts";
import type { Answer, Failovers } from "./failover.ts";

/** How `withConnection` uses a pool. */
export interface PoolAdapter<Connection extends object> {
  readonly failovers: Failovers<Connection>;
  acquire(callback: (error: unknown, connection: Connection) => void): void;
  /** Why the connection cannot be used, as an error, if the driver knows a reason. */
  problem?(connection: Connection): Error | undefined;
  /** Returns the connection to the pool. Destroys it after an error. */
  release(connection: Connection, error?: unknown): void;
  /** Whether the server refuses writes or connections because it is not the primary. */
  isReadOnly(error: unknown): boolean;
  /** Asks the server whether it takes writes. */
  ask(connection: Connection): Promise<Answer>;
}

/** Runs work on a connection of a pool. Discards the connection when the signal aborts. */
export function withConnection<Connection extends object, T>(
  pool: PoolAdapter<Connection>,
  signal: AbortSignal,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const { failovers } = pool;
  return new Promise((resolve, reject) => {
    const acquire = () =>
      pool.acquire((error, connection) => {
        if (error) return reject(explained(error));
        let held = true;
        const release = (error?: unknown) => {
          if (!held) return;
          held = false;
          clearAbortHandler(signal);
          pool.release(connection, error);
        };
        const fail = (error: unknown) => {
          const reason = explained(error, connection);
          release(reason);
          reject(reason);
        };
        if (signal.aborted) return fail(signal.reason);
        if (failovers.isOutdated(connection)) {
          // Without a back-off, because a pool may have many of them.
          release(outdated);
          return acquire();
        }
        const problem = pool.problem?.(connection);
        if (problem) return fail(problem);
        setAbortHandler(signal, () => fail(signal.reason));
        const working = failovers.isTrusted(connection)
          ? work(connection)
          : confirm(pool, connection).then(() => work(connection));
        working.then((result) => {
          // In a transaction of the application nothing is stored yet. What it or a former primary has
          // read may be outdated.
          const problem = pool.problem?.(connection);
          if (problem) return fail(problem);
          release();
          resolve(result);
        }, async (error) => {
          if (held && pool.isReadOnly(error)) {
            await failovers.identify(connection, () => pool.ask(connection)).catch(() => {});
          }
          fail(error);
        });
      });
    const explained = (error: unknown, connection?: Connection) => {
      if (!pool.isReadOnly(error)) return error;
      failovers.note(connection);
      return serverReadOnly(error);
    };
    acquire();
  });
}

/** Makes a pool discard a connection that was opened before a failover. */
const outdated = new Error("the connection was opened before a failover");

/** @throws {Error} if the server is not the primary, and another one is. */
async function confirm<Connection extends object>(
  { failovers, ask }: PoolAdapter<Connection>,
  connection: Connection,
): Promise<void> {
  if (!await failovers.check(connection, () => ask(connection))) throw serverReadOnly();
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

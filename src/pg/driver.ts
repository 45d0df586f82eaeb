/**
 * The interfaces of `pg`, and running statements on it.
 *
 * @module
 */

import { transactionOpen } from "../sql/errors.ts";
import { type Answer, Failovers } from "../sql/failover.ts";
import type { PoolAdapter } from "../sql/pool.ts";
import type { Row } from "../sql/script.ts";
import { described } from "../validation.ts";
import { becameReadOnly, isReadOnly } from "./errors.ts";

/** The part of a pool of `pg` that is used. */
export interface Pool {
  connect(callback: (error: unknown, client: Client) => void): void;
  // deno-lint-ignore no-explicit-any
  on(event: string, listener: (argument: any) => void): unknown;
  end(): Promise<void>;
}

/** The part of a client of `pg` that is used. */
export interface Client {
  query(query: object, callback: (error: unknown, result: { rows: Row[] }) => void): void;
  on(event: "error", listener: () => void): unknown;
  release(destroy: boolean): void;
  /** Emits the messages of the server. Missing in `pg-native`. */
  readonly connection?: {
    prependListener(event: string, listener: (message?: Message) => void): unknown;
  };
  /** The state of its transaction. Missing in `pg` before 8.17. */
  getTransactionStatus?(): string | null;
}

/** A message of the server. */
interface Message {
  /** In ReadyForQuery: `I` outside a transaction, `T` inside, `E` after an error in it. */
  readonly status?: string;
  /** In ParameterStatus: a setting that has changed. */
  readonly parameterName?: string;
  readonly parameterValue?: string;
}

/** The properties by which a pool of `pg` is recognized. */
export interface PgPool {
  connect: (...args: never[]) => unknown;
  on: (...args: never[]) => unknown;
  /** A single client does not have it. */
  readonly totalCount: number;
}

/**
 * Checks a pool by duck typing because a user may have another installed version of the driver.
 *
 * @throws {TypeError} if the pool is not supported.
 */
export function checkPool(pool: PgPool): Pool {
  const { connect, on, totalCount } = pool;
  const fits = typeof connect === "function" && typeof on === "function";
  if (fits && typeof totalCount === "number") return pool as unknown as Pool;
  throw new TypeError(`Postgres: option "pool" must be a Pool of pg, but is ${described(pool)}`);
}

/** How `withConnection` uses the pool. */
export function poolAdapter(pool: Pool): PoolAdapter<Client> {
  return {
    failovers: Failovers.watch(pool, "connect"),
    acquire: (callback) =>
      pool.connect((error, client) => {
        if (!error && !states.has(client)) watch(client);
        callback(error, client);
      }),
    problem(client) {
      const { transaction, readOnly } = states.get(client)!;
      if (transaction === "T" || transaction === "E") return transactionOpen();
      return readOnly ? becameReadOnly() : undefined;
    },
    release: (client, error) => client.release(error !== undefined),
    isReadOnly,
    ask: async (client) => answer(await rows(client, roleQuery, [])),
  };
}

/** Selects "on" in a replica, and in a server that has been made read-only. */
export const roleQuery = "SELECT current_setting('transaction_read_only')";

/** Whether the server takes writes, by the rows of `roleQuery`. */
export function answer([row]: Row[]): Answer {
  return { writable: row?.[0] === "off" };
}

/** The state of each client that has been acquired. */
const states = new WeakMap<Client, State>();

interface State {
  transaction: string | null | undefined;
  /** Whether the server has become read-only since then. */
  readOnly: boolean;
}

/**
 * Adds listeners to a client. The pool does not handle errors of an acquired client, and only the server
 * knows whether the application has left a transaction open, and whether it takes writes.
 */
function watch(client: Client): void {
  const state: State = { transaction: client.getTransactionStatus?.(), readOnly: false };
  states.set(client, state);
  client.on("error", ignore);
  // Prepended because the driver's own listener calls the store, which needs the new state.
  client.connection?.prependListener("readyForQuery", (message) => {
    state.transaction = message?.status;
  });
  // PostgreSQL 14 and newer report a change with the result of the next query.
  client.connection?.prependListener("parameterStatus", (message) => {
    if (readOnlySettings.test(message?.parameterName ?? "")) {
      state.readOnly = message?.parameterValue === "on";
    }
  });
}

const readOnlySettings = /^(default_transaction_read_only|in_hot_standby)$/;

/** A lost connection makes the query fail too, so the client's error event is not needed. */
function ignore(): void {}

/**
 * The names of prepared statements, by their text. There are a few per table. The random part keeps them
 * apart from those of another copy of this package on the same pool.
 */
const names = new Map<string, string>();

const namespace = Math.random().toString(36).slice(2);

/**
 * Returns values as the server sends them, because the application may have set its own parsers. All
 * columns are read as text because text is the same in the binary format, which the application may use.
 */
const types = { getTypeParser: () => plain };

function plain(value: unknown): unknown {
  return value;
}

/** Runs a statement. A prepared statement is parsed once per connection. */
export function rows(
  client: Client,
  text: string,
  values: unknown[],
  prepared = false,
): Promise<Row[]> {
  let name: string | undefined;
  if (prepared && (name = names.get(text)) === undefined) {
    names.set(text, name = `telegraf-session-${namespace}-${names.size}`);
  }
  return new Promise((resolve, reject) =>
    client.query({ name, text, values, rowMode: "array", types }, (cause, result) => {
      if (!cause) return resolve(result.rows);
      const { code, message } = cause as Error & { code?: string };
      if (!prepared || (code !== "26000" && code !== "42P05")) return reject(cause);
      const hint = 'set the option "prepare" to false behind a pooler that shares connections';
      reject(new Error(`${message}; ${hint}`, { cause }));
    })
  );
}

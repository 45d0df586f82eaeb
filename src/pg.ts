/**
 * PostgreSQL: the table and its upgrade, errors, and the interfaces of `pg`.
 *
 * @module
 */

import { isError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { described } from "./options.ts";
import { isTransactionOpen, onConflict, quoted, splitName } from "./sql.ts";
import type { Dialect, PoolAdapter, Row, Script } from "./sql.ts";
import * as sql from "./sql.ts";

/** The part of a pool of `pg` that is used. */
export interface Pool {
  connect(callback: (error: unknown, client: Client) => void): void;
  on(event: "error", listener: (error: unknown) => void): unknown;
  end(): Promise<void>;
}

/** The part of a client of `pg` that is used. */
export interface Client {
  query(query: object, callback: (error: unknown, result: { rows: Row[] }) => void): void;
  on(event: "error", listener: () => void): unknown;
  release(destroy: boolean): void;
  /** Emits the messages of the server. Missing in `pg-native`. */
  readonly connection?: {
    prependListener(event: "readyForQuery", listener: (message?: Ready) => void): unknown;
  };
  /** The state of its transaction. Missing in `pg` before 8.17. */
  getTransactionStatus?(): string | null;
}

/** The message ReadyForQuery: `I` outside a transaction, `T` inside, `E` after an error in it. */
interface Ready {
  readonly status?: string;
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
    acquire: (callback) =>
      pool.connect((error, client) => {
        if (!error && !states.has(client)) watch(client);
        callback(error, client);
      }),
    inTransaction(client) {
      const { transaction } = states.get(client)!;
      return transaction === "T" || transaction === "E";
    },
    release: (client, error) => client.release(error !== undefined),
  };
}

/** The state of each client that has been acquired. */
const states = new WeakMap<Client, { transaction?: string | null }>();

/**
 * Adds listeners to a client. The pool does not handle errors of an acquired client, and only the server
 * knows whether the application has left a transaction open.
 */
function watch(client: Client): void {
  const state = { transaction: client.getTransactionStatus?.() };
  states.set(client, state);
  client.on("error", ignore);
  // Prepended because the driver's own listener calls the store, which needs the new state.
  client.connection?.prependListener("readyForQuery", (message) => {
    state.transaction = message?.status;
  });
}

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

/**
 * Finds the table and returns its name with its schema, quoted, because the application may change the
 * search path of a connection later. Without the option `schema` the search path is used, as in any
 * query. A name with a dot may be a schema and a table, as 2.0.0-beta reads it.
 */
export function* locate(table: string, schema: string | undefined): Script<string> {
  const whole = quoted(table, '"');
  const split = splitName(table)?.map((part) => quoted(part, '"')).join(".");
  const [[found, other, current, encoding] = []] = yield [
    `SELECT (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass($1)),
      (to_regclass($2) IS NOT NULL)::text, current_schema(), current_setting('client_encoding')`,
    whole,
    split ?? whole,
  ];
  if (!/^utf-?8$/i.test(String(encoding))) {
    throw new Error(`client_encoding of the connection is ${encoding}, but must be UTF8`);
  }
  if (schema !== undefined) return `${quoted(schema, '"')}.${whole}`;
  if (found === null && split !== undefined && other === "true") return split;
  const place = found ?? current;
  return place === null ? whole : `${quoted(String(place), '"')}.${whole}`;
}

/** The SQL of a table, whose name {@linkcode locate} has returned. */
export function dialect(table: string): Dialect {
  return {
    table,
    inspect: [
      `SELECT a.attname, format_type(a.atttypid, a.atttypmod), EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
          AND i.indisvalid AND i.indpred IS NULL AND (a.attname <> 'key'
            OR i.indnkeyatts = 1 AND i.indisunique AND i.indimmediate))::int::text
      FROM pg_attribute a
      WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`,
      table,
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${table} (key text COLLATE "C" PRIMARY KEY, session text, expires bigint)`,
        ];
      }
      const changes: string[] = [];
      const alter: string[] = [];
      if (shape.columns.get("key") !== "text") alter.push("ALTER COLUMN key TYPE text");
      if (!shape.columns.has("expires")) alter.push("ADD COLUMN expires bigint");
      if (!shape.unique) {
        changes.push(
          `DELETE FROM ${table} old USING (
            SELECT ctid AS id, row_number() OVER (PARTITION BY key ORDER BY ctid DESC) AS age
            FROM ${table} WHERE key IS NOT NULL
          ) row WHERE old.ctid = row.id AND row.age > 1`,
        );
        alter.push("ADD UNIQUE (key)");
      }
      if (alter.length > 0) changes.push(`ALTER TABLE ${table} ${alter.join(", ")}`);
      return changes;
    },
    *underSchemaLock(script) {
      yield "BEGIN";
      try {
        const result = yield* underSchemaLock(table, script);
        yield "COMMIT";
        return result;
      } catch (error) {
        yield "ROLLBACK";
        throw error;
      }
    },
    column: (column) => column,
    duplicateOrder: "ctid",
    select: (column) => column === "expires" ? "expires::text" : column,
    index: `CREATE INDEX ON ${table} (expires)`,
    *prune(now): Script<number> {
      const rows = yield [
        `WITH turn AS (
          SELECT pg_try_advisory_xact_lock(1952803192, hashtext($1)) AS ours
        )
        DELETE FROM ${table} WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM ${table} WHERE expires <= $2 AND (SELECT ours FROM turn)
          LIMIT 500 FOR UPDATE SKIP LOCKED
        )) RETURNING 1`,
        table,
        now,
      ];
      return rows.length;
    },
    matches: (keys, first) => keys === 1 ? `key = $${first}` : `key = ANY($${first})`,
    matchesInOrder: (keys, first) =>
      keys === 1
        ? `key = $${first}`
        : `key IN (SELECT key FROM ${table} WHERE key = ANY($${first}) ORDER BY key COLLATE "C" FOR UPDATE)`,
    value: (column, index) => `$${index}::${column === "expires" ? "bigint" : "text"}`,
    // Padding rows of a prepared statement have no key.
    insertSource: (rows, columns) =>
      `SELECT * FROM (${rows}) AS entry (${columns}) WHERE key IS NOT NULL`,
    overwrite: onConflict,
  };
}

/** Finds the table, then creates or upgrades it. */
export function* prepareTable(
  table: string,
  schema: string | undefined,
  options: sql.SchemaOptions,
): Script<sql.Statements> {
  return yield* sql.prepareTable(dialect(yield* locate(table, schema)), options);
}

/** Runs the script in a transaction, while no other process prepares the table. */
export function* underSchemaLock<T>(table: string, script: Script<T>): Script<T> {
  // A queued ALTER TABLE blocks all later queries. The short timeout prevents that a long transaction
  // of another session stalls them.
  yield "SET LOCAL lock_timeout = '500ms'";
  yield ["SELECT pg_advisory_xact_lock(1952803191, hashtext($1))", table];
  return yield* script;
}

/** SQLSTATE codes of transient errors. `docs/errors.md` gives the reason for each. */
const transientCodes = new RegExp(`^(${
  [
    "08[^P]..",
    "25(006|P0[234])",
    "40(000|001|003|P01)",
    "42P07", // the table has just been created
    "23505", // an older version inserted while the unique key was being added
    "53[23]00",
    "55P03",
    "57(000|014|P0[1235])",
    "580[03]0",
  ].join("|")
})$`);

/** PgBouncer uses the code 08P01 for permanent and for transient errors. These are permanent. */
const permanentPoolerErrors =
  /transaction blocks|no such|not (allowed|supported)|unsupported|auth|password/i;

/** Transient errors of the driver, which have no code. */
const transientMessages = /^(Connection terminated|timeout e|Query read timeout)|not queryable$/;

/** Whether another attempt may succeed. It uses another client because this one is discarded. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code = "", message, routine } = error as Error & { code?: string; routine?: string };
  if (code === "08P01") return !permanentPoolerErrors.test(message);
  // "cached plan must not change result type", in any language: the table has been altered.
  const altered = code === "0A000" &&
    (routine === "RevalidateCachedQuery" || /^cached plan must not/.test(message));
  return altered || disconnected(error) || isTransactionOpen(error) || transientCodes.test(code) ||
    transientMessages.test(message);
}

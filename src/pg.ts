/**
 * What PostgreSQL has of its own: the table and its upgrade, its errors, and what is used of `pg`.
 *
 * @module
 */

import { isError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { described } from "./options.ts";
import { isLeftOpen, onConflict, quoted, splitName } from "./sql.ts";
import type { Dialect, Lender, Row, Script } from "./sql.ts";
import * as sql from "./sql.ts";

/** What is used of a pool of `pg`. */
export interface Pool {
  connect(callback: (error: unknown, client: Client) => void): void;
  on(event: "error", listener: (error: unknown) => void): unknown;
  end(): Promise<void>;
}

/** What is used of a client of `pg`. */
export interface Client {
  query(query: object, callback: (error: unknown, result: { rows: Row[] }) => void): void;
  on(event: "error", listener: () => void): unknown;
  release(destroy: boolean): void;
  /** Where messages of the server arrive; `pg-native` has none. */
  readonly connection?: {
    prependListener(event: "readyForQuery", listener: (message?: Ready) => void): unknown;
  };
  /** The state of its transaction; not in `pg` before 8.17. */
  getTransactionStatus?(): string | null;
}

/** The server is ready for a query: `I` outside a transaction, `T` inside, `E` after an error. */
interface Ready {
  readonly status?: string;
}

/** A pool of `pg`, as far as it tells that it is one. */
export interface PgPool {
  connect: (...args: never[]) => unknown;
  on: (...args: never[]) => unknown;
  /** Clients have none. */
  readonly totalCount: number;
}

/** Takes a pool by its shape, for copies of the driver differ. */
export function checked(pool: PgPool): Pool {
  const { connect, on, totalCount } = pool;
  const fits = typeof connect === "function" && typeof on === "function";
  if (fits && typeof totalCount === "number") return pool as unknown as Pool;
  throw new TypeError(`Postgres: option "pool" must be a Pool of pg, but is ${described(pool)}`);
}

/** Lends the clients of a pool. */
export function lender(pool: Pool): Lender<Client> {
  return {
    acquire: (callback) =>
      pool.connect((error, client) => {
        if (!error && !states.has(client)) listen(client);
        callback(error, client);
      }),
    inTransaction(client) {
      const { transaction } = states.get(client)!;
      return transaction === "T" || transaction === "E";
    },
    release: (client, error) => client.release(error !== undefined),
  };
}

/** What is known of the clients that have been lent. */
const states = new WeakMap<Client, { transaction?: string | null }>();

/**
 * Listens to a client: while it is lent, the pool does not listen to its errors, and only the server
 * knows whether the application has left a transaction open.
 */
function listen(client: Client): void {
  const state = { transaction: client.getTransactionStatus?.() };
  states.set(client, state);
  client.on("error", ignore);
  // Prepended, because the driver's own listener calls back to the store.
  client.connection?.prependListener("readyForQuery", (message) => {
    state.transaction = message?.status;
  });
}

/** When a connection is lost under a query, the client says so and the query fails. */
function ignore(): void {}

/** Of prepared statements, by their text. Other copies of this package may share a pool. */
const names = new Map<string, string>();
const copy = Math.random().toString(36).slice(2);

/**
 * Values as the server sends them, whatever parsers the application has set. All that is read is text,
 * because that is the same in the binary format, which the application may have chosen.
 */
const types = { getTypeParser: () => plain };

function plain(value: unknown): unknown {
  return value;
}

/** Runs a statement; a prepared one is parsed once per connection. */
export function rows(
  client: Client,
  text: string,
  values: unknown[],
  prepared = false,
): Promise<Row[]> {
  let name: string | undefined;
  if (prepared && (name = names.get(text)) === undefined) {
    names.set(text, name = `telegraf-session-${copy}-${names.size}`);
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
 * The name of the table with its schema, quoted: the application may change the search path of a
 * connection later. Without a schema the table is looked for as in any query, along the search path;
 * a name with a dot may be that of a schema and a table, as upstream reads it.
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

/** A table by its name, as {@linkcode locate} returns it. */
export function dialect(name: string): Dialect {
  return {
    name,
    inspect: [
      `SELECT a.attname, format_type(a.atttypid, a.atttypmod), EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
          AND i.indisvalid AND i.indpred IS NULL AND (a.attname <> 'key'
            OR i.indnkeyatts = 1 AND i.indisunique AND i.indimmediate))::int::text
      FROM pg_attribute a
      WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`,
      name,
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${name} (key text COLLATE "C" PRIMARY KEY, session text, expires bigint)`,
        ];
      }
      const changes: string[] = [];
      const alter: string[] = [];
      if (shape.columns.get("key") !== "text") alter.push("ALTER COLUMN key TYPE text");
      if (!shape.columns.has("expires")) alter.push("ADD COLUMN expires bigint");
      if (!shape.unique) {
        changes.push(
          `DELETE FROM ${name} old USING (
            SELECT ctid AS id, row_number() OVER (PARTITION BY key ORDER BY ctid DESC) AS age
            FROM ${name} WHERE key IS NOT NULL
          ) row WHERE old.ctid = row.id AND row.age > 1`,
        );
        alter.push("ADD UNIQUE (key)");
      }
      if (alter.length > 0) changes.push(`ALTER TABLE ${name} ${alter.join(", ")}`);
      return changes;
    },
    *alone(script) {
      yield "BEGIN";
      try {
        const result = yield* locked(name, script);
        yield "COMMIT";
        return result;
      } catch (error) {
        yield "ROLLBACK";
        throw error;
      }
    },
    column: (column) => column,
    age: "ctid",
    select: (column) => column === "expires" ? "expires::text" : column,
    index: `CREATE INDEX ON ${name} (expires)`,
    *prune(now): Script<number> {
      const rows = yield [
        `WITH turn AS (
          SELECT pg_try_advisory_xact_lock(1952803192, hashtext($1)) AS ours
        )
        DELETE FROM ${name} WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM ${name} WHERE expires <= $2 AND (SELECT ours FROM turn)
          LIMIT 500 FOR UPDATE SKIP LOCKED
        )) RETURNING 1`,
        name,
        now,
      ];
      return rows.length;
    },
    matches: (keys, first) => keys === 1 ? `key = $${first}` : `key = ANY($${first})`,
    locks: (keys, first) =>
      keys === 1
        ? `key = $${first}`
        : `key IN (SELECT key FROM ${name} WHERE key = ANY($${first}) ORDER BY key COLLATE "C" FOR UPDATE)`,
    value: (column, index) => `$${index}::${column === "expires" ? "bigint" : "text"}`,
    // Rows without a key fill up a prepared statement.
    source: (rows, columns) =>
      `SELECT * FROM (${rows}) AS entry (${columns}) WHERE key IS NOT NULL`,
    overwrite: onConflict,
  };
}

/** Prepares the table where it is, or where it belongs. */
export function* prepareTable(
  table: string,
  schema: string | undefined,
  tools: sql.Tools,
): Script<sql.Statements> {
  return yield* sql.prepareTable(dialect(yield* locate(table, schema)), tools);
}

/** In a transaction: the script, while no other process prepares a table of this name. */
export function* locked<T>(name: string, script: Script<T>): Script<T> {
  // Who waits for a lock makes all others wait: not for a long transaction of somebody else.
  yield "SET LOCAL lock_timeout = '500ms'";
  yield ["SELECT pg_advisory_xact_lock(1952803191, hashtext($1))", name];
  return yield* script;
}

/** SQLSTATE of errors that pass; `docs/errors.md` has each with its reason, and those that do not. */
const codes = new RegExp(`^(${
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

/** What PgBouncer refuses with the code 08P01, which it also has for what passes. */
const refused = /transaction blocks|no such|not (allowed|supported)|unsupported|auth|password/i;

/** The driver's own errors have no code. */
const messages = /^(Connection terminated|timeout e|Query read timeout)|not queryable$/;

/** Whether another attempt may succeed; it has another client, because this one is discarded. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code = "", message, routine } = error as Error & { code?: string; routine?: string };
  if (code === "08P01") return !refused.test(message);
  // "cached plan must not change result type", in whatever language: the table was altered.
  const altered = code === "0A000" &&
    (routine === "RevalidateCachedQuery" || /^cached plan must not/.test(message));
  return altered || disconnected(error) || isLeftOpen(error) || codes.test(code) ||
    messages.test(message);
}

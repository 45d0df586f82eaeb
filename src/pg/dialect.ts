/**
 * The table in PostgreSQL, and its upgrade.
 *
 * @module
 */

import { reason } from "../errors.ts";
import {
  type Dialect,
  type LeaseStatements,
  onConflict,
  quoted,
  splitName,
} from "../sql/dialect.ts";
import { rowsOf } from "../sql/leases.ts";
import type { Script } from "../sql/script.ts";
import { memoized } from "../sql/statements.ts";

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
    keyInBytes: () => 'key COLLATE "C"',
    duplicateOrder: "ctid",
    select: (column) => column === "expires" ? "expires::text" : column,
    index: `CREATE INDEX ON ${table} (expires)`,
    *prune(now, free): Script<number> {
      const rows = yield [
        `WITH turn AS (
          SELECT pg_try_advisory_xact_lock(1952803192, hashtext($1)) AS ours
        )
        DELETE FROM ${table} WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM ${table} WHERE expires <= $2${free} AND (SELECT ours FROM turn)
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
    // Every collation that a database can have by default compares bytes in the end.
    sessionIs: (index) => `session = $${index}::text`,
    // Padding rows of a prepared statement have no key.
    insertSource: (rows, columns) =>
      `SELECT * FROM (${rows}) AS entry (${columns}) WHERE key IS NOT NULL`,
    overwrite: onConflict,
    leaseColumns: { lease: "text", until: "bigint", note: "text" },
    now,
    leases: () => leases(table),
  };
}

/** The values of `matches`. */
export function keyValues(keys: string[]): unknown[] {
  return keys.length === 1 ? keys : [[...keys].sort()];
}

/** Not `now()`, which is the begin of the transaction, before the statement waited for a lock. */
const now = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/**
 * The statements on leases. One statement on one row sees the newest session: `ON CONFLICT DO UPDATE`
 * waits for the row, and then returns the row that is there.
 *
 * A claim does not wait for the disk. If the server loses it in a crash, the settlement is refused.
 */
function leases(table: string): LeaseStatements {
  const types = { key: "text", lease: "text", session: "text", note: "text" } as Record<
    string,
    string
  >;
  const value = (column: string, index: number) => `$${index}::${types[column] ?? "bigint"}`;
  const keys = (count: number, step: number) =>
    Array.from({ length: count }, (_, i) => `$${i * step + 1}::text`).join(", ");
  /** Locks the rows in the order of their keys, so that processes do not deadlock. */
  const inOrder = (column: string, count: number, step: number) =>
    count === 1
      ? ""
      : ` AND ${column} = ANY(ARRAY(SELECT key FROM ${table} WHERE key IN (${keys(count, step)})
        ORDER BY key COLLATE "C" FOR UPDATE))`;
  const held = `SELECT key, lease, (until - ${now})::text FROM ${table} WHERE until > ${now}`;
  const remove = (count: number) =>
    `DELETE FROM ${table} WHERE note IS NULL
      AND (key, lease) IN (${rowsOf(count, ["key", "lease"], value)})` +
    inOrder("key", count, 2);
  return {
    most: 128,
    claimReturns: true,
    returnsKeys: true,
    claim: memoized((count) =>
      `WITH commit AS (SELECT set_config('synchronous_commit', 'off', true))
      INSERT INTO ${table} AS row (key, lease, until)
      SELECT key, lease, ${now} + length
      FROM (VALUES ${
        rowsOf(count, ["key", "lease", "length"], value)
      }) AS claim (key, lease, length), commit
      WHERE key IS NOT NULL
      ON CONFLICT (key) DO UPDATE SET lease = excluded.lease, until = excluded.until
      WHERE row.until IS NULL OR row.until <= ${now} OR row.lease = excluded.lease
      RETURNING key, session, expires::text, lease, note`
    ),
    settle: memoized((count) => {
      const columns = ["key", "lease", "length", "write", "session", "expires", "note"];
      return `UPDATE ${table} AS row SET
        session = CASE WHEN write = 1 THEN new.session ELSE row.session END,
        expires = CASE WHEN write = 1 THEN new.expires ELSE row.expires END,
        note = coalesce(new.note, row.note),
        until = CASE WHEN length > 0 THEN ${now} + length ELSE 0 END
      FROM (VALUES ${rowsOf(count, columns, value)}) AS new (${columns.join(", ")})
      WHERE row.key = new.key AND row.lease = new.lease${inOrder("row.key", count, 7)}
      RETURNING row.key`;
    }),
    remove: memoized((count) => `${remove(count)} RETURNING key`),
    removeAbsent: memoized((count) => `${remove(count)} AND session IS NULL RETURNING key`),
    read: memoized((count) =>
      `SELECT key, session, expires::text, lease, note FROM ${table} WHERE key IN (${
        keys(count, 1)
      })`
    ),
    held: memoized((size) => `${held} AND key > $1::text ORDER BY key COLLATE "C" LIMIT ${size}`),
    find: memoized((count) => `${held} AND key IN (${keys(count, 1)})`),
  };
}

/**
 * Runs a script. If the server does not know what a statement asks for, finds out whether it is too old.
 * PostgreSQL before 11 has no `pg_index.indnkeyatts`, and before 9.4 no `to_regclass`.
 */
export function* explainingVersion<T>(script: Script<T>): Script<T> {
  try {
    return yield* script;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code !== "42601" && code !== "42703" && code !== "42883") throw error;
    const version = yield* serverVersion();
    if (!(Number.parseInt(version) < 11)) throw error;
    const why = `the store needs PostgreSQL 11 or newer, but the server is PostgreSQL ${version}`;
    throw new Error(`${why}: ${reason(error)}`, { cause: error });
  }
}

function* serverVersion(): Script<string> {
  try {
    const [[version] = []] = yield "SHOW server_version";
    return String(version);
  } catch {
    return ""; // the first error is reported
  }
}

/** Runs the script in a transaction, while no other process prepares the table. */
export function* underSchemaLock<T>(table: string, script: Script<T>): Script<T> {
  // A queued ALTER TABLE blocks all later queries. The short timeout prevents that a long transaction
  // of another session stalls them.
  yield "SET LOCAL lock_timeout = '500ms'";
  yield ["SELECT pg_advisory_xact_lock(1952803191, hashtext($1))", table];
  return yield* script;
}

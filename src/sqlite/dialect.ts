/**
 * The table in SQLite, and its upgrade.
 *
 * @module
 */

import { type Dialect, type LeaseStatements, onConflict, quoted } from "../sql/dialect.ts";
import type { Script } from "../sql/script.ts";
import { beginError } from "./driver.ts";

/** The SQL of a table. */
export function dialect(name: string): Dialect {
  const table = quoted(name, '"');
  return {
    table,
    inspect: [
      `SELECT c.name, c.type, EXISTS (
        SELECT * FROM pragma_index_list(?) i WHERE NOT i.partial
          AND (SELECT name FROM pragma_index_info(i.name) WHERE seqno = 0) = c.name
          AND (c.name <> 'key'
            OR i."unique" AND (SELECT count(*) FROM pragma_index_info(i.name)) = 1))
      FROM pragma_table_info(?) c`,
      name,
      name,
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${table} (key text PRIMARY KEY NOT NULL, session text, expires integer)`,
        ];
      }
      const changes: string[] = [];
      if (!shape.unique) {
        changes.push(
          `DELETE FROM ${table} WHERE key IS NOT NULL
            AND rowid NOT IN (SELECT max(rowid) FROM ${table} GROUP BY key)`,
          `CREATE UNIQUE INDEX ${quoted(`${name}-key`, '"')} ON ${table} (key)`,
        );
      }
      if (!shape.columns.has("expires")) {
        changes.push(`ALTER TABLE ${table} ADD COLUMN expires integer`);
      }
      return changes;
    },
    index: `CREATE INDEX ${quoted(`${name}-expires`, '"')} ON ${table} (expires)`,
    *prune(now, free): Script<number> {
      const rows = yield [
        `DELETE FROM ${table} WHERE rowid IN (
          SELECT rowid FROM ${table} WHERE expires <= ?${free} LIMIT 500
        ) RETURNING 1`,
        now,
      ];
      return rows.length;
    },
    *underSchemaLock(script) {
      try {
        yield "BEGIN IMMEDIATE";
      } catch (error) {
        throw beginError(error);
      }
      try {
        const result = yield* script;
        yield "COMMIT";
        return result;
      } catch (error) {
        try {
          yield "ROLLBACK";
        } catch {
          // Some errors have already rolled back.
        }
        throw error;
      }
    },
    column: (column) => column,
    keyInBytes: () => "key",
    duplicateOrder: "rowid DESC", // because `get` returns the first row of a key
    select: (column) => column,
    matches: () => "key = ?",
    value: () => "?",
    // The column of a table that the application created may have another collation.
    sessionIs: () => "session = ? COLLATE BINARY",
    overwrite: onConflict,
    leaseColumns: { lease: "text", until: "integer", note: "text" },
    now,
    leases: () => leases(table),
  };
}

/** `'now'` is exact to the millisecond. */
const now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

/** The statements on leases, for one row each: SQLite has no round trips, and D1 takes few values. */
function leases(table: string): LeaseStatements {
  const held = `SELECT key, lease, until - ${now} FROM ${table} WHERE until > ${now}`;
  const remove = `DELETE FROM ${table} WHERE key = ? AND lease = ? AND note IS NULL`;
  return {
    most: 1,
    claimReturns: true,
    returnsKeys: true,
    claim: () =>
      `INSERT INTO ${table} (key, lease, until) VALUES (?, ?, ${now} + ?)
      ON CONFLICT (key) DO UPDATE SET lease = excluded.lease, until = excluded.until
      WHERE ${table}.until IS NULL OR ${table}.until <= ${now} OR ${table}.lease = excluded.lease
      RETURNING key, session, expires, lease, note`,
    settle: () =>
      `UPDATE ${table} SET
        session = CASE WHEN new.write = 1 THEN new.session ELSE ${table}.session END,
        expires = CASE WHEN new.write = 1 THEN new.expires ELSE ${table}.expires END,
        note = coalesce(new.note, ${table}.note),
        until = CASE WHEN new.length > 0 THEN ${now} + new.length ELSE 0 END
      FROM (SELECT ? AS key, ? AS lease, ? AS length, ? AS write, ? AS session, ? AS expires,
        ? AS note) AS new
      WHERE ${table}.key = new.key AND ${table}.lease = new.lease
      RETURNING key`,
    remove: () => `${remove} RETURNING key`,
    removeAbsent: () => `${remove} AND session IS NULL RETURNING key`,
    read: () => `SELECT key, session, expires, lease, note FROM ${table} WHERE key = ?`,
    holders: () =>
      `SELECT key, lease FROM ${table} WHERE key = ? AND lease <> ? AND until > ${now}`,
    held: (size) => `${held} AND key > ? ORDER BY key LIMIT ${size}`,
    find: () => `${held} AND key = ?`,
  };
}

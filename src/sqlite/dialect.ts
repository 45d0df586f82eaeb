/**
 * The table in SQLite, and its upgrade.
 *
 * @module
 */

import { type Dialect, onConflict, quoted } from "../sql/dialect.ts";
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
    *prune(now): Script<number> {
      const rows = yield [
        `DELETE FROM ${table} WHERE rowid IN (
          SELECT rowid FROM ${table} WHERE expires <= ? LIMIT 500
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
    duplicateOrder: "rowid DESC", // because `get` returns the first row of a key
    select: (column) => column,
    matches: () => "key = ?",
    value: () => "?",
    overwrite: onConflict,
  };
}

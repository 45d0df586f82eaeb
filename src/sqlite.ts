/**
 * What SQLite has of its own: the table and its upgrade, its errors, and what is used of drivers.
 *
 * @module
 */

import { type Dialect, onConflict, playSync, quoted, type Row, type Script } from "./sql.ts";

/** What is used of a database of better-sqlite3 or `node:sqlite`. */
export interface Database extends Transactional {
  prepare(sql: string): Statement;
  exec(sql: string): unknown;
  close(): unknown;
}

/** What tells whether a transaction is open. */
interface Transactional {
  /** Whether a transaction is open, in better-sqlite3. */
  readonly inTransaction?: boolean;
  /** Whether a transaction is open, in `node:sqlite`. */
  readonly isTransaction?: boolean;
}

/** What is used of a prepared statement. */
export interface Statement {
  get(...values: unknown[]): unknown;
  all(...values: unknown[]): unknown[];
  run(...values: unknown[]): unknown;
}

/** Options of better-sqlite3's `Database`. */
export interface SQLiteConfig {
  readonly?: boolean;
  fileMustExist?: boolean;
  timeout?: number;
  // deno-lint-ignore no-explicit-any
  verbose?: ((...message: any[]) => void) | null;
  // deno-lint-ignore no-explicit-any
  nativeBinding?: any;
}

/** A database, as far as it tells that it is one. */
export interface SQLiteDatabase {
  prepare: (...args: never[]) => unknown;
  exec: (...args: never[]) => unknown;
}

/** Takes a database by its shape, for copies of drivers differ. */
export function checked(database: SQLiteDatabase): Database {
  const { prepare, exec, each } = database as SQLiteDatabase & { each?: unknown };
  // Drivers that answer later have `each`.
  const fits = typeof prepare === "function" && typeof exec === "function" && each === undefined;
  if (fits) return database as unknown as Database;
  const kinds = "a Database of better-sqlite3 or a DatabaseSync of node:sqlite";
  throw new TypeError(`SQLite: option "database" must be ${kinds}`);
}

/** Runs a statement. */
export function rows(database: Database, sql: string, values: unknown[]): Row[] {
  if (values.length > 0) {
    return database.prepare(sql).all(...values).map((row) => Object.values(row as object));
  }
  database.exec(sql);
  return [];
}

/** Runs a script in one go. */
export function play<T>(database: Database, script: Script<T>): T {
  return playSync(script, (sql, values) => rows(database, sql, values));
}

/** Does the work with all items or, if it fails, with none; in the caller's transaction as it is. */
export function atomic<T>(database: Database, items: T[], work: (item: T) => unknown): void {
  // A statement is a transaction by itself.
  if (items.length === 1 || inTransaction(database)) return items.forEach((item) => work(item));
  database.exec("BEGIN IMMEDIATE");
  try {
    items.forEach((item) => work(item));
    database.exec("COMMIT");
  } catch (error) {
    try {
      database.exec("ROLLBACK");
    } catch {
      // Some errors have rolled back already.
    }
    throw error;
  }
}

/** Whether the caller has a transaction open; in Node.js before 22.16 there is no telling. */
function inTransaction({ inTransaction, isTransaction }: Transactional): boolean {
  return inTransaction ?? isTransaction ?? false;
}

/** The table on a connection. */
export function dialect(table: string, database: Transactional = {}): Dialect {
  const name = quoted(table, '"');
  return {
    name,
    inspect: [
      `SELECT c.name, c.type, EXISTS (
        SELECT * FROM pragma_index_list(?) i WHERE NOT i.partial
          AND (SELECT name FROM pragma_index_info(i.name) WHERE seqno = 0) = c.name
          AND (c.name <> 'key'
            OR i."unique" AND (SELECT count(*) FROM pragma_index_info(i.name)) = 1))
      FROM pragma_table_info(?) c`,
      table,
      table,
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${name} (key text PRIMARY KEY NOT NULL, session text, expires integer)`,
        ];
      }
      const changes: string[] = [];
      if (!shape.unique) {
        changes.push(
          `DELETE FROM ${name} WHERE key IS NOT NULL
            AND rowid NOT IN (SELECT max(rowid) FROM ${name} GROUP BY key)`,
          `CREATE UNIQUE INDEX ${quoted(`${table}-key`, '"')} ON ${name} (key)`,
        );
      }
      if (!shape.columns.has("expires")) {
        changes.push(`ALTER TABLE ${name} ADD COLUMN expires integer`);
      }
      return changes;
    },
    index: `CREATE INDEX ${quoted(`${table}-expires`, '"')} ON ${name} (expires)`,
    *prune(now): Script<number> {
      const rows = yield [
        `DELETE FROM ${name} WHERE rowid IN (
          SELECT rowid FROM ${name} WHERE expires <= ? LIMIT 500
        ) RETURNING 1`,
        now,
      ];
      return rows.length;
    },
    *alone(script) {
      if (inTransaction(database)) return yield* script;
      yield "BEGIN IMMEDIATE";
      try {
        const result = yield* script;
        yield "COMMIT";
        return result;
      } catch (error) {
        try {
          yield "ROLLBACK";
        } catch {
          // Some errors have rolled back already.
        }
        throw error;
      }
    },
    column: (column) => column,
    select: (column) => column,
    matches: () => "key = ?",
    value: () => "?",
    overwrite: onConflict,
  };
}

/** Whether somebody else has the database locked, as better-sqlite3 or `node:sqlite` says it. */
export function transient(error: unknown): boolean {
  const { code, errcode = 0 } = error as { code?: unknown; errcode?: number };
  return /^SQLITE_(BUSY|LOCKED|PROTOCOL)/.test(String(code)) || [5, 6, 15].includes(errcode & 0xff);
}

/**
 * What SQLite has of its own: the table and its upgrade, its errors, and what is used of drivers.
 *
 * @module
 */

import { isError, reason } from "./errors.ts";
import { described } from "./options.ts";
import { type Dialect, isLeftOpen, leftOpen, onConflict, playSync, quoted } from "./sql.ts";
import type { Row, Script } from "./sql.ts";

// Not imported: that evaluates all that is in it, which takes 5 ms of a start.
// deno-lint-ignore no-process-global
const { versions, getBuiltinModule } = process;

/** What is used of a database of better-sqlite3, `node:sqlite` or `bun:sqlite`. */
export interface Database extends Transactional {
  prepare(sql: string): Statement;
  exec(sql: string): unknown;
  close(): unknown;
}

/** What tells whether a transaction is open. */
interface Transactional {
  /** Whether a transaction is open, in better-sqlite3 and `bun:sqlite`. */
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

/** Options of better-sqlite3's `Database`; the runtimes' own drivers take the first two. */
export interface SQLiteConfig {
  readonly?: boolean | undefined;
  timeout?: number | undefined;
  fileMustExist?: boolean | undefined;
  // deno-lint-ignore no-explicit-any
  verbose?: ((...message: any[]) => void) | null | undefined;
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
  const kinds = "a Database of better-sqlite3 or bun:sqlite, or a DatabaseSync of node:sqlite";
  throw new TypeError(`SQLite: option "database" must be ${kinds}, but is ${described(database)}`);
}

/** Makes databases, with options that differ. */
type Driver = new (filename: string, options?: object) => Database;

/**
 * Opens a file: with better-sqlite3 if that can be used, else with the runtime's own driver.
 *
 * @param load imports better-sqlite3.
 * @param report is told that better-sqlite3 is installed, but cannot be used.
 * @throws where there is no driver, or none that takes the `config`.
 */
export async function open(
  filename: string,
  config: SQLiteConfig,
  load: () => Promise<{ default: unknown }>,
  report: (error: unknown) => void,
): Promise<Database> {
  let driver: Driver;
  try {
    driver = (await load()).default as Driver;
    // Only 13 and newer have it; they end an older process without a word.
    if ("explain" in driver.prototype && Number.parseInt(versions.node) < 22) {
      throw new Error(
        "better-sqlite3 13 needs Node.js 22 or newer; on older versions install better-sqlite3@12",
      );
    }
    // Loads what is native in it, which may be missing or made for another Node.js.
    new driver(":memory:", { nativeBinding: config.nativeBinding }).close();
  } catch (trouble) {
    return openBuiltIn(filename, config, trouble, report);
  }
  return new driver(filename, { timeout, ...config });
}

/** How long a database of ours waits for another process, in ms: nothing else happens meanwhile. */
const timeout = 50;

function openBuiltIn(
  filename: string,
  config: SQLiteConfig,
  trouble: unknown,
  report: (error: unknown) => void,
): Database {
  const { code, message } = trouble as { code?: string; message?: string };
  const missing = /MODULE_NOT_FOUND/.test(code ?? "") && /["']better-sqlite3["']/.test(message!);
  const driver = builtIn();
  if (driver === undefined) {
    if (!missing) throw trouble;
    const others = "Node.js 22.13, Deno 2.2 or Bun, which have a built-in driver";
    throw new Error(`better-sqlite3 is not installed; install it, or use ${others}`);
  }
  const { readonly = false, timeout: wait = timeout, ...others } = config;
  const why = missing ? "is not installed" : `failed to load: ${reason(trouble)}`;
  const [unknown] = Object.keys(others).filter((name) => others[name as keyof typeof others]);
  if (unknown !== undefined) {
    const what = `SQLite: config.${unknown} is an option of better-sqlite3, which ${why}`;
    throw new TypeError(what, { cause: trouble });
  }
  if (!Number.isInteger(wait) || wait < 0) {
    throw new TypeError("SQLite: config.timeout must be a whole number of milliseconds");
  }
  const database = driver.open(filename, readonly);
  database.exec(`PRAGMA busy_timeout = ${wait}`);
  if (!missing) {
    report(
      new Error(`falling back to ${driver.name} because better-sqlite3 ${why}`, { cause: trouble }),
    );
  }
  return database;
}

/** The runtime's own driver. It is not imported, for no bundler and no other runtime knows it. */
function builtIn() {
  const load = (name: string) => getBuiltinModule(name) as unknown;
  const bun = load("bun:sqlite") as { Database: Driver } | undefined;
  if (bun !== undefined) {
    return {
      name: "bun:sqlite",
      open(filename: string, readonly: boolean): Database {
        const database = new bun.Database(filename, readonly ? { readonly } : undefined);
        const { query } = database as unknown as { query: Database["prepare"] };
        // What `query` prepares ends with the database, which would leave its log behind else.
        return Object.assign(database, { prepare: query });
      },
    };
  }
  const node = load("node:sqlite") as { DatabaseSync: Driver } | undefined;
  return node && {
    name: "node:sqlite",
    open: (filename: string, readOnly: boolean) => new node.DatabaseSync(filename, { readOnly }),
  };
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

/** Does all of the work, which has `statements` statements, or none of it. */
export function atomic<T>(database: Database, statements: number, work: () => T): T {
  const open = inTransaction(database);
  if (open) throw leftOpen();
  // A statement is a transaction by itself, unless one is open without the driver saying so.
  if (statements === 1 && open === false) return work();
  try {
    database.exec("BEGIN IMMEDIATE");
  } catch (error) {
    throw nested(error);
  }
  try {
    const result = work();
    database.exec("COMMIT");
    return result;
  } catch (error) {
    try {
      database.exec("ROLLBACK");
    } catch {
      // Some errors have rolled back already.
    }
    throw error;
  }
}

/**
 * What to throw when a transaction did not begin. Where the application has one open, the store waits:
 * what it wrote in that would be lost if the application rolled it back.
 */
function nested(error: unknown): unknown {
  return /within a transaction/.test((error as Error).message) ? leftOpen() : error;
}

/** Whether the application has a transaction open; before Node.js 22.16 `node:sqlite` does not say. */
function inTransaction({ inTransaction, isTransaction }: Transactional): boolean | undefined {
  return inTransaction ?? isTransaction;
}

/**
 * Switches a file that the store opened to a write-ahead log. Where SQLite cannot do that, on a
 * network share for example, the file keeps its journal, which is slower but safe.
 */
export function useLog(database: Database, report: (error: unknown) => void): void {
  let why: string;
  try {
    const [mode] = Object.values(database.prepare("PRAGMA journal_mode = WAL").get() as object);
    if (mode === "wal") return void database.exec("PRAGMA synchronous = NORMAL");
    if (mode === "memory") return;
    why = `the journal mode stays "${mode}"`;
  } catch (error) {
    if (transient(error)) throw error;
    why = reason(error);
  }
  report(
    new Error(`SQLite cannot use a write-ahead log for this file, so writes are slower: ${why}`),
  );
}

/** The table. */
export function dialect(table: string): Dialect {
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
      try {
        yield "BEGIN IMMEDIATE";
      } catch (error) {
        throw nested(error);
      }
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
    age: "rowid DESC", // of the rows of a key the first is read
    select: (column) => column,
    matches: () => "key = ?",
    value: () => "?",
    overwrite: onConflict,
  };
}

/** Whether somebody else has the database locked. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  // Deno's `exec` has but a message.
  const { code, errcode = 0, message } = error as Error & { code?: unknown; errcode?: number };
  return isLeftOpen(error) || /^SQLITE_(BUSY|LOCKED|PROTOCOL|SCHEMA)/.test(String(code)) ||
    [5, 6, 15, 17].includes(errcode & 0xff) || /^database (table |schema )?is locked/.test(message);
}

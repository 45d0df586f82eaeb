/**
 * The interfaces of SQLite's drivers, opening a file, and running statements.
 *
 * @module
 */

import type { Replacement } from "../backend.ts";
import { reason } from "../errors.ts";
import { transactionOpen } from "../sql/errors.ts";
import { executeScriptSync, type Row, type Script } from "../sql/script.ts";
import { described } from "../validation.ts";
import { transient } from "./errors.ts";

// Not imported because the import evaluates all exports of node:process: 5 ms of the start-up time.
// deno-lint-ignore no-process-global
const { versions, getBuiltinModule } = process;

/** The part of a database of better-sqlite3, `node:sqlite` or `bun:sqlite` that is used. */
export interface Database extends Transactional {
  prepare(sql: string): Statement;
  exec(sql: string): unknown;
  close(): unknown;
}

/** The properties that tell whether a transaction is open. */
interface Transactional {
  /** Whether a transaction is open, in better-sqlite3 and `bun:sqlite`. */
  readonly inTransaction?: boolean;
  /** Whether a transaction is open, in `node:sqlite`. */
  readonly isTransaction?: boolean;
}

/** The part of a prepared statement that is used. */
export interface Statement {
  get(...values: unknown[]): unknown;
  all(...values: unknown[]): unknown[];
  run(...values: unknown[]): unknown;
}

/** Options of better-sqlite3's `Database`. Built-in drivers take only the first two. */
export interface SQLiteConfig {
  readonly?: boolean | undefined;
  timeout?: number | undefined;
  fileMustExist?: boolean | undefined;
  // deno-lint-ignore no-explicit-any
  verbose?: ((...message: any[]) => void) | null | undefined;
  // deno-lint-ignore no-explicit-any
  nativeBinding?: any;
}

/** The properties by which a database is recognized. */
export interface SQLiteDatabase {
  prepare: (...args: never[]) => unknown;
  exec: (...args: never[]) => unknown;
}

/**
 * Checks a database by duck typing because a user may have another installed version of the driver.
 *
 * @throws {TypeError} if the database is not supported.
 */
export function checkDatabase(database: SQLiteDatabase): Database {
  const { prepare, exec, each } = database as SQLiteDatabase & { each?: unknown };
  // Asynchronous drivers have `each`.
  const fits = typeof prepare === "function" && typeof exec === "function" && each === undefined;
  if (fits) return database as unknown as Database;
  const kinds = "a Database of better-sqlite3 or bun:sqlite, or a DatabaseSync of node:sqlite";
  throw new TypeError(`SQLite: option "database" must be ${kinds}, but is ${described(database)}`);
}

/** The constructor of databases; its options differ between drivers. */
type Driver = new (filename: string, options?: object) => Database;

/**
 * Opens a file with better-sqlite3, or with the built-in driver if better-sqlite3 cannot be used.
 *
 * @param load imports better-sqlite3.
 * @param report gets the error if better-sqlite3 is installed but fails to load.
 * @throws {Error} if there is no driver, or if the driver does not take the `config`.
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
    // Only version 13 and newer have `explain`. They crash older versions of Node.js.
    if ("explain" in driver.prototype && Number.parseInt(versions.node) < 22) {
      throw new Error(
        "better-sqlite3 13 needs Node.js 22 or newer; on older versions install better-sqlite3@12",
      );
    }
    // Loads the native module, which may be missing or compiled for another version of Node.js.
    new driver(":memory:", { nativeBinding: config.nativeBinding }).close();
  } catch (loadError) {
    return openBuiltIn(filename, config, loadError, report);
  }
  return new driver(filename, { timeout, ...config });
}

/** How long SQLite waits for the lock of another process, in ms. Blocks the whole process. */
const timeout = 50;

function openBuiltIn(
  filename: string,
  config: SQLiteConfig,
  loadError: unknown,
  report: (error: unknown) => void,
): Database {
  const { code, message } = loadError as { code?: string; message?: string };
  const missing = /MODULE_NOT_FOUND/.test(code ?? "") && /["']better-sqlite3["']/.test(message!);
  const driver = builtIn();
  if (driver === undefined) {
    if (!missing) throw loadError;
    const others = "Node.js 22.13, Deno 2.2 or Bun, which have a built-in driver";
    throw new Error(`better-sqlite3 is not installed; install it, or use ${others}`);
  }
  const { readonly = false, timeout: wait = timeout, ...others } = config;
  const why = missing ? "is not installed" : `failed to load: ${reason(loadError)}`;
  const [unknown] = Object.keys(others).filter((name) => others[name as keyof typeof others]);
  if (unknown !== undefined) {
    const what = `SQLite: config.${unknown} is an option of better-sqlite3, which ${why}`;
    throw new TypeError(what, { cause: loadError });
  }
  if (!Number.isInteger(wait) || wait < 0) {
    throw new TypeError("SQLite: config.timeout must be a whole number of milliseconds");
  }
  const database = driver.open(filename, readonly);
  database.exec(`PRAGMA busy_timeout = ${wait}`);
  if (!missing) {
    report(
      new Error(`falling back to ${driver.name} because better-sqlite3 ${why}`, {
        cause: loadError,
      }),
    );
  }
  return database;
}

/** The built-in driver. Not imported because bundlers and other runtimes do not know the module. */
function builtIn() {
  const load = (name: string) => getBuiltinModule(name) as unknown;
  const bun = load("bun:sqlite") as { Database: Driver } | undefined;
  if (bun !== undefined) {
    return {
      name: "bun:sqlite",
      open(filename: string, readonly: boolean): Database {
        const database = new bun.Database(filename, readonly ? { readonly } : undefined);
        const { query } = database as unknown as { query: Database["prepare"] };
        // Statements from `query` are finalized on close. With `prepare` the log file would stay.
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
export function rows(
  database: Database,
  sql: string,
  values: unknown[],
  prepared?: Map<string, Statement>,
): Row[] {
  if (values.length > 0) {
    const statement = prepared?.get(sql) ?? database.prepare(sql);
    prepared?.set(sql, statement);
    return statement.all(...values).map((row) => Object.values(row as object));
  }
  database.exec(sql);
  return [];
}

/**
 * Runs a script synchronously.
 *
 * @param prepared keeps prepared statements, by their text.
 */
export function runScript<T>(
  database: Database,
  script: Script<T>,
  prepared?: Map<string, Statement>,
): T {
  return executeScriptSync(script, (sql, values) => rows(database, sql, values, prepared));
}

/** Does the work, which has `statements` statements, in one transaction. */
export function atomic<T>(database: Database, statements: number, work: () => T): T {
  const open = inTransaction(database);
  if (open) throw transactionOpen();
  // A single statement is a transaction by itself, if the driver knows that none is open.
  if (statements === 1 && open === false) return work();
  try {
    database.exec("BEGIN IMMEDIATE");
  } catch (error) {
    throw beginError(error);
  }
  try {
    const result = work();
    database.exec("COMMIT");
    return result;
  } catch (error) {
    try {
      database.exec("ROLLBACK");
    } catch {
      // Some errors have already rolled back.
    }
    throw error;
  }
}

/** Runs a statement whose values are the new session, the key, and the session that was read. */
export function replaceAll(
  database: Database,
  sql: string,
  replacements: Replacement<string>[],
): void {
  const statement = database.prepare(sql);
  atomic(database, replacements.length, () => {
    for (const { key, before, after } of replacements) statement.run(after, key, before);
  });
}

/**
 * The error to throw after BEGIN failed. If the application has a transaction open, the store must wait,
 * because a rollback by the application would undo the store's writes.
 */
export function beginError(error: unknown): unknown {
  return /within a transaction/.test((error as Error).message) ? transactionOpen() : error;
}

/** Whether a transaction is open; `undefined` for `node:sqlite` before Node.js 22.16. */
function inTransaction({ inTransaction, isTransaction }: Transactional): boolean | undefined {
  return inTransaction ?? isTransaction;
}

/**
 * Switches a file that the store opened to a write-ahead log. If SQLite cannot do this, for example on a
 * network share, the file keeps its journal, which is slower but safe.
 */
export function enableWriteAheadLog(database: Database, report: (error: unknown) => void): void {
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

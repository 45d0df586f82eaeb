/**
 * Sessions in a SQLite file, with better-sqlite3 9 to 13, or the driver that the runtime brings:
 * `node:sqlite` or `bun:sqlite`.
 *
 * ```ts
 * import { SQLite } from "@telegraf/session/sqlite";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = SQLite({ filename: "./telegraf-sessions.sqlite" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import { type Backend, defaultLimits } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { missing } from "./src/errors.ts";
import { defaults, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { prepareTable } from "./src/sql/schema.ts";
import { plainValues, sqlLeases } from "./src/sql/leases.ts";
import type { Script } from "./src/sql/script.ts";
import { type Statements, toEntries } from "./src/sql/statements.ts";
import { dialect } from "./src/sqlite/dialect.ts";
import * as driver from "./src/sqlite/driver.ts";
import { transient } from "./src/sqlite/errors.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** Options of {@link SQLite}: `filename`, or `database`. */
export interface SQLiteOptions extends StoreOptions {
  /**
   * The file. It is created if it is missing; its folder must exist. The driver is better-sqlite3 if
   * it is installed, otherwise the driver of the runtime. If better-sqlite3 is installed but fails to
   * load, `onError` gets the reason. Do not open the same file in the same process with another
   * driver, because SQLite's locks fail then. Pass in a `database` instead.
   */
  filename?: string | undefined;
  /**
   * Options of better-sqlite3's `Database`. Other drivers take only `readonly` and `timeout`.
   * `timeout` is how long SQLite waits while another process has the file locked, in ms. The whole
   * process is blocked during that time. After it the store backs off and tries again.
   *
   * @default {{ timeout: 50 }}
   */
  config?: Config | undefined;
  /**
   * A database of better-sqlite3, `node:sqlite` or `bun:sqlite`. Its journal mode and the durability
   * of its writes are not changed. It stays open when the store is closed.
   */
  database?: DatabaseLike | undefined;
  /**
   * The table. It is created if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
}

/** @ignore */
type DatabaseLike = driver.SQLiteDatabase;
/** @ignore */
type Config = driver.SQLiteConfig;

/**
 * Makes a store in a SQLite database. The first operation opens the file with a write-ahead log, and
 * creates the table if it is missing. A table of `@telegraf/session` 2.0.0-beta is upgraded. Writes
 * survive a crash of the process; the last ones may be lost in a power failure.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if both `filename` and
 * `database` are missing.
 * @throws {RangeError} if an option is out of range.
 */
export const SQLite: StoreFactory<SQLiteOptions> = storeFactory({
  name: "SQLite",
  rules: {
    ...storeRules,
    filename: rules.text,
    config: rules.config(misplaced.sqlite),
    database: rules.existing("a database of a driver", "prepare"),
    table: {
      ...rules.text,
      expected: "a name without NUL",
      accepts: (name: string) => name !== "" && !name.includes("\0"),
    },
  },
  existing: { database: ["filename", "config"] },
  backend,
});

function backend(options: SQLiteOptions): Backend {
  const { filename, config, table = defaults.table } = options;
  const existing = options.database === undefined
    ? undefined
    : driver.checkDatabase(options.database);
  if (existing === undefined && filename === undefined) {
    throw new TypeError('SQLite: option "filename" or "database" is needed');
  }
  let database: driver.Database, statements: Statements;
  const prepared = new Map<string, driver.Statement>();
  let select: driver.Statement, insert: driver.Statement, remove: driver.Statement;
  const runLease = <T>(script: Script<T>) => driver.runScript(database, script, prepared);
  return {
    system: "sqlite",
    handle: existing ?? {},
    scope: table,
    place: table,
    codec: json,
    embedded: true,
    async open({ report, plan, ...needs }) {
      database ??= existing ?? await driver.open(filename!, config ?? {}, load, report);
      if (existing === undefined && !config?.readonly && plan === undefined) {
        driver.enableWriteAheadLog(database, report);
      }
      const schema = { transient, report, plan, ...needs };
      statements = driver.runScript(database, prepareTable(dialect(table), schema));
      select = database.prepare(statements.read(1));
      // An old table that cannot be upgraded may lack the unique key that this statement needs.
      if (statements.shape.unique) insert = database.prepare(statements.write(1));
      remove = database.prepare(statements.remove(1));
      prepared.clear();
      return defaultLimits;
    },
    read: (keys) =>
      keys.flatMap((key) => {
        const row = select.get(key) as object | null | undefined;
        // An array with `returnArrays`.
        return row == null ? [] : toEntries([key], [Object.values(row)]);
      }),
    write(entries) {
      driver.atomic(database, entries.length, () => {
        for (const entry of entries) insert.run(...statements.values(entry));
      });
    },
    replace: (replacements) => driver.replaceAll(database, statements.replace, replacements),
    renew(keys, expires) {
      if (!statements.expiring) return;
      const renew = database.prepare(statements.renew(1));
      driver.atomic(database, keys.length, () => keys.forEach((key) => renew.run(expires, key)));
    },
    remove: (keys) =>
      driver.atomic(database, keys.length, () => keys.forEach((key) => remove.run(key))),
    page(start, size, _signal, prefix) {
      const { text, key, page } = statements.page(start, size, prefix);
      return page(driver.rows(database, text, [key]));
    },
    prune: (now) =>
      driver.atomic(database, 1, () => driver.runScript(database, statements.prune(now))),
    leases: sqlLeases(
      () => statements,
      () => plainValues,
      // Several statements on one key need no transaction: each changes the row only for its holder.
      (script, _signal, keys) => driver.atomic(database, keys, () => runLease(script)),
      runLease,
    ),
    close() {
      if (existing === undefined) database?.close();
    },
    transient,
  };
}

/** Not imported at the top because the runtime may have its own driver. */
async function load(): Promise<{ default: unknown }> {
  try { // bundlers accept a missing module if its import is in such a block
    return await import("better-sqlite3");
  } catch (error) {
    throw missing(error, "better-sqlite3", "or use a runtime with a built-in driver");
  }
}

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

import type { Backend } from "./src/backend.ts";
import { json } from "./src/codec.ts";
import { missing } from "./src/errors.ts";
import { misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { defaultTable, entry, page, prepareTable, type Statements } from "./src/sql.ts";
import * as sqlite from "./src/sqlite.ts";
import { type StoreFactory, storeFactory } from "./src/store.ts";

/** Options of {@link SQLite}: `filename`, or `database`. */
export interface SQLiteOptions extends StoreOptions {
  /**
   * The file, made if it is missing; its folder must exist. better-sqlite3 opens it where it is
   * installed, else the runtime's own driver; if it is installed but does not load, `onError` is
   * told. A file that the process itself opens as well, with another driver, is at risk: SQLite's
   * locks fail then. Pass a `database` instead.
   */
  filename?: string | undefined;
  /**
   * Options of better-sqlite3's `Database`; other drivers take `readonly` and `timeout` alone.
   * `timeout` is how long the whole process stands still, in ms, while another one has the file
   * locked; the store tries again after that.
   *
   * @default {{ timeout: 50 }}
   */
  config?: Config | undefined;
  /**
   * A database of better-sqlite3, `node:sqlite` or `bun:sqlite`, used as it is: its journal and the
   * durability of its writes are not changed. It stays open when the store is closed.
   */
  database?: DatabaseLike | undefined;
  /**
   * The table, made if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
}

/** @ignore */
type DatabaseLike = sqlite.SQLiteDatabase;
/** @ignore */
type Config = sqlite.SQLiteConfig;

/**
 * Makes a store in a SQLite database. The first operation opens the file, with a write-ahead log,
 * and makes the table, if need be; a table of `@telegraf/session` 2.0.0-beta is upgraded. A write
 * survives a crash of the process, and the last ones may be lost when the machine loses power.
 *
 * @throws {TypeError} for an unknown option, one of the wrong type, or none of `filename` and
 * `database`.
 * @throws {RangeError} for an option out of range.
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
  const { filename, config, table = defaultTable } = options;
  const existing = options.database === undefined ? undefined : sqlite.checked(options.database);
  if (existing === undefined && filename === undefined) {
    throw new TypeError('SQLite: option "filename" or "database" is needed');
  }
  let database: sqlite.Database;
  let statements: Statements;
  let select: sqlite.Statement, insert: sqlite.Statement, remove: sqlite.Statement;
  return {
    handle: existing ?? {},
    scope: table,
    codec: json,
    embedded: true,
    limits: { keys: 128, bytes: 1_000_000 },
    async open({ report, expiring, plan }) {
      database ??= existing ?? await sqlite.open(filename!, config ?? {}, driver, report);
      if (existing === undefined && !config?.readonly && plan === undefined) {
        sqlite.useLog(database, report);
      }
      const tools = { transient: sqlite.transient, report, expiring, plan };
      statements = sqlite.play(database, prepareTable(sqlite.dialect(table), tools));
      select = database.prepare(statements.read(1));
      // Needs the unique key that an old table may lack.
      if (statements.shape.unique) insert = database.prepare(statements.write(1));
      remove = database.prepare(statements.remove(1));
    },
    read: (keys) =>
      keys.flatMap((key) => {
        const row = select.get(key) as object | null | undefined;
        return row == null ? [] : entry([key, ...Object.values(row)]); // or an array
      }),
    write(entries) {
      sqlite.atomic(database, entries.length, () => {
        for (const entry of entries) insert.run(...statements.values(entry));
      });
    },
    renew(keys, expires) {
      if (!statements.expiring) return;
      const renew = database.prepare(statements.renew(1));
      sqlite.atomic(database, keys.length, () => keys.forEach((key) => renew.run(expires, key)));
    },
    remove: (keys) =>
      sqlite.atomic(database, keys.length, () => keys.forEach((key) => remove.run(key))),
    page: (start = "", size) => page(sqlite.rows(database, statements.page(size), [start]), size),
    prune: (now) => sqlite.atomic(database, 1, () => sqlite.play(database, statements.prune(now))),
    close() {
      if (existing === undefined) database?.close();
    },
    transient: sqlite.transient,
  };
}

/** Not imported at the top because it is not needed with the runtime's own driver. */
async function driver(): Promise<{ default: unknown }> {
  try { // for bundlers as well: they leave what is missing in such a block to run time
    return await import("better-sqlite3");
  } catch (error) {
    throw missing(error, "better-sqlite3", "or use a runtime that brings a driver");
  }
}

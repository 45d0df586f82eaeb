/**
 * Sessions in PostgreSQL 11 or newer, with node-postgres (`pg`) 8.
 *
 * ```ts
 * import { Postgres } from "@telegraf/session/pg";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = Postgres({ url: "postgres://user:password@127.0.0.1:5432/bot" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import pg from "pg";
import { addressOptions, addressRules } from "./src/address.ts";
import { type Backend, defaultLimits } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { refusedOptions } from "./src/errors.ts";
import { defaults, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { dialect, explainingVersion, keyValues, locate } from "./src/pg/dialect.ts";
import { checkPool, type PgPool, type Pool, poolAdapter, rows } from "./src/pg/driver.ts";
import { transient } from "./src/pg/errors.ts";
import { poolOptions } from "./src/pg/options.ts";
import { reportErrors, withConnection } from "./src/sql/pool.ts";
import { paddedValues, plainValues, sqlLeases } from "./src/sql/leases.ts";
import { prepareTable } from "./src/sql/schema.ts";
import { executeScript, type Script } from "./src/sql/script.ts";
import * as sql from "./src/sql/statements.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** Options of {@link Postgres}: `url`, or `host` and so on, or `pool`. */
export interface PostgresOptions extends StoreOptions {
  /** The database: `postgres://[user[:password]@][host][:port][/database][?parameters]`. */
  url?: string | undefined;
  /** The server, or the folder of its socket. `pg` has defaults for this and the next four (`PGHOST` …). */
  host?: string | undefined;
  /** The server's port, from 1 to 65535, as a number or text. */
  port?: number | string | undefined;
  /** The database. */
  database?: string | undefined;
  /** The role. */
  user?: string | undefined;
  /** The role's password, or a function that returns it for each new connection. */
  password?: string | (() => string | Promise<string>) | undefined;
  /** Options of `pg`'s `Pool`. They override the other options and `url`. */
  config?: object | undefined;
  /** A pool of any installed version of `pg`. It stays open when the store is closed. */
  pool?: PoolLike | undefined;
  /**
   * The table, of up to 63 bytes. It is created if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
  /**
   * The schema of the table, which must exist. Without it the schema comes from the search path at
   * the time when the store is opened. A `table` of the form `schema.table` is then that table, if it
   * exists and no table has the whole name.
   */
  schema?: string | undefined;
  /**
   * Whether to prepare statements. PgBouncer before 1.21 needs `false` in transaction mode.
   *
   * @default {true}
   */
  prepare?: boolean | undefined;
}

/** @ignore */
type PoolLike = PgPool;

/**
 * Makes a store in PostgreSQL, on a pool. The first operation connects and creates the table if it is
 * missing. A table of `@telegraf/session` 2.0.0-beta is upgraded.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if `url` is invalid.
 * @throws {RangeError} if an option is out of range.
 */
export const Postgres: StoreFactory<PostgresOptions | void> = storeFactory({
  name: "Postgres",
  rules: {
    ...storeRules,
    ...addressRules,
    password: { ...rules.secret, type: ["string", "function"], expected: "a string or function" },
    config: rules.config(misplaced.pg),
    pool: rules.existing("a Pool of pg", "totalCount"),
    table: rules.identifier(63),
    schema: rules.identifier(63),
    prepare: rules.flag,
  },
  existing: { pool: ["url", ...addressOptions, "config"], url: addressOptions },
  backend,
});

function backend(options: PostgresOptions): Backend {
  const { pool: existing, prepare: prepared = true } = options;
  const pool = existing === undefined ? create(options) : checkPool(existing);
  const clients = poolAdapter(pool);
  const { table = defaults.table, schema } = options;
  let place: string | undefined, statements: sql.Statements;
  let stopReporting: (() => void) | undefined;
  const run = (signal: AbortSignal, text: string, values: unknown[]) =>
    withConnection(clients, signal, (client) => rows(client, text, values, prepared));
  const runScript = <T>(signal: AbortSignal, script: Script<T>, prepared = false) =>
    withConnection(
      clients,
      signal,
      (client) => executeScript(script, (text, values) => rows(client, text, values, prepared)),
    );
  return {
    system: "postgresql",
    handle: pool,
    scope: [schema ?? "", table].join("\0"),
    place: table,
    shared: { prepare: prepared },
    codec: json,
    async open({ signal, ...opening }) {
      stopReporting = reportErrors(pool, opening.report);
      // Only the first time because the application may have changed the search path since then.
      place ??= await runScript(signal, explainingVersion(locate(table, schema)));
      const script = prepareTable(dialect(place), { transient, ...opening });
      statements = await runScript(signal, explainingVersion(script));
      return defaultLimits;
    },
    async read(keys, signal) {
      return sql.toEntries(keys, await run(signal, statements.read(keys.length), keyValues(keys)));
    },
    async write(entries, signal) {
      const rows = sql.sortByKey(entries).map(statements.values);
      const all = prepared ? sql.padToPowerOfTwo(rows, rows[0]!.map(() => null)) : rows;
      await run(signal, statements.write(all.length), all.flat());
    },
    replace: (all, signal) => runScript(signal, sql.replaceAll(statements, all), prepared),
    async renew(keys, expires, signal) {
      if (!statements.expiring) return;
      await run(signal, statements.renew(keys.length), [expires, ...keyValues(keys)]);
    },
    async remove(keys, signal) {
      await run(signal, statements.remove(keys.length), keyValues(keys));
    },
    async page(start, size, signal, prefix) {
      const { text, key, page } = statements.page(start, size, prefix);
      return page(await run(signal, text, [key]));
    },
    prune: (now, signal) => runScript(signal, statements.prune(now)),
    leases: sqlLeases(
      () => statements,
      () => prepared ? paddedValues : plainValues,
      (script, signal) => runScript(signal, script, prepared),
    ),
    close: () => existing === undefined ? pool.end() : stopReporting?.(),
    transient,
  };
}

/** The store's own pool. Connects to nothing yet. */
function create(options: PostgresOptions): Pool {
  try {
    return new pg.Pool(poolOptions(pg.Client, options));
  } catch (error) {
    throw refusedOptions("Postgres", "pg", error);
  }
}

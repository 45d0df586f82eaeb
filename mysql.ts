/**
 * Sessions in MySQL or MariaDB, with mysql2 3.
 *
 * ```ts
 * import { MySQL } from "@telegraf/session/mysql";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = MySQL({ url: "mysql://user:password@127.0.0.1:3306/bot" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import { createPool } from "mysql2";
import { addressOptions, addressRules } from "./src/address.ts";
import type { Backend } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { refusedOptions } from "./src/errors.ts";
import { locate, prepare, type TableName } from "./src/mysql/dialect.ts";
import * as mysql from "./src/mysql/driver.ts";
import { type Encoder, encoder } from "./src/mysql/encoder.ts";
import { transient } from "./src/mysql/errors.ts";
import { poolOptions } from "./src/mysql/options.ts";
import { defaults, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { reportErrors, withConnection } from "./src/sql/pool.ts";
import { sqlLeases } from "./src/sql/leases.ts";
import { executeScript, type Script } from "./src/sql/script.ts";
import { type Statements, toEntries } from "./src/sql/statements.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** Options of {@link MySQL}: `url`, or `host` and so on, or `pool`. */
export interface MySQLOptions extends StoreOptions {
  /** The database: `mysql://[user[:password]@]host[:port]/database[?parameters]`. */
  url?: string | undefined;
  /** The server; `localhost` by default. */
  host?: string | undefined;
  /** The server's port, from 1 to 65535, as a number or text; 3306 by default. */
  port?: number | string | undefined;
  /** The database. */
  database?: string | undefined;
  /** The user. */
  user?: string | undefined;
  /** The user's password. */
  password?: string | undefined;
  /** Options of mysql2's `createPool`. They override the other options and `url`. */
  config?: object | undefined;
  /**
   * A pool of any installed version of mysql2 or mysql2/promise. It stays open when the store is closed.
   */
  pool?: PoolLike | undefined;
  /**
   * The table, of up to 64 characters. It is created if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
  /**
   * The database of the table, which must exist. Without it the connection's database at the time when
   * the store is opened is used. A `table` of the form `database.table` is then that table, if it exists
   * and no table has the whole name.
   */
  schema?: string | undefined;
}

/** @ignore */
type PoolLike = mysql.MySQLPool;

/**
 * Makes a store in MySQL or MariaDB, on a pool. The first operation connects and creates the table if it
 * is missing. A table of `@telegraf/session` 2.0.0-beta is upgraded. A session that is larger than the
 * server's `max_allowed_packet` is refused with a `TooLargeError`.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if `url` is invalid.
 * @throws {RangeError} if an option is out of range.
 */
export const MySQL: StoreFactory<MySQLOptions | void> = storeFactory({
  name: "MySQL",
  rules: {
    ...storeRules,
    ...addressRules,
    config: rules.config(misplaced.mysql),
    pool: rules.existing("a Pool of mysql2", "getConnection"),
    table: rules.identifier(64, "characters"),
    schema: rules.identifier(64, "characters"),
  },
  existing: { pool: ["url", ...addressOptions, "config"], url: addressOptions },
  backend,
});

function backend(options: MySQLOptions): Backend {
  const { table = defaults.table, schema } = options;
  const pool = options.pool === undefined ? create(options) : mysql.checkPool(options.pool);
  const connections = mysql.poolAdapter(pool);
  let place: TableName | undefined;
  let statements: Statements;
  let encode: Encoder;
  let stopReporting: (() => void) | undefined;
  const run = (signal: AbortSignal, text: string, values: unknown[], work = mysql.rows) =>
    withConnection(connections, signal, (connection) => work(connection, text, values));
  const runScript = <T>(signal: AbortSignal, script: Script<T>, work = mysql.rows) =>
    withConnection(connections, signal, (it) => executeScript(script, work.bind(null, it)));
  return {
    system: "mysql",
    handle: pool,
    scope: [schema ?? "", table].join("\0"),
    place: table,
    codec: json,
    async open({ signal, ...opening }) {
      stopReporting = reportErrors(pool, opening.report);
      // Only the first time because the application may have changed the database since then.
      place ??= await runScript(signal, locate(table, schema));
      const prepared = await runScript(signal, prepare(place, opening));
      statements = prepared.statements;
      encode = encoder(statements, prepared.settings);
      return encode.limits;
    },
    async read(keys, signal) {
      const values = encode.keys(keys);
      return toEntries(keys, await run(signal, statements.read(values.length), values, mysql.read));
    },
    async write(entries, signal) {
      const rows = encode.rows(entries);
      await run(signal, statements.write(rows.length), rows.flat());
    },
    async replace(replacements, signal) {
      for (const replacement of replacements) {
        await run(signal, statements.replace, await encode.replacement(replacement));
      }
    },
    async renew(keys, expires, signal) {
      if (!statements.expiring) return;
      const values = encode.keys(keys);
      await run(signal, statements.renew(values.length), [expires, ...values]);
    },
    async remove(keys, signal) {
      const values = encode.keys(keys);
      await run(signal, statements.remove(values.length), values);
    },
    async page(start, size, signal, prefix) {
      const { text, key, page } = statements.page(start, size, prefix);
      return page(await run(signal, text, encode.keys([key]), mysql.read));
    },
    prune: (now, signal) => runScript(signal, statements.prune(now)),
    leases: sqlLeases(
      () => statements,
      () => encode.leases,
      (script, signal) => runScript(signal, script, mysql.runLease),
    ),
    close: () => options.pool === undefined ? mysql.endPool(pool) : stopReporting?.(),
    transient,
  };
}

/** The store's own pool. Connects to nothing yet. */
function create(options: MySQLOptions): mysql.Pool {
  try {
    return createPool(poolOptions(options)) as unknown as mysql.Pool;
  } catch (error) {
    throw refusedOptions("MySQL", "mysql2", error);
  }
}

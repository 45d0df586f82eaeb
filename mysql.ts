/**
 * Sessions in MySQL 5.7 or newer or MariaDB, with mysql2 3.
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
import type { Backend } from "./src/backend.ts";
import { json } from "./src/codec.ts";
import { checked, type Encoder, encoder, end, lender, type MySQLPool } from "./src/mysql.ts";
import { type Pool, prepareTable, read, rows, transient } from "./src/mysql.ts";
import { addressOptions, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { mysqlSettings, refused } from "./src/settings.ts";
import * as sql from "./src/sql.ts";
import { type StoreFactory, storeFactory } from "./src/store.ts";

/** Options of {@link MySQL}: `url`, or `host` and so on, or `pool`. */
export interface MySQLOptions extends StoreOptions {
  /** The database: `mysql://[user[:password]@]host[:port]/database[?parameters]`. */
  url?: string | undefined;
  /** The server; `localhost` by default. */
  host?: string | undefined;
  /** The server's port, from 1 to 65535; text of digits is converted; 3306 by default. */
  port?: number | string | undefined;
  /** The database. */
  database?: string | undefined;
  /** The user. */
  user?: string | undefined;
  /** The user's password. */
  password?: string | undefined;
  /** Options of mysql2's `createPool`; they override the others and what is in `url`. */
  config?: object | undefined;
  /** A pool of mysql2 or mysql2/promise, of any copy. It stays open when the store is closed. */
  pool?: PoolLike | undefined;
  /**
   * The table, made if it is missing; up to 64 characters.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
  /**
   * The database of the table, which must exist. Without it the connection's database counts when the
   * store is opened; a `table` of the form `database.table` is that table if it exists and no table
   * has the whole name.
   */
  schema?: string | undefined;
}

/** @ignore */
type PoolLike = MySQLPool;

/**
 * Makes a store in MySQL or MariaDB, on a pool. The first operation opens it and makes the table, if
 * need be; a table of `@telegraf/session` 2.0.0-beta is upgraded. A session that is larger than the
 * server's `max_allowed_packet` is refused with a `TooLargeError`.
 *
 * @throws {TypeError} for an unknown option, one of the wrong type, or a `url` that is none.
 * @throws {RangeError} for an option out of range.
 */
export const MySQL: StoreFactory<MySQLOptions | void> = storeFactory({
  name: "MySQL",
  rules: {
    ...storeRules,
    url: rules.secret,
    host: rules.text,
    port: rules.port,
    database: rules.text,
    user: rules.text,
    password: rules.secret,
    config: rules.config(misplaced.mysql),
    pool: rules.existing("a Pool of mysql2", "getConnection"),
    table: rules.identifier(64, "characters"),
    schema: rules.identifier(64, "characters"),
  },
  existing: { pool: ["url", ...addressOptions, "config"], url: addressOptions },
  backend,
});

function backend(options: MySQLOptions): Backend {
  const { table = sql.defaultTable, schema } = options;
  const pool = options.pool === undefined ? create(options) : checked(options.pool);
  const connections = lender(pool);
  const limits = { keys: 128, bytes: 1_000_000 };
  let statements: sql.Statements;
  let encode: Encoder;
  let unwatch: (() => void) | undefined;
  const run = (signal: AbortSignal, text: string, values: unknown[], work = rows) =>
    sql.hold(connections, signal, (connection) => work(connection, text, values));
  return {
    handle: pool,
    scope: [schema ?? "", table].join("\0"),
    codec: json,
    limits,
    open: ({ signal, ...opening }) =>
      sql.hold(connections, signal, async (connection) => {
        unwatch = sql.watch(pool, opening.report);
        const steps = prepareTable(table, schema, opening);
        const prepared = await sql.play(steps, rows.bind(null, connection));
        statements = prepared.statements;
        encode = encoder(statements, prepared.setting);
        Object.assign(limits, encode.limits);
      }),
    async read(keys, signal) {
      const some = encode.keys(keys);
      return sql.entries(keys, await run(signal, statements.read(some.length), some, read));
    },
    async write(entries, signal) {
      const rows = encode.rows(entries);
      await run(signal, statements.write(rows.length), rows.flat());
    },
    async renew(keys, expires, signal) {
      if (!statements.expiring) return;
      const some = encode.keys(keys);
      await run(signal, statements.renew(some.length), [expires, ...some]);
    },
    async remove(keys, signal) {
      const some = encode.keys(keys);
      await run(signal, statements.remove(some.length), some);
    },
    async page(start = "", size, signal) {
      const [key] = encode.keys([start]);
      return sql.page(await run(signal, statements.page(size), [key], read), size);
    },
    prune: (now, signal) =>
      sql.hold(connections, signal, (it) => sql.play(statements.prune(now), rows.bind(null, it))),
    close: () => options.pool === undefined ? end(pool) : unwatch?.(),
    transient,
  };
}

/** A pool of ours; nothing is opened yet. */
function create(options: MySQLOptions): Pool {
  try {
    return createPool(mysqlSettings(options)) as unknown as Pool;
  } catch (error) {
    throw refused(error, "MySQL", "mysql2");
  }
}

/**
 * Sessions in any database of the PostgreSQL, MySQL or SQLite families that has a dialect for
 * Kysely 0.27 to 0.29: Turso, D1, PlanetScale, Neon, PGlite …
 *
 * ```ts
 * import { KyselyStore } from "@telegraf/session/kysely";
 * import { LibsqlDialect } from "@libsql/kysely-libsql";
 * import { session, Telegraf } from "telegraf";
 *
 * const dialect = new LibsqlDialect({ url: process.env.TURSO_URL!, authToken: process.env.TURSO_TOKEN });
 * const store = KyselyStore({ dialect });
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
import * as kysely from "./src/kysely.ts";
import { rules, type StoreOptions, storeRules } from "./src/options.ts";
import * as sql from "./src/sql.ts";
import { type StoreFactory, storeFactory } from "./src/store.ts";

/** Options of {@link KyselyStore}: `db`, or `dialect`. */
export interface KyselyStoreOptions extends StoreOptions {
  /**
   * A Kysely, of any copy, and no transaction. Its plugins are not used; `withSchema` neither. It
   * stays open when the store is closed.
   */
  db?: DatabaseLike | undefined;
  /** A dialect, of which the store makes a Kysely of its own; closing the store destroys that. */
  dialect?: DialectLike | undefined;
  /**
   * The table, made if it is missing; up to 63 bytes.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
  /**
   * The schema of the table (in MySQL: its database), which must exist; not in SQLite. Without it
   * the connection's search path or database counts when the store is opened.
   */
  schema?: string | undefined;
}

/** @ignore */
type DatabaseLike = kysely.KyselyDatabase;
/** @ignore */
type DialectLike = kysely.KyselyDialect;

/**
 * Makes a store in a database that Kysely speaks to. The table is that of `Postgres`, `MySQL` or
 * `SQLite`, which can use it as well. The first operation makes it, if need be; a table of
 * `@telegraf/session` 2.0.0-beta is upgraded.
 *
 * Connections are Kysely's: one that hangs is not given up when an operation has timed out.
 *
 * @throws {TypeError} for an unknown option, one of the wrong type, none of `db` and `dialect`, or a
 * `db` of a database that is not like PostgreSQL, MySQL or SQLite; with such a `dialect` operations
 * reject.
 * @throws {RangeError} for an option out of range.
 */
export const KyselyStore: StoreFactory<KyselyStoreOptions> = storeFactory({
  name: "KyselyStore",
  rules: {
    ...storeRules,
    db: rules.existing("a Kysely", "executeQuery"),
    dialect: rules.existing("a dialect of Kysely", "createDriver"),
    table: rules.identifier(63),
    schema: rules.identifier(63),
  },
  existing: { db: ["dialect"] },
  backend,
});

function backend(options: KyselyStoreOptions): Backend {
  const { dialect, table: name = sql.defaultTable, schema } = options;
  let db = options.db && kysely.checked(options.db, schema);
  if (!db && !dialect) throw new TypeError('KyselyStore: option "db" or "dialect" is needed');
  const limits = { keys: 32, bytes: 1_000_000 };
  let table: kysely.Table;
  return {
    handle: options.db ?? {},
    scope: [schema ?? "", name].join("\0"),
    codec: json,
    limits,
    async open({ report, expiring, plan }) {
      if (db === undefined) {
        const { Kysely } = await driver();
        db ??= new Kysely({ dialect: dialect as never }) as unknown as kysely.Database;
      }
      const family = kysely.familyOf(db, schema);
      table = await kysely.play(
        db,
        kysely.prepare(family, name, schema, { report, expiring, plan }),
      );
      Object.assign(limits, table.limits);
    },
    async read(keys) {
      const some = table.keys(keys);
      return sql.entries(keys, await table.read(db!, table.statements.read(some.length), some));
    },
    async write(entries) {
      const rows = table.rows(entries);
      await table.write(db!, table.statements.write(rows.length), rows.flat());
    },
    async renew(keys, expires) {
      if (!table.statements.expiring) return;
      const some = table.keys(keys);
      await table.write(db!, table.statements.renew(some.length), [expires, ...some]);
    },
    async remove(keys) {
      const some = table.keys(keys);
      await table.write(db!, table.statements.remove(some.length), some);
    },
    async page(start = "", size) {
      const { page } = table.statements;
      return sql.page(await table.read(db!, page(size), table.keys([start])), size);
    },
    prune: (now) => kysely.play(db!, table.statements.prune(now)),
    close: () => options.db === undefined ? db?.destroy() : undefined,
    transient: kysely.transient,
  };
}

/** Loads Kysely, which is an ES module only since 0.29. */
async function driver(): Promise<typeof import("kysely")> {
  try { // for bundlers as well: they leave what is missing in such a block to run time
    return await import("kysely");
  } catch (error) {
    throw missing(error, "kysely", "or pass a Kysely as { db }");
  }
}

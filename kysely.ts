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
import { json } from "./src/codec/json.ts";
import { missing } from "./src/errors.ts";
import { locate, type Prepare, type Table } from "./src/kysely/dialect.ts";
import * as kysely from "./src/kysely/driver.ts";
import { transient } from "./src/kysely/errors.ts";
import { defaults, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { Failovers } from "./src/sql/failover.ts";
import { sqlLeases } from "./src/sql/leases.ts";
import type { Script } from "./src/sql/script.ts";
import { toEntries } from "./src/sql/statements.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** Options of {@link KyselyStore}: `db`, or `dialect`. */
export interface KyselyStoreOptions extends StoreOptions {
  /**
   * A Kysely of any installed version, not a transaction. Its plugins and `withSchema` are not used.
   * It stays open when the store is closed.
   */
  db?: DatabaseLike | undefined;
  /** A dialect. The store makes its own Kysely from it, and destroys that when it is closed. */
  dialect?: DialectLike | undefined;
  /**
   * The table, of up to 63 bytes. It is created if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  table?: string | undefined;
  /**
   * The schema of the table (in MySQL: its database), which must exist. Not for SQLite. Without it the
   * connection's search path or database at the time when the store is opened is used.
   */
  schema?: string | undefined;
}

/** @ignore */
type DatabaseLike = kysely.KyselyDatabase;
/** @ignore */
type DialectLike = kysely.KyselyDialect;

/**
 * Makes a store in any database that Kysely supports. The table is the same as that of `Postgres`,
 * `MySQL` or `SQLite`, which can use it too. The first operation creates it if it is missing. A table of
 * `@telegraf/session` 2.0.0-beta is upgraded.
 *
 * Kysely owns the connections: when an operation has timed out, a connection that hangs is not
 * discarded.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, if both `db` and `dialect` are
 * missing, or if the database of `db` is not like PostgreSQL, MySQL or SQLite. With such a `dialect`
 * operations reject.
 * @throws {RangeError} if an option is out of range.
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
  const { dialect, table: name = defaults.table, schema } = options;
  let db = options.db && kysely.checkDatabase(options.db, schema);
  if (!db && !dialect) throw new TypeError('KyselyStore: option "db" or "dialect" is needed');
  let prepare: Prepare | undefined;
  let table: Table;
  const failovers = Failovers.of<object>(options.db ?? {});
  const run = <T>(work: (db: kysely.Database) => Promise<T>) =>
    kysely.onPrimary(db!, failovers, work);
  const runScript = <T>(script: Script<T>) => run((db) => kysely.runScript(db, script));
  return {
    system: db ? kysely.familyOf(db, schema).toLowerCase() : "other_sql",
    handle: options.db ?? {},
    scope: [schema ?? "", name].join("\0"),
    place: name,
    codec: json,
    async open({ report, plan, ...needs }) {
      if (db === undefined) {
        const { Kysely } = await load();
        db ??= new Kysely({ dialect: dialect as never }) as unknown as kysely.Database;
      }
      // Only the first time because the application may have changed the search path since then.
      prepare ??= await runScript(locate(kysely.familyOf(db, schema), name, schema));
      table = await runScript(prepare({ report, plan, ...needs }));
      return table.limits;
    },
    async read(keys) {
      const values = table.keys(keys);
      const text = table.statements.read(values.length);
      return toEntries(keys, await run((db) => table.read(db, text, values)));
    },
    async write(entries) {
      const rows = table.rows(entries);
      const text = table.statements.write(rows.length);
      await run((db) => table.write(db, text, rows.flat()));
    },
    async replace(replacements) {
      const { replace } = table.statements;
      for (const replacement of replacements) {
        const values = await table.replacement(replacement);
        await run((db) => table.write(db, replace, values));
      }
    },
    async renew(keys, expires) {
      if (!table.statements.expiring) return;
      const values = table.keys(keys);
      const text = table.statements.renew(values.length);
      await run((db) => table.write(db, text, [expires, ...values]));
    },
    async remove(keys) {
      const values = table.keys(keys);
      const text = table.statements.remove(values.length);
      await run((db) => table.write(db, text, values));
    },
    async page(start, size, _signal, prefix) {
      const { text, key, page } = table.statements.page(start, size, prefix);
      return page(await run((db) => table.read(db, text, table.keys([key]))));
    },
    leases: sqlLeases(
      () => table.statements,
      () => table.leases,
      (script) => run((db) => kysely.runLease(db, script, table)),
    ),
    prune: (now) => runScript(table.statements.prune(now)),
    close: () => options.db === undefined ? db && kysely.destroy(db) : undefined,
    transient,
  };
}

/** Not imported at the top because CommonJS cannot require Kysely 0.29, which is an ES module. */
async function load(): Promise<typeof import("kysely")> {
  try { // bundlers accept a missing module if its import is in such a block
    return await import("kysely");
  } catch (error) {
    throw missing(error, "kysely", "or pass a Kysely as { db }");
  }
}

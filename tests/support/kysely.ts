/** Kysely stores in databases that other entries support, with the options of those entries. */

import BetterSqlite3 from "better-sqlite3";
import * as kysely29 from "kysely";
import { createPool } from "mysql2";
import type { EventEmitter } from "node:events";
import pg from "pg";
import { KyselyStore, type KyselyStoreOptions } from "../../kysely.ts";
import { requireVersion } from "./packages.ts";

/** Versions of Kysely, by their names in test titles. */
export const versions: Record<string, typeof kysely29> = {
  "Kysely": kysely29,
  "Kysely 0.28": requireVersion("kysely", "0.28"),
  "Kysely 0.27": requireVersion("kysely", "0.27"),
};

type Options<Address> = Omit<KyselyStoreOptions, "db" | "dialect"> & Address;

/** The options of stores that use one version of Kysely. */
export function optionsOf({ SqliteDialect, PostgresDialect, MysqlDialect } = kysely29) {
  return {
    SQLite({ filename, ...options }: Options<{ filename: string }>): KyselyStoreOptions {
      const database = () => Promise.resolve(new BetterSqlite3(filename, { timeout: 50 }));
      return { dialect: new SqliteDialect({ database }), ...options };
    },
    Postgres({ url, ...options }: Options<{ url: string }>): KyselyStoreOptions {
      const pool = new pg.Pool({ connectionString: url });
      // Without these listeners a lost connection ends the process.
      pool.on("error", () => {});
      pool.on("connect", (client: EventEmitter) => client.on("error", () => {}));
      return { dialect: new PostgresDialect({ pool }), ...options };
    },
    MySQL({ url, ...options }: Options<{ url: string }>): KyselyStoreOptions {
      return { dialect: new MysqlDialect({ pool: createPool(url) }), ...options };
    },
  };
}

/** The factories that use one version of Kysely. */
export function factories(kysely = kysely29) {
  const options = optionsOf(kysely);
  return {
    SQLite: (given: Options<{ filename: string }>) => KyselyStore(options.SQLite(given)),
    Postgres: (given: Options<{ url: string }>) => KyselyStore(options.Postgres(given)),
    MySQL: (given: Options<{ url: string }>) => KyselyStore(options.MySQL(given)),
  };
}

export const { SQLite, Postgres, MySQL } = factories();

/**
 * Type-checked, not run, with `exactOptionalPropertyTypes` (`task check`): every option may be
 * `undefined`, like an environment variable that is not set.
 */

import { Cluster, Redis as IORedis } from "ioredis";
import { MongoClient } from "mongodb";
import { createPool } from "mysql2";
import { createPool as createPromisePool } from "mysql2/promise";
import { createClient, createClientPool, createCluster } from "redis";
import { DenoKV, type DenoKVOptions } from "../../denokv.ts";
import { KyselyStore, type KyselyStoreOptions } from "../../kysely.ts";
import { Memory, StoreError, type StoreErrorOptions, type StoreOptions } from "../../mod.ts";
import { Mongo, type MongoOptions } from "../../mongodb.ts";
import { MySQL, type MySQLOptions } from "../../mysql.ts";
import { Postgres, type PostgresOptions } from "../../pg.ts";
import { Redis, type RedisOptions } from "../../redis.ts";
import { SQLite, type SQLiteOptions } from "../../sqlite.ts";

declare const process: { env: Record<string, string | undefined> };
const { env } = process;

Redis({ url: env.REDIS_URL, prefix: env.PREFIX });
Mongo({ url: env.MONGODB_URL, database: env.DATABASE, collection: env.COLLECTION });
SQLite({ filename: env.FILE ?? "", table: env.TABLE });
DenoKV({ path: env.FILE, url: env.URL, prefix: env.PREFIX });
Postgres({ url: env.DATABASE_URL });
Postgres({ host: env.PGHOST, port: env.PGPORT, user: env.PGUSER, password: env.PGPASSWORD });
MySQL({ url: env.MYSQL_URL });
MySQL({ host: env.HOST, port: env.PORT, user: env.USER, password: env.PASSWORD });

Redis({ client: createClient() });
Redis({ client: createClientPool() });
Redis({ client: createCluster({ rootNodes: [] }) });
Redis({ client: new IORedis() });
Redis({ client: new Cluster([]) });
Mongo({ client: new MongoClient("") });
MySQL({ pool: createPool("") });
MySQL({ pool: createPromisePool("") });

/** An option type with each of its properties `undefined`. */
type Undefined<Options> = { [Name in keyof Required<Options>]: undefined };

declare const nothing:
  & Undefined<StoreOptions>
  & Undefined<RedisOptions>
  & Undefined<MongoOptions>
  & Undefined<SQLiteOptions>
  & Undefined<PostgresOptions>
  & Undefined<MySQLOptions>
  & Undefined<KyselyStoreOptions>
  & Undefined<DenoKVOptions>;

Memory(nothing);
Redis(nothing);
Mongo(nothing);
SQLite(nothing);
SQLite({ config: {} as Undefined<NonNullable<SQLiteOptions["config"]>> });
Postgres(nothing);
MySQL(nothing);
KyselyStore(nothing);
DenoKV(nothing);

declare const rest: Undefined<Omit<StoreErrorOptions, "operation">>;
new StoreError("", { operation: "read", ...rest });

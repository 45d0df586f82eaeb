/**
 * Type-checked, not run: the stores accept the clients of every supported driver version and the
 * drivers' options without a cast.
 */

import { openKv } from "@deno/kv";
import * as kysely29 from "kysely";
import * as kysely27 from "kysely27";
import * as kysely28 from "kysely28";
import * as ioredis5 from "ioredis5";
import * as ioredis6 from "ioredis";
import * as mongodb7 from "mongodb";
import * as mongodb5 from "mongodb5";
import * as mongodb6 from "mongodb6";
import mongoose from "mongoose";
import * as upstash from "@upstash/redis";
import * as redis4 from "redis4";
import * as redis5 from "redis5";
import * as redis6 from "redis";
import { DenoKV } from "../../denokv.ts";
import { KyselyStore } from "../../kysely.ts";
import { Mongo } from "../../mongodb.ts";
import { Redis } from "../../redis.ts";

const rootNodes = [{ url: "redis://localhost" }];
const sentinel = { name: "main", sentinelRootNodes: [{ host: "localhost", port: 26379 }] };

Redis({ client: redis4.createClient() });
Redis({ client: redis4.createClient({ url: "redis://localhost" }).on("error", console.error) });
Redis({ client: redis4.createCluster({ rootNodes }) });

Redis({ client: redis5.createClient() });
Redis({ client: redis5.createClient({ RESP: 3 }) });
Redis({ client: redis5.createClientPool() });
Redis({ client: redis5.createCluster({ rootNodes }) });
Redis({ client: redis5.createSentinel(sentinel) });

Redis({ client: redis6.createClient() });
Redis({ client: redis6.createClient({ RESP: 2, database: 1 }).on("error", console.error) });
Redis({ client: redis6.createClientPool() });
Redis({ client: redis6.createCluster({ rootNodes }) });
Redis({ client: redis6.createSentinel(sentinel) });

Redis({ client: new ioredis5.Redis() });
Redis({ client: new ioredis5.Redis({ sentinels: [{ host: "localhost" }], name: "main" }) });
Redis({ client: new ioredis5.Cluster([{ host: "localhost" }]) });
Redis({ client: new ioredis6.Redis("redis://localhost").on("error", console.error) });
Redis({ client: new ioredis6.Cluster([{ host: "localhost" }], { scaleReads: "master" }) });

Redis({ client: new upstash.Redis({ url: "https://localhost", token: "token" }) });
Redis({ client: upstash.Redis.fromEnv({ automaticDeserialization: false }) });

// @ts-expect-error: not a client
Redis({ client: new ioredis6.Redis().pipeline() });
// @ts-expect-error: not a client
Redis({ client: upstash.Redis.fromEnv().pipeline() });

const options: redis6.RedisClientOptions = { name: "bot", socket: { tls: true } };
Redis({ url: "rediss://localhost", config: options });
Redis({ config: { RESP: 2, socket: { reconnectStrategy: false } } });

// @ts-expect-error: not a client
Redis({ client: new Map<string, string>() });
// @ts-expect-error: not an option of node-redis
Redis({ config: { nmae: "bot" } });

Mongo({ client: new mongodb5.MongoClient("mongodb://localhost") });
Mongo({ client: new mongodb6.MongoClient("mongodb://localhost"), database: "bot" });
Mongo({ client: new mongodb7.MongoClient("mongodb://localhost"), collection: "sessions" });
Mongo({ client: mongoose.connection.getClient() });
Mongo({ client: mongoose.createConnection("mongodb://localhost").getClient() });

const config: mongodb7.MongoClientOptions = { appName: "bot", maxPoolSize: 5 };
Mongo({ url: "mongodb://localhost", config });

// @ts-expect-error: not a client
Mongo({ client: mongoose.connection });
// @ts-expect-error: not an option of the driver
Mongo({ url: "mongodb://localhost", config: { appname: "bot" } });

DenoKV({ kv: await Deno.openKv() });
DenoKV({ kv: await openKv("sessions.kv") });

// @ts-expect-error: not a database
DenoKV({ kv: new Map<string, string>() });

interface Tables {
  users: { id: kysely29.Generated<number>; name: string };
}
const pool = { connect: () => Promise.reject(), end: () => Promise.resolve() };
KyselyStore({
  db: new kysely27.Kysely<Tables>({ dialect: new kysely27.PostgresDialect({ pool }) }),
});
KyselyStore({
  db: new kysely28.Kysely<Tables>({ dialect: new kysely28.PostgresDialect({ pool }) }),
});
const dialect = new kysely29.PostgresDialect({ pool: { ...pool, options: {} } });
const db = new kysely29.Kysely<Tables>({ dialect });
KyselyStore({ db, table: "sessions", schema: "bot" });
KyselyStore({ db: db.withPlugin(new kysely29.CamelCasePlugin()).withSchema("bot") });
KyselyStore({ dialect });
KyselyStore({ dialect: new kysely28.PostgresDialect({ pool }) });
KyselyStore({ dialect: new kysely27.PostgresDialect({ pool }) });

// @ts-expect-error: not a Kysely instance
KyselyStore({ db: dialect });
// @ts-expect-error: not a dialect
KyselyStore({ dialect: db });

/** The measured stores: ours, those of 2.0.0-beta.7 (`upstream`), peers, and bare drivers. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Store as OwnStore } from "../mod.ts";
import { untilCaching } from "../tests/support/batches.ts";
import { requireVersion } from "../tests/support/packages.ts";
import { peer } from "./peers.ts";

export const backends = ["redis", "postgres", "mysql", "sqlite", "mongodb"] as const;
export type Backend = typeof backends[number];

// deno-lint-ignore no-explicit-any
export type Session = any;

/** A store under test. */
export interface Store {
  get(key: string): Session;
  set(key: string, session: Session): unknown;
  delete(key: string): unknown;
  close(): unknown;
}

export interface Contender {
  name: string;
  /** The npm package of the store; undefined for our store and for a bare driver. */
  package?: string;
  /**
   * Opens the store.
   *
   * @param url of the server.
   * @param name of a table, collection or prefix, or part of a file's name.
   */
  open(url: string, name: string): Store | Promise<Store>;
}

/** Names that the report looks for. */
export const ours = "@telegraf/session";
export const cached = "@telegraf/session, cache";
export const upstream = "2.0.0-beta.7";
export const bare = "bare driver";

/** The stores that every part measures, if it can. The benchmark fails if one of them does. */
export const required = [ours, cached, upstream, bare];

const upstreamEntry = (name: string) =>
  requireVersion("@telegraf/session", "2.0.0-beta.7", `/${name}`);

/** Our store, without and with `cache`. */
function own(
  open: (url: string, name: string, options: { cache?: true }) => Promise<OwnStore<Session>>,
): Contender[] {
  return [
    { name: ours, open: (url, name) => open(url, name, {}) },
    {
      name: cached,
      async open(url, name) {
        const store = await open(url, name, { cache: true });
        await untilCaching(store); // a few seconds
        return store;
      },
    },
  ];
}

/** A store of express-session, which has callbacks instead of promises. */
// deno-lint-ignore no-explicit-any
function express(store: any, close: () => unknown): Store {
  const call = (method: string, ...args: unknown[]) =>
    new Promise((resolve, reject) =>
      store[method](
        ...args,
        (error: unknown, result: unknown) => error ? reject(error) : resolve(result),
      )
    );
  return {
    get: (key) => call("get", key),
    set: (key, session) => call("set", key, session),
    delete: (key) => call("destroy", key),
    close,
  };
}

/** A store of grammY. */
// deno-lint-ignore no-explicit-any
function grammy(store: any, close: () => unknown): Store {
  return {
    get: (key) => store.read(key),
    set: (key, session) => store.write(key, session),
    delete: (key) => store.delete(key),
    close,
  };
}

/** A store of keyv, with an adapter. */
function keyv(adapter: unknown): Store {
  const { Keyv } = peer("keyv");
  const store = new Keyv({ store: adapter });
  store.on("error", (error: unknown) => console.error(`keyv: ${error}`));
  return {
    get: (key) => store.get(key),
    set: (key, session) => store.set(key, session),
    delete: (key) => store.delete(key),
    close: () => store.disconnect(),
  };
}

/** A store of unstorage, with a driver. */
function unstorage(driver: unknown, close?: () => unknown): Store {
  const store = peer("unstorage").createStorage({ driver });
  return {
    get: (key) => store.getItem(key),
    set: (key, session) => store.setItem(key, session),
    delete: (key) => store.removeItem(key),
    close: async () => {
      await store.dispose();
      await close?.();
    },
  };
}

/** unstorage with an SQL database by db0, whose warning about an experimental feature is off. */
// deno-lint-ignore no-explicit-any
function db0(connector: any, tableName: string): Store {
  (globalThis as Record<string, unknown>).__unstorage_db0_experimental_warning__ = true;
  const database = peer("db0").createDatabase(connector);
  return unstorage(
    peer("unstorage/drivers/db0")({ database, tableName }),
    () => connector.dispose(),
  );
}

/** A connected client of node-redis. */
export async function redisClient(url: string) {
  const { createClient } = await import("redis");
  const client = createClient({ url });
  client.on("error", () => {});
  await client.connect();
  return client;
}

/** A client of ioredis. */
function ioredis(url: string, options: { keyPrefix?: string } = {}) {
  const { Redis } = peer("ioredis");
  return new Redis(url, options);
}

/** The part of node-redis and ioredis that the bare store uses. */
interface BareRedis {
  get(name: string): Promise<string | null>;
  set(name: string, value: string): unknown;
  del(name: string): unknown;
}

function bareRedis(client: BareRedis, name: string, close: () => unknown): Store {
  return {
    async get(key) {
      const text = await client.get(`${name}:${key}`);
      return text === null ? undefined : JSON.parse(text);
    },
    set: (key, session) => client.set(`${name}:${key}`, JSON.stringify(session)),
    delete: (key) => client.del(`${name}:${key}`),
    close,
  };
}

const redis: Contender[] = [
  ...own(async (url, name, options) => {
    const { Redis } = await import("../redis.ts");
    return Redis({ url, prefix: `${name}:`, ...options });
  }),
  {
    name: `${ours}, ioredis`,
    async open(url, name) {
      const { Redis } = await import("../redis.ts");
      const client = ioredis(url);
      const store = Redis({ client, prefix: `${name}:` });
      return {
        get: (key) => store.get(key),
        set: (key, session) => store.set(key, session),
        delete: (key) => store.delete(key),
        async close() {
          await store.close();
          client.disconnect();
        },
      };
    },
  },
  {
    name: upstream,
    package: "@telegraf/session",
    async open(url, name) {
      const { createClient } = await import("redis");
      const client = createClient({ url });
      const store = upstreamEntry("redis").Redis({ client, prefix: `${name}:` });
      return { ...store, close: () => client.destroy() };
    },
  },
  {
    name: bare,
    async open(url, name) {
      const client = await redisClient(url);
      return bareRedis(client, name, () => client.destroy());
    },
  },
  {
    name: `${bare}, ioredis`,
    open(url, name) {
      const client = ioredis(url);
      return bareRedis(client, name, () => client.disconnect());
    },
  },
  {
    name: "keyv",
    package: "@keyv/redis",
    open: (url, name) => keyv(new (peer("@keyv/redis").default)(url, { namespace: name })),
  },
  {
    name: "grammY",
    package: "@grammyjs/storage-redis",
    open(url, name) {
      // This store needs ioredis.
      const instance = ioredis(url, { keyPrefix: `${name}:` });
      const { RedisAdapter } = peer("@grammyjs/storage-redis");
      return grammy(new RedisAdapter({ instance }), () => instance.disconnect());
    },
  },
  {
    name: "connect-redis",
    package: "connect-redis",
    async open(url, name) {
      const client = await redisClient(url);
      const { RedisStore } = peer("connect-redis");
      const store = new RedisStore({ client, prefix: `${name}:`, disableTTL: true });
      return express(store, () => client.destroy());
    },
  },
  {
    name: "unstorage",
    package: "unstorage",
    open: (url, base) => unstorage(peer("unstorage/drivers/redis")({ url, base })),
  },
];

/** A pool of node-postgres. */
async function pgPool(connectionString: string) {
  const { default: { Pool } } = await import("pg");
  const pool = new Pool({ connectionString });
  pool.on("error", () => {});
  return pool;
}

const postgres: Contender[] = [
  ...own(async (url, table, options) => {
    const { Postgres } = await import("../pg.ts");
    return Postgres({ url, table, ...options });
  }),
  {
    name: upstream,
    package: "@telegraf/session",
    async open(url, table) {
      const pool = await pgPool(url);
      const store = upstreamEntry("pg").Postgres({ pool, table });
      await store.get("0");
      return { ...store, close: () => pool.end() };
    },
  },
  {
    name: bare,
    async open(url, table) {
      const pool = await pgPool(url);
      await pool.query(`CREATE TABLE "${table}" (key text COLLATE "C" PRIMARY KEY, session text)`);
      const run = async (name: string, text: string, values: unknown[]) =>
        (await pool.query({ name: `${table}-${name}`, text, values })).rows;
      return {
        async get(key) {
          const sql = `SELECT session FROM "${table}" WHERE key = $1`;
          const [row] = await run("get", sql, [key]);
          return row && JSON.parse(row.session);
        },
        set: (key, session) =>
          run(
            "set",
            `INSERT INTO "${table}" VALUES ($1, $2)
            ON CONFLICT (key) DO UPDATE SET session = excluded.session`,
            [key, JSON.stringify(session)],
          ),
        delete: (key) => run("delete", `DELETE FROM "${table}" WHERE key = $1`, [key]),
        close: () => pool.end(),
      };
    },
  },
  {
    name: "keyv",
    package: "@keyv/postgres",
    open(uri, table) {
      const { KeyvPostgres } = peer("@keyv/postgres");
      return keyv(new KeyvPostgres({ uri, table: `"${table}"` }));
    },
  },
  {
    name: "grammY",
    package: "@grammyjs/storage-psql",
    async open(url, tableName) {
      const client = await pgPool(url);
      const { PsqlAdapter } = peer("@grammyjs/storage-psql");
      return grammy(await PsqlAdapter.create({ tableName, client }), () => client.end());
    },
  },
  {
    name: "connect-pg-simple",
    package: "connect-pg-simple",
    async open(url, tableName) {
      const pool = await pgPool(url);
      const PgStore = peer("connect-pg-simple")(peer("express-session"));
      // Its own script cannot create a second table: the name of the constraint is always the same.
      await pool.query(
        `CREATE TABLE "${tableName}"
          (sid varchar PRIMARY KEY, sess json NOT NULL, expire timestamp(6) NOT NULL)`,
      );
      const store = new PgStore({ pool, tableName, pruneSessionInterval: false });
      return express(store, () => pool.end());
    },
  },
  {
    name: "unstorage",
    package: "unstorage",
    open: (url, table) => db0(peer("db0/connectors/postgresql").default({ url }), table),
  },
];

/** A pool of mysql2 with promises. */
async function mysqlPool(uri: string) {
  const { createPool } = await import("mysql2/promise");
  return createPool({ uri });
}

const mysql: Contender[] = [
  ...own(async (url, table, options) => {
    const { MySQL } = await import("../mysql.ts");
    return MySQL({ url, table, ...options });
  }),
  {
    name: upstream,
    package: "@telegraf/session",
    async open(uri, table) {
      const { createPool } = await import("mysql2");
      const pool = createPool({ uri });
      const store = upstreamEntry("mysql").MySQL({ pool, table });
      await store.get("0");
      return { ...store, close: () => pool.promise().end() };
    },
  },
  {
    name: bare,
    async open(uri, table) {
      const pool = await mysqlPool(uri);
      await pool.query(
        `CREATE TABLE \`${table}\` (\`key\` varbinary(512) PRIMARY KEY,
          session longtext CHARACTER SET utf8mb4)`,
      );
      return {
        async get(key) {
          const sql = `SELECT session FROM \`${table}\` WHERE \`key\` = ?`;
          const [[row]] = await pool.execute(sql, [key]) as unknown as [[Session]];
          return row && JSON.parse(row.session);
        },
        set: (key, session) =>
          pool.execute(
            `INSERT INTO \`${table}\` VALUES (?, ?)
            ON DUPLICATE KEY UPDATE session = VALUES(session)`,
            [key, JSON.stringify(session)],
          ),
        delete: (key) => pool.execute(`DELETE FROM \`${table}\` WHERE \`key\` = ?`, [key]),
        close: () => pool.end(),
      };
    },
  },
  {
    name: "keyv",
    package: "@keyv/mysql",
    open(uri, table) {
      const { KeyvMysql } = peer("@keyv/mysql");
      return keyv(new KeyvMysql({ uri, table: `\`${table}\`` }));
    },
  },
  {
    name: "express-mysql-session",
    package: "express-mysql-session",
    async open(uri, tableName) {
      const pool = await mysqlPool(uri);
      const MySQLStore = peer("express-mysql-session")(peer("express-session"));
      const store = new MySQLStore({ clearExpired: false, schema: { tableName } }, pool);
      await store.onReady();
      return {
        get: (key) => store.get(key),
        set: (key, session) => store.set(key, session),
        delete: (key) => store.destroy(key),
        close: () => pool.end(),
      };
    },
  },
  {
    name: "unstorage",
    package: "unstorage",
    open: (uri, table) => db0(peer("db0/connectors/mysql2").default({ uri }), table),
  },
];

/** A temporary folder that is removed at the end. */
export const folder = (() => {
  let path: string | undefined;
  return {
    path: () => path ??= mkdtempSync(join(tmpdir(), "telegraf-session-bench-")),
    remove: () => path && rmSync(path, { recursive: true, force: true }),
  };
})();

/** A database of better-sqlite3. With `wal` it has the journal mode of our store. */
async function sqliteDatabase(filename: string, wal: boolean) {
  const { default: Database } = await import("better-sqlite3");
  const database = new Database(filename);
  if (wal) database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
  return database;
}

const upstreamSQLite = (name: string, wal: boolean): Contender => ({
  name,
  package: "@telegraf/session",
  async open(path, table) {
    const database = await sqliteDatabase(`${path}/${table}.sqlite`, wal);
    const store = upstreamEntry("sqlite").SQLite({ database });
    await store.get("0");
    return { ...store, close: () => database.close() };
  },
});

const sqlite: Contender[] = [
  ...own(async (path, table, options) => {
    const { SQLite } = await import("../sqlite.ts");
    return SQLite({ filename: `${path}/${table}.sqlite`, table, ...options });
  }),
  upstreamSQLite(upstream, false),
  upstreamSQLite(`${upstream}, WAL + NORMAL`, true),
  {
    name: bare,
    async open(path, table) {
      const database = await sqliteDatabase(`${path}/${table}.sqlite`, true);
      database.exec("CREATE TABLE sessions (key text PRIMARY KEY NOT NULL, session text)");
      const select = database.prepare("SELECT session FROM sessions WHERE key = ?").pluck();
      const insert = database.prepare(
        `INSERT INTO sessions VALUES (?, ?)
        ON CONFLICT (key) DO UPDATE SET session = excluded.session`,
      );
      const remove = database.prepare("DELETE FROM sessions WHERE key = ?");
      return {
        get(key) {
          const text = select.get(key) as string | undefined;
          return text && JSON.parse(text);
        },
        set: (key, session) => insert.run(key, JSON.stringify(session)),
        delete: (key) => remove.run(key),
        close: () => database.close(),
      };
    },
  },
  {
    name: "better-sqlite3-session-store, WAL + NORMAL",
    package: "better-sqlite3-session-store",
    async open(path, table) {
      const client = await sqliteDatabase(`${path}/${table}.sqlite`, true);
      const SqliteStore = peer("better-sqlite3-session-store")(peer("express-session"));
      return express(new SqliteStore({ client }), () => client.close());
    },
  },
  {
    name: "unstorage, WAL + NORMAL",
    package: "unstorage",
    async open(path, table) {
      const file = `${path}/${table}.sqlite`;
      const connector = peer("db0/connectors/better-sqlite3").default({ path: file });
      const database = await connector.getInstance();
      database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
      return db0(connector, "sessions");
    },
  },
];

/** A connected client of the MongoDB driver. */
export async function mongoClient(url: string) {
  const { MongoClient } = await import("mongodb");
  return await new MongoClient(url).connect();
}

const mongodb: Contender[] = [
  ...own(async (url, collection, options) => {
    const { Mongo } = await import("../mongodb.ts");
    return Mongo({ url, collection, ...options });
  }),
  {
    name: upstream,
    package: "@telegraf/session",
    async open(url, collection) {
      const client = await mongoClient(url);
      const store = upstreamEntry("mongodb").Mongo({ client, collection });
      return { ...store, close: () => client.close() };
    },
  },
  {
    name: bare,
    async open(url, name) {
      const client = await mongoClient(url);
      const collection = client.db().collection(name);
      await collection.createIndex({ key: 1 }, { unique: true });
      return {
        get: async (key) => (await collection.findOne({ key }))?.session,
        set: (key, session) =>
          collection.updateOne({ key }, { $set: { session } }, { upsert: true }),
        delete: (key) => collection.deleteOne({ key }),
        close: () => client.close(),
      };
    },
  },
  {
    name: "keyv",
    package: "@keyv/mongo",
    open(url, collection) {
      const { KeyvMongo } = peer("@keyv/mongo");
      return keyv(new KeyvMongo({ url, collection }));
    },
  },
  {
    name: "grammY",
    package: "@grammyjs/storage-mongodb",
    async open(url, name) {
      const client = await mongoClient(url);
      const { MongoDBAdapter } = peer("@grammyjs/storage-mongodb");
      const collection = client.db().collection(name);
      return grammy(new MongoDBAdapter({ collection }), () => client.close());
    },
  },
  {
    name: "connect-mongo",
    package: "connect-mongo",
    open(mongoUrl, collectionName) {
      const { MongoStore } = peer("connect-mongo");
      const store = MongoStore.create({ mongoUrl, collectionName, autoRemove: "disabled" });
      return express(store, () => store.close());
    },
  },
  {
    name: "unstorage",
    package: "unstorage",
    async open(connectionString, collectionName) {
      const driver = peer("unstorage/drivers/mongodb")({
        connectionString,
        collectionName,
        databaseName: new URL(connectionString).pathname.slice(1) || "test",
      });
      const { client } = await driver.getInstance();
      return unstorage(driver, () => client.close());
    },
  },
];

export const contenders: Record<Backend, Contender[]> = {
  redis,
  postgres,
  mysql,
  sqlite,
  mongodb,
};

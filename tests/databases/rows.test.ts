/**
 * Tests of driver settings that change the rows of a read, one per setting. The store must read
 * back what it stored, or reject. It must never report a stored session as missing.
 */

import BetterSqlite3 from "better-sqlite3";
import { Redis as IORedis } from "ioredis";
import * as kysely from "kysely";
import { MongoClient, type MongoClientOptions } from "mongodb";
import { createPool, type PoolOptions } from "mysql2";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import process from "node:process";
import { describe, it } from "node:test";
import pg from "pg";
import { createClient, RESP_TYPES } from "redis";
import { KyselyStore } from "../../kysely.ts";
import type { Store, StoreOptions } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { place, serverUrl } from "../support/servers.ts";

/** Undefined on Node.js 20. */
const node = process.getBuiltinModule("node:sqlite");
// deno-lint-ignore no-explicit-any
const bun = process.getBuiltinModule("bun:sqlite") as any;

// deno-lint-ignore no-explicit-any
type AnyStore = Store<any>;

/** A handle with a setting, and a function that creates a store on it. */
interface Handle {
  store(where: string, options: StoreOptions): AnyStore;
  close(): unknown;
}

/** The settings of one driver, each with a function that creates a handle. */
interface Driver {
  readonly name: string;
  readonly skip?: string | false;
  readonly settings: Record<string, () => Handle>;
  /** The error of the store for each setting that it refuses because it cannot undo it. */
  readonly refused?: Record<string, RegExp>;
  /** The error of a read for each setting that the store notices only there. */
  readonly unreadable?: Record<string, RegExp>;
}

const sessions: Record<string, unknown> = {
  "1:1": { count: 1, list: [1, "é 🔑", null], nested: { big: 2 ** 40, half: 0.5, yes: true } },
  "2:2": "text",
  "3:3": 7,
  "4:4": false,
};
const keys = Object.keys(sessions);

function test({ name, skip = false, settings, refused = {}, unreadable = {} }: Driver): void {
  for (const [setting, open] of Object.entries(settings)) {
    it(`${name} with ${setting}`, { skip }, async () => {
      const where = place();
      const handle = open();
      try {
        await using store = handle.store(where, { ttl: 1_000_000 });
        if (refused[setting] !== undefined) {
          await assert.rejects(store.get("1:1"), refused[setting]);
          await assert.rejects(store.set("1:1", 1), refused[setting]);
          return;
        }
        if (unreadable[setting] !== undefined) {
          await store.set("1:1", 1);
          await assert.rejects(store.get("1:1"), unreadable[setting]);
          await assert.rejects(
            Promise.all([store.get("1:1"), store.get("2")]),
            unreadable[setting],
          );
          return;
        }
        try {
          await Promise.all(keys.map((key) => store.set(key, sessions[key])));
          for (const key of keys) assert.deepEqual(await store.get(key), sessions[key]);
          const all = await Promise.all([...keys, "missing"].map((key) => store.get(key)));
          assert.deepEqual(all, [...Object.values(sessions), undefined]);
          assert.equal(await store.has("1:1"), true);
          await assertLists(store, keys);
          await store.set("1:1", { count: 2 });
          assert.deepEqual(await store.get("1:1"), { count: 2 });
          await Promise.all(keys.map((key) => store.delete(key)));
          assert.equal(await store.size(), 0);
          assert.equal(await store.prune(), 0);
        } finally {
          await store.clear();
        }
      } finally {
        await handle.close();
      }
    });
  }
}

/** Creates a handle that closes its database. */
// deno-lint-ignore no-explicit-any
function onDatabase(database: any): Handle {
  return {
    store: (table, options) => SQLite({ database, table, ...options }),
    close: () => database.close(),
  };
}

// deno-lint-ignore no-explicit-any
const nodeWith = (options: any) => () => onDatabase(new node.DatabaseSync(":memory:", options));
// deno-lint-ignore no-explicit-any
const bunWith = (options: any) => () => onDatabase(new bun.Database(":memory:", options));
const betterWith = (prepare: (database: BetterSqlite3.Database) => void) => () => {
  const database = new BetterSqlite3(":memory:");
  prepare(database);
  return onDatabase(database);
};

describe("SQLite settings", () => {
  test({
    name: "SQLite on node:sqlite",
    skip: !node && "node:sqlite came with Node.js 22",
    settings: {
      returnArrays: nodeWith({ returnArrays: true }),
      readBigInts: nodeWith({ readBigInts: true }),
      "returnArrays and readBigInts": nodeWith({ returnArrays: true, readBigInts: true }),
      "no bare named parameters": nodeWith({ allowBareNamedParameters: false }),
      "full_column_names": () => {
        const handle = new node.DatabaseSync(":memory:");
        handle.exec("PRAGMA short_column_names = off; PRAGMA full_column_names = on");
        return onDatabase(handle);
      },
    },
  });
  test({
    name: "SQLite on better-sqlite3",
    settings: {
      defaultSafeIntegers: betterWith((database) => database.defaultSafeIntegers()),
      unsafeMode: betterWith((database) => database.unsafeMode()),
      full_column_names: betterWith((database) =>
        database.exec("PRAGMA short_column_names = off; PRAGMA full_column_names = on")
      ),
    },
  });
  test({
    name: "SQLite on bun:sqlite",
    skip: !bun && "only Bun has bun:sqlite",
    settings: {
      safeIntegers: bunWith({ safeIntegers: true }),
      strict: bunWith({ strict: true }),
      "strict and safeIntegers": bunWith({ strict: true, safeIntegers: true }),
    },
  });
});

const postgresUrl = serverUrl("postgres");

// deno-lint-ignore no-explicit-any
function onPool(options: any): () => Handle {
  return () => {
    const pool = new pg.Pool({ connectionString: postgresUrl, ...options });
    return {
      store: (table, options) => Postgres({ pool, table, ...options }),
      close: () => pool.end(),
    };
  };
}

/** Sets a global parser of pg while the handle is open. */
// deno-lint-ignore no-explicit-any
function withParser(type: number, parse: (value: any) => unknown): () => Handle {
  return () => {
    const before = pg.types.getTypeParser(type);
    pg.types.setTypeParser(type, parse);
    const handle = onPool({})();
    return {
      ...handle,
      async close() {
        pg.types.setTypeParser(type, before);
        await handle.close();
      },
    };
  };
}

/** The numbers of column types in PostgreSQL. */
const { BOOL, INT8, INT4, TEXT } = pg.types.builtins;

describe("PostgreSQL settings", () => {
  test({
    name: "PostgreSQL on pg",
    settings: {
      "types of the pool": onPool({ types: { getTypeParser: () => (value: unknown) => [value] } }),
      "binary": onPool({ binary: true }),
      "a parser for text": withParser(TEXT, (text) => ({ text })),
      "a parser for bigint": withParser(INT8, () => NaN),
      "a parser for integer": withParser(INT4, () => "none"),
      "a parser for boolean": withParser(BOOL, () => "no"),
      "parseInt8": () => {
        pg.defaults.parseInt8 = true;
        const handle = onPool({})();
        return {
          ...handle,
          close() {
            pg.defaults.parseInt8 = false;
            return handle.close();
          },
        };
      },
      "standard_conforming_strings off": onPool({
        options: "-c standard_conforming_strings=off -c backslash_quote=on",
      }),
      "a client_encoding that is not used": onPool({ client_encoding: "latin1" }),
      "bytea_output and DateStyle": onPool({
        options: "-c bytea_output=escape -c datestyle=German",
      }),
    },
  });
});

const mysqlUrl = serverUrl("mysql");

function onMySQLPool(options: PoolOptions): () => Handle {
  return () => {
    const pool = createPool({ uri: mysqlUrl, ...options });
    return {
      store: (table, options) => MySQL({ pool, table, ...options }),
      close: () => new Promise((resolve) => pool.end(resolve)),
    };
  };
}

const mysqlSettings: Record<string, PoolOptions> = {
  rowsAsArray: { rowsAsArray: true },
  "nestTables": { nestTables: true },
  "nestTables with a separator": { nestTables: "_" as unknown as boolean },
  "typeCast off": { typeCast: false },
  "typeCast that reads JSON": {
    typeCast: (field, next) => /BLOB/.test(field.type) ? { json: field.string() } : next(),
  },
  "typeCast for integers": { typeCast: (field, next) => field.type === "TINY" ? true : next() },
  "supportBigNumbers": { supportBigNumbers: true, bigNumberStrings: true },
  decimalNumbers: { decimalNumbers: true },
  dateStrings: { dateStrings: true },
  jsonStrings: { jsonStrings: true },
  namedPlaceholders: { namedPlaceholders: true },
  stringifyObjects: { stringifyObjects: true },
  multipleStatements: { multipleStatements: true },
  disableEval: { disableEval: true },
  "charset latin1": { charset: "latin1" },
  "maxPreparedStatements": { maxPreparedStatements: 1 },
  "flags without FOUND_ROWS": { flags: ["-FOUND_ROWS"] },
  queryFormat: { queryFormat: (sql: string) => sql } as PoolOptions,
};

describe("MySQL settings", () => {
  test({
    name: "MySQL on mysql2",
    settings: Object.fromEntries(
      Object.entries(mysqlSettings).map(([name, options]) => [name, onMySQLPool(options)]),
    ),
  });
  const { queryFormat: _, ...others } = mysqlSettings; // Kysely passes its values to `query`
  const changed = /the driver changes the rows that it returns/;
  test({
    name: "Kysely on mysql2",
    settings: Object.fromEntries(
      Object.entries(others).map(([name, options]) => [name, () => {
        const pool = createPool({ uri: mysqlUrl, ...options });
        const dialect = new kysely.MysqlDialect({ pool: pool as never });
        const db = new kysely.Kysely({ dialect });
        return {
          store: (table, options) => KyselyStore({ db, table, ...options }),
          close: () => db.destroy(),
        };
      }]),
    ),
    refused: {
      nestTables: changed,
      "typeCast off": changed,
    },
    unreadable: { "typeCast that reads JSON": /the driver returned a row in a form/ },
  });
});

const redisUrl = serverUrl("redis");

// deno-lint-ignore no-explicit-any
function onClient(options: any): () => Handle {
  return () => {
    const client = createClient({ url: redisUrl, ...options });
    return {
      store: (prefix, options) => Redis({ client: client as never, prefix, ...options }),
      close: () => client.close(),
    };
  };
}

const buffers = {
  [RESP_TYPES.BLOB_STRING]: Buffer,
  [RESP_TYPES.SIMPLE_STRING]: Buffer,
  [RESP_TYPES.NUMBER]: String,
};

function onIORedis(options: object): () => Handle {
  return () => {
    const client = new IORedis(redisUrl, options);
    return {
      store: (prefix, options) => Redis({ client, prefix, ...options }),
      close: () => client.quit(),
    };
  };
}

describe("Redis settings", () => {
  test({
    name: "Redis on node-redis",
    settings: {
      "RESP 2": onClient({ RESP: 2 }),
      "RESP 3": onClient({ RESP: 3 }),
      "a type mapping": onClient({ RESP: 3, commandOptions: { typeMapping: buffers } }),
      "a type mapping with RESP 2": onClient({ RESP: 2, commandOptions: { typeMapping: buffers } }),
    },
  });
  test({
    name: "Redis on ioredis",
    settings: {
      stringNumbers: onIORedis({ stringNumbers: true }),
      keyPrefix: onIORedis({ keyPrefix: "app:" }),
      enableAutoPipelining: onIORedis({ enableAutoPipelining: true }),
      showFriendlyErrorStack: onIORedis({ showFriendlyErrorStack: true }),
    },
  });
});

const mongodbUrl = serverUrl("mongodb");

function onMongo(options: MongoClientOptions): () => Handle {
  return () => {
    const client = new MongoClient(mongodbUrl, options);
    return {
      store: (collection, options) => Mongo({ client, collection, ...options }),
      close: () => client.close(),
    };
  };
}

describe("MongoDB settings", () => {
  test({
    name: "MongoDB on mongodb",
    settings: {
      "promoteValues off": onMongo({ promoteValues: false }),
      "promoteLongs off": onMongo({ promoteLongs: false }),
      promoteBuffers: onMongo({ promoteBuffers: true }),
      useBigInt64: onMongo({ useBigInt64: true, promoteLongs: true }),
      bsonRegExp: onMongo({ bsonRegExp: true }),
      raw: onMongo({ raw: true }),
      ignoreUndefined: onMongo({ ignoreUndefined: true }),
      serializeFunctions: onMongo({ serializeFunctions: true }),
      fieldsAsRaw: onMongo({ fieldsAsRaw: { session: true } }),
      "enableUtf8Validation off": onMongo({ enableUtf8Validation: false }),
      "readPreference secondary": onMongo({ readPreference: "secondaryPreferred" }),
      "writeConcern 0": onMongo({ writeConcern: { w: 0 } }),
    },
  });
});

/** Options that the factories accept, reject and suggest. No server is needed. */

import assert from "node:assert/strict";
import process from "node:process";
import { describe, it } from "node:test";
import { runInNewContext } from "node:vm";
import { Kysely, SqliteDialect } from "kysely";
import BetterSqlite3 from "better-sqlite3";
import ioredis from "ioredis";
import { MongoClient } from "mongodb";
import { createPool } from "mysql2";
import { createPool as createPromisePool } from "mysql2/promise";
import pg from "pg";
import { createClient, createClientPool, createCluster } from "redis";
import { createStore } from "../../backend.ts";
import { DenoKV } from "../../denokv.ts";
import { KyselyStore } from "../../kysely.ts";
import { Memory } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import type { Backend } from "../../src/backend.ts";
import { missing } from "../../src/errors.ts";
import { memoryBackend } from "../../src/memory.ts";
import { SQLite } from "../../sqlite.ts";

// deno-lint-ignore no-explicit-any
type Factory = (options?: any) => { close(): Promise<void>; get(key: string): Promise<unknown> };

const factories: Record<string, Factory> = {
  Memory,
  Redis,
  Mongo,
  SQLite,
  Postgres,
  MySQL,
  KyselyStore,
  DenoKV,
};

/** The options that each factory needs to make a store. */
const least: Record<string, object> = {
  Mongo: { url: "mongodb://localhost" },
  SQLite: { filename: ":memory:" },
  KyselyStore: { dialect: {} },
  // Deno has a database for each program.
  ...process.versions.deno === undefined && { DenoKV: { path: ":memory:" } },
};

function refuses(name: string, options: unknown, message: string): void {
  const error = { name: "TypeError", message: `${name}: ${message}` };
  assert.throws(() => factories[name]!(options), error, `${name} ${message}`);
}

it("createStore names what a backend lacks", () => {
  const backend = memoryBackend();
  const required = Object.keys(backend).filter((name) => name !== "leases" && name !== "prune");
  assert.ok(required.length > 12);
  for (const name of required) {
    for (const part of [undefined, null, 5]) {
      const message = new RegExp(`^createStore: the backend's "${name}" must be an? `);
      assert.throws(() => createStore({ ...backend, [name]: part }), {
        name: "TypeError",
        message,
      });
    }
  }
  for (const nothing of [undefined, null, "redis://localhost"]) {
    assert.throws(() => createStore(nothing as never), /^TypeError: createStore: the backend's /);
  }
  createStore({ ...backend, leases: undefined, prune: undefined } as Backend);
});

describe("options", () => {
  it("for a client, pool or database, the error names the option to use", async () => {
    const sqlite = new BetterSqlite3(":memory:");
    const dialect = new SqliteDialect({ database: sqlite });
    const promises = createPromisePool({});
    const callbacks = createPool("mysql://localhost/x");
    const cases: [name: string, given: object, option: string][] = [
      ["Redis", createClient(), "client"],
      ["Redis", createClientPool(), "client"],
      ["Redis", createCluster({ rootNodes: [] }), "client"],
      ["Redis", new ioredis.Redis({ lazyConnect: true }), "client"],
      ["Redis", new ioredis.Cluster([], { lazyConnect: true }), "client"],
      ["Mongo", new MongoClient("mongodb://localhost"), "client"],
      ["SQLite", sqlite, "database"],
      ["Postgres", new pg.Pool(), "pool"],
      ["MySQL", callbacks, "pool"],
      ["MySQL", promises, "pool"],
      ["KyselyStore", new Kysely({ dialect }), "db"],
      ["KyselyStore", dialect, "dialect"],
    ];
    for (const [name, given, option] of cases) {
      const found = `an object of class ${given.constructor.name}; pass it as { ${option} }`;
      refuses(name, given, `options must be a plain object, but this is ${found}`);
      if (name === "KyselyStore") continue;
      const message = `option "config" must be a plain object, but is ${found}`;
      refuses(name, { config: given }, message);
    }
    await promises.end();
    callbacks.end();
    sqlite.close();
  });

  it("for a promise, the error says to await it first", () => {
    const options: Record<string, string> = {
      Redis: "client",
      Mongo: "client",
      SQLite: "database",
      Postgres: "pool",
      MySQL: "pool",
      KyselyStore: "db",
      DenoKV: "kv",
    };
    for (const name of Object.keys(factories)) {
      const promise = Promise.resolve();
      const message = "options must be a plain object, but this is a promise; await it first";
      refuses(name, promise, message);
      const option = options[name];
      if (option === undefined) continue;
      const { message: refused } = errorOf(() => factories[name]!({ [option]: promise }));
      assert.match(refused, /^\w+: option "\w+" must be an? .*, but is a promise; await it first$/);
    }
  });

  it("plain objects of any realm are accepted as options", async () => {
    for (const [name, factory] of Object.entries(factories)) {
      const other = Object.assign(runInNewContext("({ config: {} })"), least[name]);
      if (/^(Memory|KyselyStore|DenoKV)$/.test(name)) delete other.config;
      for (const options of [other, Object.assign(Object.create(null), least[name])]) {
        await factory(options).close();
      }
    }
  });

  it("for a value that is not an object, the error names the type and not the content", () => {
    const plain = "options must be a plain object, but this is";
    for (const name of Object.keys(factories)) {
      const option = { SQLite: "filename" }[name] ?? "url";
      const takes = name !== "Memory" && name !== "KyselyStore";
      const hint = takes ? `; pass it as { ${option} }` : "";
      refuses(name, "redis://:s3cret@localhost", `${plain} a string${hint}`);
      const url = new URL("redis://:s3cret@localhost");
      refuses(name, url, `${plain} an object of class URL${hint}`);
      refuses(name, null, `${plain} null`);
      refuses(name, [{}], `${plain} an array`);
      refuses(name, () => {}, `${plain} a function`);
      refuses(name, class {}, `${plain} a class`);
      refuses(name, 5, `${plain} a number`);
    }
  });

  it("for a secret of the wrong type, the error names the type and not the content", () => {
    const cases: [unknown, string][] = [
      [12345, "a number"],
      [12345n, "a bigint"],
      [["s3cret"], "an array"],
      [{ s3cret: 1 }, "an object"],
      [new URL("mysql://:s3cret@localhost"), "an object of class URL"],
      [true, "a boolean"],
      [Symbol("s3cret"), "a symbol"],
      [null, "null"],
    ];
    for (const [value, shown] of cases) {
      const message = `option "password" must be a string, but is ${shown}`;
      const hint = value instanceof URL ? "; pass it as { url }" : "";
      refuses("MySQL", { password: value }, message + hint);
    }
  });

  it("a factory without options works, or its error names the missing option", async () => {
    for (const [name, factory] of Object.entries(factories)) {
      if (name in least) {
        assert.throws(() => factory(), /option ("\w+", )?"\w+" or "\w+" is (needed|missing)/);
      } else await factory().close();
    }
  });

  it("for an unknown option, the error suggests the nearest one", () => {
    const meant: [name: string, given: string, option: string][] = [
      ["Redis", "uri", "url"],
      ["Redis", "connectionString", "url"],
      ["Redis", "keyPrefix", "prefix"],
      ["Redis", "prefx", "prefix"],
      ["Redis", "redis", "client"],
      ["Mongo", "uri", "url"],
      ["Mongo", "connection_string", "url"],
      ["Mongo", "db", "database"],
      ["Mongo", "dbName", "database"],
      ["Mongo", "collectionName", "collection"],
      ["SQLite", "file", "filename"],
      ["SQLite", "path", "filename"],
      ["SQLite", "fileName", "filename"],
      ["SQLite", "db", "database"],
      ["Postgres", "uri", "url"],
      ["Postgres", "connectionString", "url"],
      ["Postgres", "username", "user"],
      ["Postgres", "client", "pool"],
      ["Postgres", "tabel", "table"],
      ["MySQL", "uri", "url"],
      ["MySQL", "username", "user"],
      ["MySQL", "pasword", "password"],
      ["KyselyStore", "database", "db"],
      ["KyselyStore", "kysely", "db"],
      ["DenoKV", "filename", "path"],
      ["DenoKV", "uri", "url"],
      ["DenoKV", "database", "kv"],
      ["Memory", "tiemout", "timeout"],
      ["Memory", "TTL", "ttl"],
    ];
    for (const [name, given, option] of meant) {
      refuses(name, { [given]: "x" }, `unknown option "${given}"; did you mean "${option}"?`);
    }
  });

  it("for an option of the driver, the error says to put it into config", () => {
    const drivers: [name: string, given: string][] = [
      ["Redis", "socket"],
      ["Redis", "host"],
      ["Mongo", "maxPoolSize"],
      ["SQLite", "readonly"],
      ["Postgres", "ssl"],
      ["Postgres", "max"],
      ["MySQL", "ssl"],
      ["MySQL", "connectionLimit"],
    ];
    for (const [name, given] of drivers) {
      const { message } = errorOf(() => factories[name]!({ [given]: 1 }));
      const start = `${name}: unknown option "${given}"; the options are `;
      assert.ok(message.startsWith(start), message);
      assert.match(message, /; put options of the driver into "config"$/);
    }
    for (const name of ["Memory", "KyselyStore"]) {
      assert.doesNotMatch(errorOf(() => factories[name]!({ ssl: 1 })).message, /config/);
    }
  });

  it("a client of ioredis that reads from replicas is refused", async () => {
    const expected =
      'option "client" must read from the primary, because replicas may be behind: ' +
      "set its ";
    const cases: [scaleReads: unknown, shown: string][] = [
      ["slave", '"slave"'],
      ["all", '"all"'],
      [() => [], "a function"],
    ];
    for (const [scaleReads, shown] of cases) {
      const options = { lazyConnect: true, scaleReads: scaleReads as "all" };
      const client = new ioredis.Cluster([], options);
      refuses("Redis", { client }, `${expected}scaleReads to "master", but it is ${shown}`);
      client.disconnect();
    }
    const client = new ioredis.Redis({ lazyConnect: true, role: "slave" });
    refuses("Redis", { client }, `${expected}role to "master", but it is "slave"`);
    client.disconnect();
    for (const scaleReads of ["master", undefined] as const) {
      const client = new ioredis.Cluster([], { lazyConnect: true, scaleReads });
      await Redis({ client }).close();
      client.disconnect();
    }
  });

  it("a factory that was not called throws an error when it is used", () => {
    for (const [name, factory] of Object.entries(factories)) {
      const message = `${name} must be called: write session({ store: ${name}({ … }) })`;
      // deno-lint-ignore no-explicit-any
      const store = factory as any;
      for (const use of [() => store.get("k"), () => store.set("k", 1), () => store.delete("k")]) {
        assert.throws(use, { name: "TypeError", message });
      }
    }
  });

  it("a port may be a string of digits", async () => {
    for (const name of ["Postgres", "MySQL"]) {
      for (const port of [5432, "5432", "1", "65535"]) await factories[name]!({ port }).close();
      const options: unknown[] = ["", "0", "65536", "5432 ", "0x10", "1e3", "54.32", -1, 1.5];
      for (const port of options) {
        assert.throws(() => factories[name]!({ port }), {
          name: "RangeError",
          message: `${name}: option "port" must be an integer from 1 to 65535, but is ${
            JSON.stringify(port)
          }`,
        });
      }
    }
  });

  it("for a missing driver, the error says how to install it", () => {
    const advice = "or pass a client of ioredis as { client }";
    const expected = "Cannot find package 'redis': npm install redis, " + advice;
    const messages = [
      "Cannot find package 'redis' imported from /bot/redis.js", // Node.js, Bun
      "Cannot find module 'redis'\nRequire stack:\n- /bot/redis.js", // Node.js, webpack
      'Import "redis" not a dependency', // Deno
      "Cannot require module redis", // Bun's bundles
      'Dynamic require of "redis" is not supported', // esbuild's
      "require is not defined", // Rollup's
    ];
    for (const message of messages) {
      const cause = new Error(message);
      const error = missing(cause, "redis", advice) as Error & { code: string };
      assert.equal(error.message, expected);
      assert.equal(error.code, "ERR_MODULE_NOT_FOUND");
      assert.equal(error.cause, cause);
    }
    const others = [
      "Cannot find package '@redis/client' imported from /node_modules/redis/index.js",
      "Cannot find module 'redis-errors' from 'redis'",
      "redis",
    ];
    for (const message of others) {
      const error = new Error(message);
      assert.equal(missing(error, "redis", advice), error);
    }
  });
});

function errorOf(body: () => unknown): Error {
  try {
    body();
  } catch (error) {
    return error as Error;
  }
  throw new assert.AssertionError({ message: "nothing was thrown" });
}

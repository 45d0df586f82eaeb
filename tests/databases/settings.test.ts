/** Tests of connection settings that are given twice or under the driver's own names. */

import assert from "node:assert/strict";
import process from "node:process";
import { describe, it } from "node:test";
import { createConnection } from "mysql2/promise";
import type { PoolOptions } from "mysql2";
import pg from "pg";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { clientOptions as redisSettings } from "../../src/redis/options.ts";
import { poolOptions as mysqlSettings } from "../../src/mysql/options.ts";
import { poolOptions as pgSettings } from "../../src/pg/options.ts";
import { SQLite } from "../../sqlite.ts";
import { withTLS } from "../support/certificate.ts";
import { urlWith } from "../suites/faults.ts";
import { place, serverUrl } from "../support/servers.ts";

// deno-lint-ignore no-explicit-any
const factories: Record<string, (options: any) => unknown> = {
  Redis,
  Mongo,
  SQLite,
  Postgres,
  MySQL,
};

/** The name of the URL option in each driver. */
const names: Record<string, string> = {
  Redis: "url",
  Postgres: "connectionString",
  MySQL: "uri",
};

/** Returns the options that the store passes to node-redis. */
function redisOptions(url: string | undefined, config: object) {
  const { socket, username, password, database } = redisSettings(() => true, url, config) as Record<
    string,
    unknown
  >;
  const { reconnectStrategy: _, socketTimeout: __, ...place } = socket as Record<string, unknown>;
  return JSON.parse(JSON.stringify({ socket: place, username, password, database }));
}

/** Returns the settings that pg derives from options. */
function pgOptions(options: object) {
  const client = new pg.Client(pgSettings(pg.Client, options));
  // deno-lint-ignore no-explicit-any
  const { connectionParameters: read } = client as any;
  const { host, port, database, user, password, ssl, application_name, statement_timeout } = read;
  return { host, port, database, user, password, ssl, application_name, statement_timeout };
}

async function dropPostgres(table: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl("postgres") });
  await client.connect();
  await client.query(`DROP TABLE "${table}"`);
  await client.end();
}

async function dropMySQL(table: string): Promise<void> {
  const connection = await createConnection(serverUrl("mysql"));
  await connection.query(`DROP TABLE \`${table}\``);
  await connection.end();
}

describe("connection settings", () => {
  it("Redis, PostgreSQL and MySQL accept the URL under the driver's own name", async () => {
    const urls = {
      Redis: serverUrl("redis"),
      Postgres: serverUrl("postgres"),
      MySQL: serverUrl("mysql"),
    };
    const name = place();
    await using redis = Redis({ config: { url: urls.Redis }, prefix: `${name}:` });
    const table = { table: name };
    await using postgres = Postgres({ config: { connectionString: urls.Postgres }, ...table });
    await using mysql = MySQL({ config: { uri: urls.MySQL }, ...table });
    await using redisAgain = Redis({ url: urls.Redis, prefix: `${name}:` });
    await using postgresAgain = Postgres({ url: urls.Postgres, ...table });
    await using mysqlAgain = MySQL({ url: urls.MySQL, ...table });
    const pairs = [[redis, redisAgain], [postgres, postgresAgain], [mysql, mysqlAgain]] as const;
    for (const [store, again] of pairs) {
      await store.set("k", 1);
      assert.equal(await again.get("k"), 1);
      await store.clear();
    }
    await dropMySQL(name);
    await dropPostgres(name);
  });

  it("a server or database that is given twice is refused", () => {
    for (const [name, property] of Object.entries(names)) {
      const options = { url: "x://:s3cret@a", config: { [property]: "x://:s3cret@b" } };
      assert.throws(() => factories[name]!(options), {
        name: "TypeError",
        message:
          `${name}: option "url" and config.${property} contradict each other; leave one out`,
      });
      if (name === "Redis") continue;
      assert.throws(() => factories[name]!({ ...options, url: undefined, host: "a" }), {
        name: "TypeError",
        message:
          `${name}: option "host" and config.${property} contradict each other; leave one out`,
      });
    }
    const mongo = { url: "mongodb://localhost", database: "a", config: { dbName: "b" } };
    assert.throws(() => factories.Mongo!(mongo), {
      name: "TypeError",
      message: 'Mongo: option "database" and config.dbName both name the database; leave one out',
    });
  });

  it("a URL in config that is not a string is refused", () => {
    for (const [name, property] of Object.entries(names)) {
      const config = { [property]: new URL("redis://:s3cret@localhost") };
      assert.throws(() => factories[name]!({ config }), {
        name: "TypeError",
        message: `${name}: config.${property} must be a string, but is an object of class URL`,
      });
    }
  });

  it("options that the driver would ignore are refused", () => {
    const ignored: Record<string, Record<string, string>> = {
      Redis: {
        uri: 'option "url"',
        connectionString: 'option "url"',
        host: "config.socket.host",
        port: "config.socket.port",
        path: "config.socket.path",
        tls: "config.socket.tls",
        user: "config.username",
        db: "config.database",
        keyPrefix: 'option "prefix"',
        hostname: "config.socket.host",
        ssl: "config.socket.tls",
        pass: "config.password",
      },
      Mongo: { url: 'option "url"', uri: 'option "url"', host: 'option "url"' },
      SQLite: {
        filename: 'option "filename"',
        path: 'option "filename"',
        readOnly: "config.readonly",
      },
      Postgres: {
        url: 'option "url"',
        uri: 'option "url"',
        username: "config.user",
        sslmode: "config.ssl",
        tls: "config.ssl",
      },
      MySQL: {
        url: 'option "url"',
        connectionString: 'option "url"',
        username: "config.user",
        "ssl-mode": "config.ssl",
        sslmode: "config.ssl",
        tls: "config.ssl",
      },
    };
    for (const [name, properties] of Object.entries(ignored)) {
      for (const [property, instead] of Object.entries(properties)) {
        assert.throws(() => factories[name]!({ config: { [property]: "x" } }), {
          name: "TypeError",
          message: `${name}: config.${property} has no effect; use ${instead}`,
        });
      }
    }
    assert.throws(
      () => factories.Mongo!({ url: "mongodb://localhost", config: { username: "x" } }),
      /^TypeError: Mongo: mongodb refuses these options: option username is not supported/,
    );
  });

  it("parameters of a URL that the driver would ignore are refused", () => {
    const path = "the path of the URL: redis://host/1";
    const redisPlace = "redis://user:password@host:port";
    const tls = "rediss:// and config.socket";
    const mysqlPlace = "mysql://user:password@host:port/database";
    const cases: [name: string, url: string, parameter: string, instead: string][] = [
      ["Redis", "redis://a?db=3", "db", path],
      ["Redis", "redis://a/2?database=3", "database", path],
      ["Redis", "unix:///run/redis.sock?database=3", "database", "the parameter db"],
      ["Redis", "redis://a?password=s3cret", "password", redisPlace],
      ["Redis", "redis://?host=a", "host", redisPlace],
      ["Redis", "redis://a?tls=true", "tls", tls],
      ["Redis", "rediss://a?ssl_cert_reqs=none", "ssl_cert_reqs", tls],
      ["Postgres", "postgres://a/b?ssl-mode=require", "ssl-mode", "sslmode"],
      ["Postgres", "postgres://a/b?tls=true", "tls", "sslmode"],
      ["MySQL", "mysql://a/b?ssl-mode=REQUIRED", "ssl-mode", "config.ssl"],
      ["MySQL", "mysql://a/b?sslmode=require", "sslmode", "config.ssl"],
      ["MySQL", "mysql://a/b?sslaccept=strict", "sslaccept", "config.ssl"],
      ["MySQL", "mysql://a/b?useSSL=true", "useSSL", "config.ssl"],
      ["MySQL", "mysql://a/b?tls=true", "tls", "config.ssl"],
      ["MySQL", "mysql://a/b?user=u", "user", mysqlPlace],
      ["MySQL", "mysql://a?database=b", "database", mysqlPlace],
    ];
    for (const [name, url, parameter, instead] of cases) {
      const own = { [names[name]!]: url };
      for (const options of [{ url }, { config: own }]) {
        assert.throws(() => factories[name]!(options), {
          name: "TypeError",
          message: `${name}: parameter "${parameter}" of the URL has no effect; use ${instead}`,
        });
      }
    }
  });

  it("parameters of a URL that set neither the server nor the security are accepted", async () => {
    // URLs of Upstash and Railway have a family, and the URL of a socket has only the parameter db.
    await using _1 = Redis({ url: "redis://localhost?family=0" });
    await using _2 = Redis({ url: "unix:///run/redis.sock?db=3" });
    await using _3 = MySQL({ url: "mysql://localhost/bot?ssl={}&charset=utf8mb4" });
  });

  it("Redis prefers config to the URL", () => {
    const url = "rediss://user:p%40ss@localhost:1234/5";
    const socket = { host: "localhost", port: 1234, tls: true };
    const all = { socket, username: "user", password: "p@ss", database: 5 };
    assert.deepEqual(redisOptions(url, {}), all);
    assert.deepEqual(redisOptions(url, { username: undefined, socket: { host: undefined } }), all);
    assert.deepEqual(
      redisOptions(url, { username: "other", password: "", database: 0 }),
      { ...all, username: "other", password: "", database: 0 },
    );
    assert.deepEqual(
      redisOptions(url, { socket: { host: "b", port: 1, tls: false } }),
      { ...all, socket: { host: "b", port: 1, tls: false } },
    );
    assert.deepEqual(redisOptions("redis://[::1]", {}), { socket: { host: "::1" } });
    assert.deepEqual(redisOptions("unix://:p%40@/run/re%20dis.sock?db=3", {}), {
      socket: { path: "/run/re dis.sock" },
      password: "p@",
      database: 3,
    });
    assert.deepEqual(redisOptions("unix:///run/redis.sock", { socket: { host: "b" } }), {
      socket: { host: "b" },
    });
    assert.deepEqual(redisOptions(undefined, { socket: { port: 1 } }), { socket: { port: 1 } });
  });

  it("PostgreSQL prefers config to the URL", () => {
    const url = "postgres://user:p%40ss@db.example:1234/bot" +
      "?sslmode=require&application_name=one&statement_timeout=5";
    const all = {
      host: "db.example",
      port: 1234,
      database: "bot",
      user: "user",
      password: "p@ss",
      ssl: {},
      application_name: "one",
      statement_timeout: "5",
    };
    assert.deepEqual(pgOptions({ url }), all);
    assert.deepEqual(pgOptions({ config: { connectionString: url, ssl: undefined } }), all);
    const config = {
      host: "other",
      port: 1,
      database: "d",
      user: "u",
      password: "p",
      ssl: { rejectUnauthorized: false },
      application_name: "two",
      statement_timeout: 6,
    };
    assert.deepEqual(pgOptions({ url, config }), config);
    assert.deepEqual(pgOptions({ url, config: { ssl: false } }), { ...all, ssl: false });
    // Without a name, the database has the name of the user.
    const { database, host } = pgOptions({ url: "postgres://a@/", config: { user: "b" } });
    assert.deepEqual([database, host], [
      process.env.PGDATABASE ?? "b",
      process.env.PGHOST ?? "localhost",
    ]);
    assert.equal(pgOptions({ url: "postgres://a@b/a", config: { user: "b" } }).database, "a");
    const own = pgOptions({ host: "a", port: "5", config: { host: "b" } });
    assert.deepEqual([own.host, own.port], ["b", 5]);
  });

  it("MySQL prefers config to the URL", () => {
    const url = "mysql://user:p%40ss@[::1]:1234/bot" +
      '?ssl={"rejectUnauthorized":true}&connectTimeout=5&charset=latin1&multipleStatements=true';
    const all = {
      host: "::1",
      port: 1234,
      database: "bot",
      user: "user",
      password: "p@ss",
      ssl: { rejectUnauthorized: true },
      connectTimeout: 5,
      charset: "latin1",
      multipleStatements: true,
    };
    const options = (options: object) => mysqlSettings(options) as PoolOptions;
    assert.deepEqual(options({ url }), all);
    assert.deepEqual(options({ config: { uri: url, ssl: undefined } }), all);
    const config = {
      host: "other",
      port: 1,
      database: "",
      user: "u",
      password: "",
      ssl: { rejectUnauthorized: false },
      connectTimeout: 6,
      charset: "utf8mb4",
      multipleStatements: false,
    };
    assert.deepEqual(options({ url, config }), config);
    assert.equal(options({ url: "mysql://a/b" }).port, undefined);
    const own = options({ host: "a", port: "5", config: { host: "b" } });
    assert.deepEqual([own.host, own.port], ["b", 5]);
  });

  it("PostgreSQL accepts a certificate that config.ssl trusts, with sslmode in the URL", async () => {
    const url = serverUrl("postgres");
    await using secured = await withTLS(url, true);
    const at = urlWith(url, { host: secured.host, search: "sslmode=require" });
    const table = place();
    await using strict = Postgres({ url: at, table });
    await assert.rejects(strict.get("k"), /certificate|self.signed|UnknownIssuer/i);
    await using store = Postgres({
      url: at,
      table,
      config: { ssl: { rejectUnauthorized: false } },
    });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    await dropPostgres(table);
  });

  it("Redis accepts a certificate that config.socket trusts", async () => {
    const url = serverUrl("redis");
    await using secured = await withTLS(url);
    const at = urlWith(url, { host: secured.host });
    const prefix = `${place()}:`;
    for (const [protocol, tls] of [["rediss:", undefined], ["redis:", true]] as const) {
      // `tls` alone turns on TLS for a redis:// URL.
      const socket = { tls, rejectUnauthorized: false } as { tls: true };
      await using store = Redis({
        url: at.replace("redis:", protocol),
        prefix,
        config: { socket },
      });
      await store.set("k", 1);
      assert.equal(await store.get("k"), 1);
      await store.delete("k");
    }
  });

  it("MongoDB prefers config to the URL", async () => {
    const url = serverUrl("mongodb");
    await using secured = await withTLS(url);
    const at = urlWith(url, {
      host: secured.host,
      search: "tls=true&tlsAllowInvalidCertificates=false",
    });
    const config = { tlsAllowInvalidCertificates: true };
    await using store = Mongo({ url: at, collection: place(), config, timeout: 60_000 });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    await store.clear();
    const message = /^Mongo: mongodb refuses .* All values of tls\/ssl must be the same/;
    assert.throws(() => Mongo({ url: at, config: { tls: false } }), { name: "TypeError", message });
  });
});

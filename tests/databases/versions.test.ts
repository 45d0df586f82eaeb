/** Servers that are too old. They are not to be had, so their answers are scripted. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe, it } from "node:test";
import { BSON } from "mongodb";
import { Kysely, PostgresDialect } from "kysely";
import { KyselyStore } from "../../kysely.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { requireVersion } from "../../src/mysql/dialect.ts";
import { explained, transient } from "../../src/redis/errors.ts";
import { urlWith } from "../suites/faults.ts";
import { Proxy } from "../support/proxy.ts";
import { serverUrl } from "../support/servers.ts";

/** Answers a statement with rows, or throws the server's error. */
type Answer = (text: string) => unknown[][];

function answered(answer: Answer, text: string, callback: (...result: unknown[]) => void): void {
  let rows: unknown[][] | undefined;
  let failure: unknown;
  try {
    rows = answer(text);
  } catch (error) {
    failure = error;
  }
  setTimeout(() => callback(failure ?? null, rows));
}

function refusal(code: string, message: string): never {
  throw Object.assign(new Error(message), { code });
}

const statements: string[] = [];

/** A pool of `pg` on a scripted server. */
function pgPool(answer: Answer) {
  const client = {
    // The store passes an object and a callback; Kysely passes text and values.
    query(query: { text: string } | string, second: unknown) {
      const text = typeof query === "string" ? query : query.text;
      statements.push(text);
      if (typeof second === "function") {
        return answered(
          answer,
          text,
          (error, rows) => (second as (...result: unknown[]) => void)(error, { rows }),
        );
      }
      return new Promise((resolve, reject) =>
        answered(
          answer,
          text,
          (error, rows) =>
            error ? reject(error) : resolve({
              command: "SELECT",
              rows: (rows as unknown[][]).map((it) => ({ ...it })),
            }),
        )
      );
    },
    on() {},
    release() {},
  };
  return {
    totalCount: 1,
    connect(callback?: (error: null, it: typeof client) => void) {
      if (callback === undefined) return Promise.resolve(client);
      setTimeout(() => callback(null, client));
      return undefined;
    },
    on() {},
    end: () => Promise.resolve(),
  };
}

function oldPostgres(version: string, isRefused: RegExp, code: string): Answer {
  return (text) => {
    if (isRefused.test(text)) refusal(code, "something does not exist");
    if (text.startsWith("SHOW server_version")) return [[version]];
    if (text.includes("client_encoding")) return [[null, "false", "public", "UTF8"]];
    if (text.includes("'telegraf'")) return [["telegraf", 1]];
    return [];
  };
}

describe("old servers", () => {
  const postgres: [version: string, refused: RegExp, code: string][] = [
    ["10.23 (Debian 10.23-1)", /indnkeyatts/, "42703"],
    ["9.6.24", /indnkeyatts/, "42703"],
    ["9.3.25", /to_regclass/, "42883"],
  ];
  for (const [version, refused, code] of postgres) {
    const message =
      `Cannot open the store: the store needs PostgreSQL 11 or newer, but the server is PostgreSQL ` +
      `${version}: something does not exist`;

    it(`PostgreSQL ${version} is named as too old`, async () => {
      statements.length = 0;
      const pool = pgPool(oldPostgres(version, refused, code));
      await using store = Postgres({ pool });
      await assert.rejects(store.ready(), { name: "StoreError", message });
      assert.equal(statements.filter((text) => text.startsWith("SHOW")).length, 1);
      assert.equal(statements.filter((text) => refused.test(text)).length, 1);
    });

    it(`Kysely names PostgreSQL ${version} as too old`, async () => {
      const pool = pgPool(oldPostgres(version, refused, code));
      const db = new Kysely({ dialect: new PostgresDialect({ pool: pool as never }) });
      await using store = KyselyStore({ db });
      await assert.rejects(store.ready(), { name: "StoreError", message });
    });
  }

  it("PostgreSQL: an error of a newer server is reported as it is", async () => {
    const pool = pgPool(oldPostgres("18.1", /indnkeyatts/, "42703"));
    await using store = Postgres({ pool });
    const message = "Cannot open the store: something does not exist";
    await assert.rejects(store.ready(), { name: "StoreError", message });
  });

  it("MySQL 5.5 is named as too old for leases", async () => {
    const run = (query: { sql: string }, callback: (...result: unknown[]) => void) =>
      answered(
        (text) => {
          if (text.includes("@@character_set_results")) return [["utf8mb4", 1e6, "5.5.62-log"]];
          if (text.includes("DATABASE()")) return [["test", 1, 0]];
          if (text.includes("information_schema.COLUMNS")) {
            return [["key", "varbinary(512)", 1], ["session", "longtext utf8mb4", 0], [
              "expires",
              "bigint",
              0,
            ]];
          }
          return [];
        },
        query.sql,
        callback,
      );
    const connection = { execute: run, query: run, on() {}, release() {}, destroy() {} };
    const pool = {
      getConnection: (callback: (error: null, it: typeof connection) => void) =>
        setTimeout(() => callback(null, connection)),
      execute() {},
      promise() {},
      on() {},
    };
    await using store = MySQL({ pool });
    assert.equal(await store.get("k"), undefined);
    await assert.rejects(store.update("k", () => 1), {
      message: /the lease of a session needs MySQL 5\.6 or newer, but the server is MySQL 5\.5\.62/,
    });
    assert.equal(await store.get("k"), undefined);
  });

  it("MySQL: the numbers of MariaDB and others are not taken for those of MySQL", () => {
    const settings = { charset: "utf8mb4", maxAllowedPacket: 1e6, returning: false };
    const check = (version: string) => requireVersion({ ...settings, version }, "the store");
    for (const version of ["5.1.73", "5.5.62-log"]) {
      assert.throws(() => check(version), { message: /^the store needs MySQL 5\.6 or newer, / });
    }
    const others = [
      "5.6.51",
      "5.7.44",
      "8.0.11-TiDB-v8",
      "9.7.4",
      "5.5.68-MariaDB",
      "10.11.6-MariaDB",
    ];
    for (const version of [...others, "8.0.mysql_aurora.3.04.0", "unknown"]) check(version);
  });

  it("Redis 4 is named as too old for leases", () => {
    const error = new Error(
      "ERR Error running script (call to f_1): @user_script:4: @user_script: 4: " +
        "Write commands not allowed after non deterministic commands.",
    );
    const { message } = explained(error, false) as Error;
    assert.match(
      message,
      /^the lease of a session needs Redis 5 or newer, and this server is older/,
    );
    assert.equal(transient(explained(error, false)), false);
  });

  it("Redis: MOVED is temporary only in a cluster", () => {
    for (const text of ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381"]) {
      assert.equal(transient(explained(new Error(text), true)), true);
      assert.equal(transient(explained(new Error(text), false)), false);
    }
    assert.equal(transient(explained(new Error("CROSSSLOT Keys in request"), true)), false);
  });

  it("MongoDB 3.4 is named as too old", async () => {
    await using proxy = await Proxy.to(serverUrl("mongodb"));
    proxy.answer = (request) => {
      const hello = {
        ok: 1,
        ismaster: true,
        isWritablePrimary: true,
        minWireVersion: 0,
        maxWireVersion: 5,
        maxBsonObjectSize: 16777216,
        maxMessageSizeBytes: 48000000,
        maxWriteBatchSize: 1000,
      };
      const body = BSON.serialize(hello);
      const isQuery = request.readInt32LE(12) === 2004;
      const head = Buffer.alloc(isQuery ? 36 : 21);
      head.writeInt32LE(head.length + body.length, 0);
      request.copy(head, 8, 4, 8);
      head.writeInt32LE(isQuery ? 1 : 2013, 12);
      if (isQuery) head.writeInt32LE(1, 32);
      return Buffer.concat([head, body]);
    };
    await using store = Mongo({
      url: urlWith(serverUrl("mongodb"), { host: proxy.host }),
      timeout: 60_000,
    });
    await assert.rejects(store.ready(), {
      name: "StoreError",
      message: /wire version 5.*requires at least \d+ \(MongoDB \d/,
    });
  });
});

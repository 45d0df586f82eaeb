/**
 * Failovers of PostgreSQL and MariaDB or MySQL behind a proxy: the former primary becomes read-only and
 * keeps its connections, new connections go to the new primary.
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import * as kysely from "kysely";
import { createConnection, createPool } from "mysql2/promise";
import pg from "pg";
import { type Servers, startServers } from "../../scripts/servers/index.ts";
import { KyselyStore } from "../../kysely.ts";
import type { Store, StoreOptions } from "../../mod.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { isReadOnly } from "../../src/mysql/errors.ts";
import { urlWith } from "../suites/faults.ts";
import { Proxy } from "../support/proxy.ts";
import { until } from "../support/until.ts";

/** A pool that the application shares with a store. */
interface Shared {
  // deno-lint-ignore no-explicit-any
  readonly store: Store<any>;
  /** Takes a connection from the pool. Returns the function that gives it back. */
  take(): Promise<() => unknown>;
  close(): Promise<void>;
}

interface Options extends StoreOptions {
  /** The most connections. */
  max?: number;
}

interface Harness {
  readonly name: string;
  readonly backend: "postgres" | "mysql";
  /** Prepares a server, and returns the URL for stores. */
  prepare?(url: string): Promise<string>;
  /** Makes the server read-only for the user of the URL, or lets it take writes again. */
  refuseWrites(url: string, refuse: boolean): Promise<void>;
  share(url: string, options: Options): Shared;
  /** A store with its own pool. */
  // deno-lint-ignore no-explicit-any
  own?(url: string, options: Options): Store<any>;
  /** Why the store cannot discard a connection. */
  readonly keepsConnections?: string;
  /** Whether the server reports that it is read-only with the result of a read. */
  readonly reports?: boolean;
}

const table = "failover";

/** Lets an application have several connections, and then gives them all back. */
async function fill({ take }: Shared, count: number): Promise<void> {
  const back = await Promise.all(Array.from({ length: count }, take));
  back.forEach((give) => give());
}

function failover({ name, backend, keepsConnections, ...harness }: Harness): void {
  describe(name, () => {
    let servers: Servers<Harness["backend"]>[];
    /** The URLs of the former primary and of the new one. */
    let urls: [string, string];
    let proxy: Proxy;

    before(async () => {
      const start = () => startServers({ backends: [backend], own: true });
      servers = await Promise.all([start(), start()]);
      const [a, b] = servers.map((it) => it.servers[backend].url) as [string, string];
      const prepare = harness.prepare ?? ((url) => Promise.resolve(url));
      urls = [await prepare(a), await prepare(b)];
    });
    after(() => Promise.all(servers.map((it) => it.stop())));

    /** Runs a test on a proxy to the first server. Both servers have the sessions of the first one. */
    const test = (title: string, body: (url: string) => Promise<void>, skip?: string) =>
      it(`${name} ${title}`, { skip }, async () => {
        for (const url of urls) {
          await harness.refuseWrites(url, false);
          const shared = harness.share(url, { timeout: 60_000 });
          await shared.store.clear();
          await Promise.all(["k", "other"].map((key) => shared.store.set(key, 1)));
          await shared.close();
        }
        proxy = await Proxy.to(urls[0]);
        try {
          await body(urlWith(urls[0], { host: proxy.host }));
        } finally {
          await proxy[Symbol.asyncDispose]();
        }
      });

    const demote = () => harness.refuseWrites(urls[0], true);
    const promote = () => {
      proxy.target = urls[1];
    };

    test("reads nothing from a former primary after a failover", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await fill(shared, 2);
        const giveBack = await shared.take();
        await demote();
        promote();
        await shared.store.set("k", 2);
        await giveBack();
        assert.deepEqual(await shared.store.get("k"), 2);
        await fill(shared, 3);
        assert.deepEqual(await shared.store.get("k"), 2);
        await shared.store.update("k", (n) => n + 1);
        assert.deepEqual(await shared.store.get("k"), 3);
      } finally {
        await shared.close();
      }
    }, keepsConnections);

    if (harness.reports) {
      test("notices a failover before a write fails", async (url) => {
        const shared = harness.share(url, { timeout: 60_000 });
        try {
          await shared.store.set("k", 1);
          const giveBack = await shared.take(); // the only connection to the former primary
          await demote();
          promote();
          await shared.store.set("k", 2);
          await giveBack();
          assert.deepEqual(await shared.store.get("k"), 2);
        } finally {
          await shared.close();
        }
      });
    }

    test("needs one retry, however many connections the pool has", async (url) => {
      const shared = harness.share(url, { max: 20, timeout: 60_000 });
      try {
        await shared.store.ready();
        await fill(shared, 20);
        await demote();
        promote();
        let writes = 0;
        proxy.change = (request) => {
          if (request.includes("INSERT")) writes++;
        };
        await shared.store.set("k", 2);
        assert.equal(writes, 2);
        assert.deepEqual(await shared.store.get("k"), 2);
      } finally {
        await shared.close();
      }
    }, keepsConnections);

    test("reads nothing from a former primary to which the proxy still connects", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await shared.store.set("k", 1);
        await demote();
        let refused = 0;
        proxy.change = (request) => {
          if (request.includes("INSERT")) refused++;
        };
        const writing = shared.store.set("k", 2);
        await until(() => refused > 1);
        const giveBack = await shared.take(); // to the former primary, after the failover was noticed
        assert.deepEqual(await shared.store.get("other"), 1);
        promote();
        await writing;
        await giveBack();
        assert.deepEqual(await shared.store.get("k"), 2);
      } finally {
        await shared.close();
      }
    }, keepsConnections);

    test("follows a second failover back to the first server", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await shared.store.set("k", 1);
        await demote();
        promote();
        await shared.store.set("k", 2);
        await fill(shared, 2);
        const giveBack = await shared.take();
        await harness.refuseWrites(urls[1], true);
        await harness.refuseWrites(urls[0], false);
        proxy.target = urls[0];
        await shared.store.set("k", 3);
        await giveBack();
        assert.deepEqual(await shared.store.get("k"), 3);
      } finally {
        await shared.close();
      }
    }, keepsConnections);

    test("says that the server is read-only, and still reads from it", async (url) => {
      const shared = harness.share(url, { timeout: 1_000 });
      try {
        await until(() => shared.store.ready().then(() => true));
        await demote();
        await until(async () => {
          await assert.rejects(shared.store.set("k", 2), {
            name: "TimeoutError",
            message: /the server is read-only: is it a replica, or a former primary\?/,
          });
          return true;
        });
        assert.ok(proxy.connections < 40, `${proxy.connections} connections`);
        assert.deepEqual(await shared.store.get("k"), 1);
        await harness.refuseWrites(urls[0], false);
        await until(() => shared.store.set("k", 2).then(() => true));
        assert.deepEqual(await shared.store.get("k"), 2);
      } finally {
        await shared.close();
      }
    });

    if (harness.own === undefined) return;
    test("survives a failover with its own pool", async (url) => {
      const store = harness.own!(url, { max: 5, timeout: 60_000 });
      try {
        const all = Array.from({ length: 50 }, (_, i) => `${i}`);
        const write = (n: number) => Promise.all(all.map((key) => store.set(key, n)));
        await write(1);
        await demote();
        const writing = write(2);
        promote();
        await writing;
        assert.deepEqual(await Promise.all(all.map((key) => store.get(key))), all.map(() => 2));
      } finally {
        await store.close();
      }
    });
  });
}

async function runPostgres(url: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

async function refusePostgres(url: string, refuse: boolean): Promise<void> {
  await runPostgres(
    url,
    `ALTER SYSTEM SET default_transaction_read_only = ${refuse ? "on" : "off"}`,
    "SELECT pg_reload_conf()",
  );
  await until(async () => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const { rows: [row] } = await client.query("SHOW transaction_read_only");
    await client.end();
    return row.transaction_read_only === (refuse ? "on" : "off");
  });
}

function postgresPool(url: string, max = 10): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max });
  pool.on("error", () => {});
  pool.on("connect", (client: pg.PoolClient) => client.on("error", () => {}));
  return pool;
}

async function takePostgres(pool: pg.Pool): Promise<() => void> {
  const client = await pool.connect();
  return () => client.release();
}

failover({
  name: "PostgreSQL",
  backend: "postgres",
  refuseWrites: refusePostgres,
  reports: true,
  share(url, { max, ...options }) {
    const pool = postgresPool(url, max);
    const store = Postgres({ pool, table, ...options });
    return {
      store,
      take: () => takePostgres(pool),
      close: () => store.close().then(() => pool.end()),
    };
  },
  own: (url, { max, ...options }) => Postgres({ url, table, config: { max }, ...options }),
});

const administrator = (url: string) => urlWith(url, { username: "test" });

async function runMySQL(uri: string, ...statements: string[]): Promise<void> {
  const connection = await createConnection({ uri });
  try {
    for (const statement of statements) await connection.query(statement);
  } finally {
    connection.destroy();
  }
}

const mysql = {
  backend: "mysql",
  async prepare(url: string): Promise<string> {
    await runMySQL(url, "CREATE USER bot@'%' IDENTIFIED BY 's3cret'");
    await runMySQL(url, "GRANT ALL ON test.* TO bot@'%'");
    return urlWith(url, { username: "bot" });
  },
  refuseWrites: (url: string, refuse: boolean) =>
    runMySQL(administrator(url), `SET GLOBAL read_only = ${refuse ? 1 : 0}`),
} as const;

failover({
  name: "MySQL",
  ...mysql,
  share(url, { max: connectionLimit = 10, ...options }) {
    const pool = createPool({ uri: url, connectionLimit });
    const store = MySQL({ pool, table, ...options });
    return {
      store,
      async take() {
        const connection = await pool.getConnection();
        return () => connection.release();
      },
      close: () => store.close().then(() => pool.end()),
    };
  },
  own: (url, { max, ...options }) =>
    MySQL({ url, table, config: { connectionLimit: max }, ...options }),
});

it("MySQL: only errors of a read-only server are taken for a failover", () => {
  const failovers: [code: string, message: string, expected: boolean][] = [
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --read-only option", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --super-read-only option", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "läuft mit der Option --read-only", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --secure-file-priv option", false],
    ["ER_READ_ONLY_MODE", "Running in read-only mode", true],
    ["ER_SERVER_OFFLINE_MODE", "The server is currently in offline mode", true],
    ["ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION", "in a READ ONLY transaction", false],
    ["ER_LOCK_DEADLOCK", "Deadlock found", false],
  ];
  for (const [code, message, expected] of failovers) {
    assert.equal(isReadOnly(Object.assign(new Error(message), { code })), expected, message);
  }
});

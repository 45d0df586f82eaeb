/**
 * Failovers of PostgreSQL and MariaDB or MySQL behind a proxy: the former primary becomes read-only and
 * keeps its connections, new connections go to the new primary. And reads of MongoDB, which must not go
 * to a secondary. `redis.failover.test.ts` has those of Redis.
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Kysely, MysqlDialect, PostgresDialect } from "kysely";
import { createPool as createCallbackPool } from "mysql2";
import { createConnection, createPool } from "mysql2/promise";
import pg from "pg";
import { type Servers, startServers } from "../../scripts/servers/index.ts";
import { KyselyStore } from "../../kysely.ts";
import type { Store, StoreOptions } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { collectionOf } from "../../src/mongodb/client.ts";
import { isReadOnly } from "../../src/mysql/errors.ts";
import { Failovers } from "../../src/sql/failover.ts";
import { urlWith } from "../suites/faults.ts";
import { Cleanup } from "../support/cleanup.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";

/** A pool that the application shares with a store. */
interface Shared {
  // deno-lint-ignore no-explicit-any
  readonly store: Store<any>;
  /** Takes a connection from the pool. */
  take(): Promise<Taken>;
  close(): Promise<void>;
}

interface Taken {
  giveBack(): unknown;
  /** Ends it by the server. */
  end?(server: string): Promise<unknown>;
}

interface Options extends StoreOptions {
  /** The most connections. */
  max?: number;
  table?: string;
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
  /** Whether the store cannot discard a connection, so that the test has the server end it. */
  readonly keepsConnections?: boolean;
  /** The oldest version whose server reports that it is read-only with the result of a read. */
  readonly reports?: number;
}

const table = "failover";

/** Lets an application have several connections, and then gives them all back. */
async function fill({ take }: Shared, count: number): Promise<void> {
  const taken = await Promise.all(Array.from({ length: count }, take));
  taken.forEach((connection) => connection.giveBack());
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
    const test = (title: string, body: (url: string) => Promise<void>, oldest = 0) =>
      it(`${name} ${title}`, async (context) => {
        if (Number.parseInt(servers[0]!.servers[backend].version) < oldest) {
          return context.skip(`${name} does so from version ${oldest}`);
        }
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

    /** Counts the requests with a text. */
    const count = (text: string) => {
      let count = 0;
      proxy.change = (request) => {
        if (request.includes(text)) count++;
      };
      return () => count;
    };

    test("reads nothing from a former primary after a failover", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await shared.store.ready();
        const [held, idle] = [await shared.take(), await shared.take()];
        await idle.giveBack();
        await demote();
        promote();
        const writes = count("INSERT");
        const writing = shared.store.set("k", 2);
        if (keepsConnections) {
          await until(() => writes() > 0);
          await idle.end?.(urls[0]);
        }
        await writing;
        await held.giveBack();
        const questions = count("read_only");
        const reading = shared.store.get("k");
        if (keepsConnections) {
          await until(() => questions() > 1);
          await held.end?.(urls[0]);
        }
        assert.deepEqual(await reading, 2);
        await fill(shared, 3);
        assert.deepEqual(await shared.store.get("k"), 2);
        await shared.store.update("k", (n) => n + 1);
        assert.deepEqual(await shared.store.get("k"), 3);
      } finally {
        await shared.close();
      }
    });

    if (harness.reports) {
      test("notices a failover before a write fails", async (url) => {
        const shared = harness.share(url, { timeout: 60_000 });
        try {
          await shared.store.set("k", 1);
          const held = await shared.take(); // the only connection to the former primary
          await demote();
          promote();
          await shared.store.set("k", 2);
          await held.giveBack();
          assert.deepEqual(await shared.store.get("k"), 2);
        } finally {
          await shared.close();
        }
      }, harness.reports);
    }

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

    test("says at opening that the server is read-only", async () => {
      await demote();
      // Without the table, which the store would create.
      const shared = harness.share(urls[0], { timeout: 500, table: "missing" });
      try {
        await until(async () => {
          await assert.rejects(shared.store.ready(), {
            name: "TimeoutError",
            message: /^Cannot open the store: .*; the server is read-only: is it a replica, or/,
          });
          return true;
        });
      } finally {
        await shared.close();
      }
    });

    if (keepsConnections) return;
    test("reads nothing from a former primary to which the proxy still connects", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await shared.store.set("k", 1);
        await demote();
        const writes = count("INSERT");
        const writing = shared.store.set("k", 2);
        await until(() => writes() > 1);
        const held = await shared.take(); // to the former primary, after the failover was noticed
        assert.deepEqual(await shared.store.get("other"), 1);
        promote();
        await writing;
        await held.giveBack();
        assert.deepEqual(await shared.store.get("k"), 2);
      } finally {
        await shared.close();
      }
    });

    test("follows a second failover back to the first server", async (url) => {
      const shared = harness.share(url, { timeout: 60_000 });
      try {
        await shared.store.set("k", 1);
        await demote();
        promote();
        await shared.store.set("k", 2);
        await fill(shared, 2);
        const held = await shared.take();
        await harness.refuseWrites(urls[1], true);
        await harness.refuseWrites(urls[0], false);
        proxy.target = urls[0];
        await shared.store.set("k", 3);
        await held.giveBack();
        assert.deepEqual(await shared.store.get("k"), 3);
      } finally {
        await shared.close();
      }
    });

    if (harness.own === undefined) return;
    test("needs one retry, however many connections the pool has", async (url) => {
      const shared = harness.share(url, { max: 20, timeout: 60_000 });
      try {
        await shared.store.ready();
        await fill(shared, 20);
        await demote();
        promote();
        const writes = count("INSERT");
        await shared.store.set("k", 2);
        assert.equal(writes(), 2);
        assert.deepEqual(await shared.store.get("k"), 2);
      } finally {
        await shared.close();
      }
    });

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

async function takePostgres(pool: pg.Pool): Promise<Taken> {
  const client = await pool.connect();
  const { processID } = client as unknown as { processID: number };
  return {
    giveBack: () => client.release(),
    end: (server) => runPostgres(server, `SELECT pg_terminate_backend(${processID})`),
  };
}

failover({
  name: "PostgreSQL",
  backend: "postgres",
  refuseWrites: refusePostgres,
  reports: 14,
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
        return { giveBack: () => connection.release() };
      },
      close: () => store.close().then(() => pool.end()),
    };
  },
  own: (url, { max, ...options }) =>
    MySQL({ url, table, config: { connectionLimit: max }, ...options }),
});

failover({
  name: "Kysely with MySQL",
  ...mysql,
  share(url, { max: connectionLimit = 10, ...options }) {
    const pool = createCallbackPool({ uri: url, connectionLimit });
    const db = new Kysely({ dialect: new MysqlDialect({ pool }) });
    const store = KyselyStore({ db, table, ...options });
    return {
      store,
      async take() {
        const connection = await pool.promise().getConnection();
        return { giveBack: () => connection.release() };
      },
      close: () => store.close().then(() => db.destroy()),
    };
  },
});

failover({
  name: "Kysely with PostgreSQL",
  backend: "postgres",
  refuseWrites: refusePostgres,
  share(url, { max, ...options }) {
    const pool = postgresPool(url, max);
    const db = new Kysely({ dialect: new PostgresDialect({ pool }) });
    const store = KyselyStore({ db, table, ...options });
    return {
      store,
      take: () => takePostgres(pool),
      close: () => store.close().then(() => db.destroy()),
    };
  },
  keepsConnections: true,
});

describe("MongoDB", () => {
  for (const version of ["5", "6", "7"]) {
    it(`MongoDB reads from the primary, also with a client of driver ${version} for secondaries`, async () => {
      await using cleanup = new Cleanup();
      const { MongoClient } = requireVersion("mongodb", version);
      const client = new MongoClient(serverUrl("mongodb"), {
        readPreference: "secondary",
        readConcernLevel: "majority",
        directConnection: false,
        monitorCommands: true,
      });
      cleanup.of(client, (client) => client.close());
      // A single server has no secondaries, so the driver adds no preference to its commands.
      const { readPreference, readConcern } = collectionOf(client, "test", place()) as unknown as {
        readPreference: { mode: string };
        readConcern: { level: string };
      };
      assert.deepEqual([readPreference.mode, readConcern.level], ["primary", "local"]);
      const concerns: unknown[] = [];
      client.on("commandStarted", ({ commandName, command }: Started) => {
        if (/^(find|aggregate)$/.test(commandName)) concerns.push(command.readConcern?.level);
      });
      const [store] = cleanup.stores(Mongo({ client, collection: place() }));
      await store!.set("k", 1);
      assert.equal(await store!.get("k"), 1);
      assert.deepEqual(await Promise.all(["k", "other"].map((key) => store!.get(key))), [
        1,
        undefined,
      ]);
      assert.ok(concerns.length > 1);
      assert.deepEqual(concerns.filter((level) => level !== "local"), []);
    });
  }
});

interface Started {
  readonly commandName: string;
  readonly command: { readonly readConcern?: { readonly level: string } };
}

it("MySQL: only errors of a read-only server are taken for a failover", () => {
  const failovers: [code: string, message: string, expected: boolean][] = [
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --read-only option", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --super-read-only option", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "läuft mit der Option --read-only", true],
    ["ER_OPTION_PREVENTS_STATEMENT", "running with the --secure-file-priv option", false],
    ["ER_READ_ONLY_MODE", "Running in read-only mode", true],
    ["ER_SERVER_OFFLINE_MODE", "The server is currently in offline mode", true],
    ["ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION", "in a READ ONLY transaction", false],
    ["ER_RUN_HOOK_ERROR", "Error on observer while running replication hook", true],
    ["ER_LOCK_DEADLOCK", "Deadlock found", false],
  ];
  for (const [code, message, expected] of failovers) {
    assert.equal(isReadOnly(Object.assign(new Error(message), { code })), expected, message);
  }
});

it("MySQL: a server that has refused a write is not believed for a while", async () => {
  const failovers = Failovers.of<object>({});
  const [first, second, third] = [{}, {}, {}];
  /** A member that is leaving its group says that it takes writes. */
  const says = (server: string) => () => Promise.resolve({ writable: true, server });
  failovers.note();
  assert.equal(await failovers.check(first, says("leaving")), true);
  failovers.note(first);
  assert.equal(failovers.isTrusted(first), false);
  // No other server is known, so none can have newer sessions.
  assert.equal(await failovers.check(second, says("leaving")), true);
  assert.equal(failovers.isTrusted(second), false);
  assert.equal(await failovers.check(third, says("new")), true);
  assert.equal(failovers.isTrusted(third), true);
  assert.equal(await failovers.check(second, says("leaving")), false);
});

/** Tests of MySQL and MariaDB under faults. */

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { it } from "node:test";
import { createConnection, createPool } from "mysql2/promise";
import { MySQL } from "../../mysql.ts";
import { backendOf } from "../../src/store/factory.ts";
import { cert, key } from "../support/certificate.ts";
import { type FaultHarness, faults, ownServer, patiently, urlWith } from "../suites/faults.ts";
import { leaseFaults } from "../suites/leaseFaults.ts";
import { place, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";

/** Runs a statement on a direct connection, without the store. */
async function rows(uri: string, sql: string, ...values: unknown[]): Promise<unknown[][]> {
  const connection = await createConnection({ uri, rowsAsArray: true });
  try {
    return (await connection.query(sql, values))[0] as unknown as unknown[][];
  } finally {
    connection.destroy();
  }
}

/** The URL of a user with all rights, whom `read_only` does not restrict. */
const admin = (url: string) => urlWith(url, { username: "test" });

const harness: FaultHarness = {
  name: "MySQL",
  backend: ["mysql", "MySQL"],
  async start() {
    const server = await ownServer("mysql");
    await rows(server.url, "CREATE USER bot@'%' IDENTIFIED BY 's3cret'");
    await rows(server.url, "GRANT ALL ON test.* TO bot@'%'");
    // Inherits from the server, because a copy would keep the process id of the first start.
    return Object.create(server, { url: { value: urlWith(server.url, { username: "bot" }) } });
  },
  options: (url, table) => ({ url, table }) as object,
  store: (options) => MySQL(options),
  durable: true,
  async peek(url, table, key) {
    const [row] = await rows(url, `SELECT session FROM \`${table}\` WHERE \`key\` = ?`, key);
    return row && JSON.parse(String(row[0]));
  },
  broken: {
    "a wrong password": {
      options: (url) => ({ url: urlWith(url, { username: "late", password: "s3cret-late" }) }),
      error: /Access denied/,
      repair: async (url) => {
        await rows(admin(url), "CREATE USER late@'%' IDENTIFIED BY 's3cret-late'");
        await rows(admin(url), "GRANT ALL ON test.* TO late@'%'");
      },
    },
    "a missing database": {
      options: (url) => ({ url: urlWith(admin(url), { pathname: "/later" }) }),
      error: /Unknown database/,
      repair: (url) => rows(admin(url), "CREATE DATABASE later"),
    },
    "a host that does not exist": {
      options: (url) => ({ url: urlWith(url, { host: "nowhere.invalid" }) }),
      error: /ENOTFOUND|EAI_AGAIN|timed out/,
    },
    "a server whose TLS cannot be trusted": {
      options: (url) => ({ url, config: { ssl: {} } }),
      error: /does not support secure connection|certificate/,
    },
    "a server of another kind": {
      options: () => ({ url: urlWith(serverUrl("redis"), { protocol: "mysql:" }) }),
      error: /./,
    },
  },
  async disconnect(url) {
    const ids = await rows(
      admin(url),
      "SELECT id FROM information_schema.processlist WHERE user <> 'system user'",
    );
    for (const [id] of ids) await rows(admin(url), "KILL ?", id).catch(() => {}); // may have ended
  },
  async refuseWrites(url, _proxy, refuse) {
    await rows(admin(url), `SET GLOBAL read_only = ${refuse ? 1 : 0}`);
  },
  async exhaust({ url }, { place: table, timeout }) {
    const pool = createPool({ uri: url, connectionLimit: 2 });
    const store = MySQL({ pool, table, timeout });
    await patiently(() => store.set("k", 0));
    const connections = [await pool.getConnection(), await pool.getConnection()];
    return {
      store,
      release: () => Promise.resolve(connections.forEach((connection) => connection.release())),
      close: () => pool.end(),
    };
  },
  /** MySQL starts TLS in the middle of the handshake, so this restarts the server with TLS. */
  async secure(server) {
    if (server.pid === undefined) return undefined;
    const folder = mkdtempSync(join(tmpdir(), "telegraf-session-tls-"));
    writeFileSync(join(folder, "key.pem"), key);
    writeFileSync(join(folder, "cert.pem"), cert);
    const line = execFileSync("ps", ["-o", "args=", "-p", `${server.pid}`], { encoding: "utf8" });
    const [command, ...args] = line.trim().split(" ");
    await server.kill();
    const own = [`--ssl-cert=${join(folder, "cert.pem")}`, `--ssl-key=${join(folder, "key.pem")}`];
    const child = spawn(command!, [...args, ...own], { stdio: "ignore" });
    await until(async () => (await rows(server.url, "SELECT 1")).length === 1, 60_000);
    return {
      options: (table, ssl) => ({
        url: urlWith(server.url, { search: 'ssl={"rejectUnauthorized":true}' }),
        table,
        config: { ssl },
      }),
      async [Symbol.asyncDispose]() {
        child.kill("SIGKILL");
        await once(child, "exit");
        await server.start();
        rmSync(folder, { recursive: true });
      },
    };
  },
};

faults(harness);

leaseFaults({
  name: "MySQL",
  url: serverUrl("mysql"),
  store: (url, table, options, cleanup) => cleanup.stores(MySQL({ url, table, ...options }))[0]!,
  backend: (url, table) => backendOf(MySQL, { url, table }),
  /** Only MariaDB returns rows that it inserts or changes. */
  async roundTrips() {
    const [[version] = []] = await rows(serverUrl("mysql"), "SELECT VERSION()");
    return `${version}`.includes("MariaDB") ? 2 : 3;
  },
  drop: (table) => rows(serverUrl("mysql"), `DROP TABLE IF EXISTS \`${table}\``),
});

it("MySQL does not reject a write that is the victim of a deadlock", async () => {
  const url = serverUrl("mysql");
  const table = place();
  const [a, b] = [0, 1].map(() => createConnection({ uri: url, rowsAsArray: true }));
  const [other, watcher] = [await a!, await b!];
  const deadlocks = async () => {
    const [[[, count] = []]] = await watcher.query(
      "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'",
    ) as unknown as [[string, string][]];
    if (count !== undefined) return Number(count);
    // MySQL does not have this status variable.
    const [[[metric]]] = await watcher.query(
      "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'",
    ) as unknown as [[[number]]];
    return Number(metric);
  };
  await using store = MySQL({ url, table, timeout: 60_000 });
  try {
    await Promise.all(["a", "b"].map((key) => store.set(key, 0)));
    await Promise.all(Array.from({ length: 100 }, (_, i) => store.set(`more-${i}`, 0)));
    const before = await deadlocks();
    const set = (key: string) =>
      other.query(`UPDATE \`${table}\` SET session = '9' WHERE \`key\` = ?`, [key]);
    await other.query("BEGIN");
    // The transaction with the most changes is not the victim.
    await other.query(`UPDATE \`${table}\` SET session = '9' WHERE \`key\` LIKE 'more-%'`);
    await set("b");
    const writes = Promise.all(["a", "b"].map((key) => store.set(key, 1)));
    await until(async () => {
      const [[[waiting]]] = await watcher.query(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE time > 0 AND info LIKE ?",
        [`INSERT INTO%${table}%`],
      ) as unknown as [[[number]]];
      return Number(waiting) > 0;
    });
    await set("a");
    await until(async () => await deadlocks() > before);
    await other.query("COMMIT");
    await writes;
    assert.deepEqual([await store.get("a"), await store.get("b")], [1, 1]);
    assert.equal(await store.get("more-0"), 9);
  } finally {
    other.destroy(); // before statements that would wait for its locks
    watcher.destroy();
    await rows(url, `DROP TABLE \`${table}\``);
  }
});

it("MySQL rejects immediately if the table does not allow a session", async () => {
  const url = serverUrl("mysql");
  const table = place();
  await using store = MySQL({ url, table });
  await store.set("k", { a: 1 });
  await rows(url, `ALTER TABLE \`${table}\` ADD CHECK (session NOT LIKE '%bad%')`);
  try {
    await assert.rejects(store.set("k", "bad"), { name: "StoreError", message: /constraint/i });
    assert.deepEqual(await store.get("k"), { a: 1 });
  } finally {
    await rows(url, `DROP TABLE \`${table}\``);
  }
});

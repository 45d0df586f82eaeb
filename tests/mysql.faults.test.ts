/** What MySQL and MariaDB survive. */

import { createConnection, createPool } from "mysql2/promise";
import { MySQL } from "../mysql.ts";
import { type FaultHarness, faults, ownServer, patiently, urlWith } from "./faults.ts";
import { serverUrl } from "./servers.ts";

/** Works past the store. */
async function rows(uri: string, sql: string, ...values: unknown[]): Promise<unknown[][]> {
  const connection = await createConnection({ uri, rowsAsArray: true });
  try {
    return (await connection.query(sql, values))[0] as unknown as unknown[][];
  } finally {
    connection.destroy();
  }
}

/** The URL of one who may do everything; the others obey `read_only`. */
const admin = (url: string) => urlWith(url, { username: "test" });

const harness: FaultHarness = {
  name: "MySQL",
  backend: ["mysql", "MySQL"],
  async start() {
    const server = await ownServer("mysql");
    await rows(server.url, "CREATE USER bot@'%' IDENTIFIED BY 's3cret'");
    await rows(server.url, "GRANT ALL ON test.* TO bot@'%'");
    return { ...server, url: urlWith(server.url, { username: "bot" }) };
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
      error: /ENOTFOUND|EAI_AGAIN|no success/,
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
    for (const [id] of ids) await rows(admin(url), "KILL ?", id).catch(() => {}); // it has gone
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
};

faults(harness);

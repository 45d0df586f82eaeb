/** MySQL Group Replication, three nodes behind HAProxy: the primary is killed, or leaves the group. */

import { randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe } from "node:test";
import process from "node:process";
import type { StoreOptions } from "../../mod.ts";
import { MySQL } from "../../mysql.ts";
import { freePort } from "../../scripts/servers/launch.ts";
import { mysql } from "../../scripts/servers/mysql.ts";
import { run } from "../../scripts/servers/process.ts";
import { password, type Scope, type Server, username } from "../../scripts/servers/recipe.ts";
import type { Cleanup } from "../support/cleanup.ts";
import { kill, scopeOf, startServer, unpacked } from "../support/engines.ts";
import { startHAProxy } from "../support/haproxy.ts";
import { query, watchedPool } from "../support/mysql.ts";
import { until } from "../support/until.ts";
import { failover, type Running, type See, type Session } from "../suites/failover.ts";

/** The program of MySQL, because MariaDB has no Group Replication. */
async function mysqld(scope: Scope): Promise<string> {
  const own = process.env.TEST_MYSQL_PROGRAM;
  if (own && !(await run(own, ["--version"])).includes("MariaDB")) return own;
  const root = await unpacked(scope, "mysql", {
    suite: "sid",
    packages: ["mysql-server-core"],
    programs: ["usr/sbin/mysqld"],
  });
  return join(root, "usr/sbin/mysqld");
}

const role = "SELECT member_role, member_state FROM performance_schema.replication_group_members " +
  "WHERE member_id = @@server_uuid";

async function roleOf(server: Server): Promise<string> {
  const [row = []] = await query(server, role);
  return row.join(" ");
}

async function isPrimary(server: Server): Promise<boolean> {
  return await roleOf(server) === "PRIMARY ONLINE";
}

const joinGroup = `START GROUP_REPLICATION USER='${username}', PASSWORD='${password}'`;

/** Starts a group of three nodes. The first is its primary. */
async function startGroup(cleanup: Cleanup): Promise<Server[]> {
  const scope = scopeOf(cleanup);
  const command = await mysqld(scope);
  const ports = [await freePort(), await freePort(), await freePort()];
  const settings = (port: number) => ({
    "server-id": port,
    "gtid-mode": "ON",
    "enforce-gtid-consistency": "ON",
    "plugin-dir": join(command, "../../lib/mysql/plugin"),
    "plugin-load-add": "group_replication.so",
    "innodb-buffer-pool-size": "32M",
    "report-host": "127.0.0.1",
    "group-replication-group-name": name,
    "group-replication-start-on-boot": "OFF",
    "group-replication-local-address": `127.0.0.1:${port}`,
    "group-replication-group-seeds": ports.map((port) => `127.0.0.1:${port}`).join(),
    "group-replication-ip-allowlist": "127.0.0.1/8",
    "group-replication-recovery-get-public-key": "ON",
    "group-replication-member-expel-timeout": 0,
  });
  const name = randomUUID();
  const servers = await Promise.all(
    ports.map((port) =>
      startServer(scope, mysql, (line, folder) => {
        // Each node makes the account by itself, which must not count as a change of the group.
        const init = join(folder, "init.sql");
        writeFileSync(init, `SET sql_log_bin = 0;\n${readFileSync(init, "utf8")}`);
        const flags = Object.entries(settings(port)).map(([name, value]) => `--${name}=${value}`);
        return [...line, ...flags];
      }, command)
    ),
  );
  const [first, ...others] = servers as [Server, ...Server[]];
  const bootstrap = (value: string) => `SET GLOBAL group_replication_bootstrap_group = ${value}`;
  await query(first, bootstrap("ON"), joinGroup, bootstrap("OFF"));
  await until(() => isPrimary(first));
  for (const other of others) {
    await query(other, joinGroup);
    await until(async () => await roleOf(other) === "SECONDARY ONLINE");
  }
  return servers;
}

interface Fault {
  readonly fault: string;
  /** Whether HAProxy leaves connections to the old primary open. */
  readonly keeps?: boolean;
  cause(servers: Server[]): Promise<unknown>;
}

/** Waits until one of the nodes is the primary. */
const elected = (servers: Server[]) =>
  until(async () => {
    const primaries = await Promise.all(servers.map((it) => isPrimary(it).catch(() => false)));
    return primaries.includes(true);
  });

async function leave([first, ...others]: Server[]): Promise<void> {
  await query(first!, "STOP GROUP_REPLICATION");
  await elected(others);
  await query(first!, joinGroup);
  await until(async () => await roleOf(first!) === "SECONDARY ONLINE");
}

const faults: Fault[] = [
  {
    fault: "the primary is killed",
    async cause([first, ...others]) {
      await kill(first!);
      await elected(others);
    },
  },
  { fault: "the primary leaves the group and comes back", cause: leave },
  {
    fault: "the primary leaves the group and comes back, old connections stay open",
    keeps: true,
    cause: leave,
  },
  {
    fault: "another member becomes the primary",
    keeps: true,
    async cause([first, second]) {
      const [[id] = []] = await query(second!, "SELECT @@server_uuid");
      await query(first!, `SELECT group_replication_set_as_primary('${id}')`);
      await elected([second!]);
    },
  },
];

describe("MySQL in a failover", () => {
  async function start(cleanup: Cleanup, fault: Fault, passed: boolean): Promise<Running> {
    const servers = await startGroup(cleanup);
    const behind = servers.map((server) => ({
      url: server.url,
      isPrimary: () => isPrimary(server),
    }));
    const port = await startHAProxy(cleanup, behind, fault);
    const url = Object.assign(new URL(servers[0]!.url), { port }).href;
    const store = (options: StoreOptions, see?: See) => {
      if (!passed || !see) return MySQL<Session>({ url, ...options });
      const pool = watchedPool(url, see);
      cleanup.of(pool, () => pool.end());
      return MySQL<Session>({ pool, ...options });
    };
    return {
      engine: `${servers[0]!.product} ${servers[0]!.version}`,
      stores: (options, see) => [store(options, see)],
      fault: () => fault.cause(servers),
      fresh: store,
    };
  }

  for (const fault of faults) {
    for (const [exclusive, passed] of [[false, true], [true, true], [false, false]] as const) {
      failover({
        name: `MySQL Group Replication, ${passed ? "pool passed in" : "own pool"}`,
        fault: fault.fault,
        exclusive,
        start: (cleanup) => start(cleanup, fault, passed),
      });
    }
  }
});

/** PostgreSQL with a synchronous standby, behind HAProxy: a crash of the primary, and a switch-over. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe } from "node:test";
import { Postgres } from "../../pg.ts";
import { run } from "../../scripts/servers/process.ts";
import { postgres } from "../../scripts/servers/postgres.ts";
import { password, type Server, username } from "../../scripts/servers/recipe.ts";
import type { StoreOptions } from "../../mod.ts";
import type { Cleanup } from "../support/cleanup.ts";
import { kill, scopeOf, startServer } from "../support/engines.ts";
import { startHAProxy } from "../support/haproxy.ts";
import { rows, watchedPool } from "../support/pg.ts";
import { until } from "../support/until.ts";
import { failover, type Running, type See, type Session } from "../suites/failover.ts";

const flags = (settings: Record<string, string>) =>
  Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);

const small = flags({ shared_buffers: "16MB", max_wal_senders: "4", wal_level: "replica" });

/** Runs a query; returns the first value of its first row. */
async function query({ url }: Server, text: string): Promise<unknown> {
  return (await rows(url, text))[0]?.[0];
}

/** Starts a primary and its synchronous standby. */
async function startPair(cleanup: Cleanup): Promise<{ primary: Server; standby: Server }> {
  const scope = scopeOf(cleanup);
  let data = "";
  const primary = await startServer(scope, postgres, (command, folder) => {
    data = join(folder, "data");
    return [...command, ...small];
  });
  // The copy of a stopped server needs no pg_basebackup, which not every package has.
  await primary.stop();
  const port = new URL(primary.url).port;
  const source = `host=127.0.0.1 port=${port} user=${username} password=${password}`;
  const standby = await startServer(scope, postgres, async (command, folder) => {
    const copy = join(folder, "data");
    await run("rm", ["-rf", copy]);
    await run("cp", ["-a", data, copy]);
    writeFileSync(join(copy, "standby.signal"), "");
    return [...command, ...small, ...flags({ primary_conninfo: source, hot_standby: "on" })];
  });
  await primary.start();
  await query(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'");
  await query(primary, "SELECT pg_reload_conf()");
  await until(async () =>
    await query(primary, "SELECT sync_state FROM pg_stat_replication") === "sync"
  );
  return { primary, standby };
}

/** Makes a server read-only and waits until its standby has all its changes. */
async function retire(primary: Server, standby: Server): Promise<void> {
  await query(primary, "ALTER SYSTEM SET default_transaction_read_only = on");
  await query(primary, "SELECT pg_reload_conf()");
  await until(async () => await query(primary, "SHOW default_transaction_read_only") === "on");
  const end = await query(primary, "SELECT pg_current_wal_lsn()");
  await until(async () =>
    await query(standby, `SELECT pg_last_wal_replay_lsn() >= '${end}'`) === true
  );
}

interface Fault {
  readonly fault: string;
  /** Whether HAProxy leaves connections to the old primary open. */
  readonly keeps?: boolean;
  readonly cause: (primary: Server, standby: Server) => Promise<unknown>;
}

const faults: Fault[] = [
  { fault: "the primary is killed", cause: (primary) => kill(primary) },
  { fault: "switch-over", cause: retire },
  { fault: "switch-over, old connections stay open", keeps: true, cause: retire },
];

describe("PostgreSQL in a failover", () => {
  async function start(
    cleanup: Cleanup,
    { cause, keeps }: Fault,
    passed: boolean,
  ): Promise<Running> {
    const { primary, standby } = await startPair(cleanup);
    let leader = primary;
    const servers = [primary, standby].map((server) => ({
      url: server.url,
      isPrimary: async () => server === leader && await query(server, "SELECT true") === true,
    }));
    const port = await startHAProxy(cleanup, servers, { keeps });
    const url = Object.assign(new URL(primary.url), { port }).href;
    const store = (options: StoreOptions, see?: See) => {
      if (!passed || !see) return Postgres<Session>({ url, ...options });
      const pool = watchedPool(url, see);
      cleanup.of(pool, () => pool.end());
      return Postgres<Session>({ pool, ...options });
    };
    return {
      engine: `${primary.product} ${primary.version}`,
      stores: (options, see) => [store(options, see)],
      async fault() {
        await cause(primary, standby);
        await query(standby, "SELECT pg_promote()");
        await until(async () => await query(standby, "SELECT pg_is_in_recovery()") === false);
        leader = standby;
      },
      fresh: store,
    };
  }

  for (const fault of faults) {
    for (const [exclusive, passed] of [[false, true], [true, true], [false, false]] as const) {
      failover({
        name: `PostgreSQL with a synchronous standby, ${passed ? "pool passed in" : "own pool"}`,
        fault: fault.fault,
        exclusive,
        start: (cleanup) => start(cleanup, fault, passed),
      });
    }
  }
});

/** Galera, three nodes of MariaDB, and writes on all of them. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import process from "node:process";
import type { Store, StoreOptions } from "../../mod.ts";
import { MySQL } from "../../mysql.ts";
import { freePort } from "../../scripts/servers/launch.ts";
import { mysql } from "../../scripts/servers/mysql.ts";
import { run } from "../../scripts/servers/process.ts";
import type { Server } from "../../scripts/servers/recipe.ts";
import { Cleanup } from "../support/cleanup.ts";
import { scopeOf, startServer, unpacked } from "../support/engines.ts";
import { query, watchedPool } from "../support/mysql.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { failover, type Running, type See, type Session } from "../suites/failover.ts";

async function status(server: Server, name: string): Promise<unknown> {
  return (await query(server, `SHOW STATUS LIKE 'wsrep_${name}'`))[0]?.[1];
}

/** Waits until all nodes take writes. */
const complete = (nodes: Server[]) =>
  until(async () => {
    const states = await Promise.all(
      nodes.map((node) => Promise.all([status(node, "ready"), status(node, "cluster_size")])),
    );
    return states.every((state) => state.join() === `ON,${nodes.length}`);
  });

/**
 * Joins a node that begins with a copy of the first one, so that only the latest changes are sent to it. The
 * programs of MariaDB, which can send everything, need more packages.
 */
const stateTransfer = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    --role) role=$2 ;;
    --address) address=$2 ;;
    --gtid) gtid=$2 ;;
    --datadir) data=$2 ;;
    --bypass) bypass=yes ;;
  esac
  shift
done
cat > /dev/null # the server fails if it cannot write
if [ "$role" = joiner ]; then
  mkdir -p "$data/begun"
  rm -f "$data/begun/gtid"
  echo "ready 127.0.0.1:4444/$data/begun"
  until [ -f "$data/begun/gtid" ]; do sleep 0.1; done
  cat "$data/begun/gtid"
elif [ "$bypass" = yes ]; then
  folder=/\${address#*/}
  echo "$gtid" > "$folder/new"
  mv "$folder/new" "$folder/gtid"
  echo "done $gtid"
else
  exit 1
fi
`;

/** Starts a cluster of three nodes. */
async function startCluster(cleanup: Cleanup): Promise<Server[]> {
  const scope = scopeOf(cleanup);
  const programs = ["usr/sbin/mariadbd", "usr/bin/my_print_defaults"];
  const packages = ["mariadb-server-core", "mariadb-client-core", "galera-4"];
  const root = await unpacked(scope, "galera", { packages, programs });
  const ports = [await freePort(), await freePort(), await freePort()];
  const name = place(); // at most 32 bytes
  let data = "";
  const start = async (port: number) => {
    const provider = {
      "gmcast.listen_addr": `tcp://127.0.0.1:${port}`,
      "ist.recv_addr": `127.0.0.1:${await freePort()}`,
      "gcache.size": "64M",
    };
    const others = port === ports[0] ? [] : ports.map((port) => `127.0.0.1:${port}`);
    const settings = {
      "wsrep-on": "ON",
      "plugin-wsrep-provider": "OFF", // or its options cannot be changed
      "wsrep-provider": join(root, "usr/lib/galera/libgalera_smm.so"),
      "wsrep-provider-options": Object.entries(provider).map((it) => it.join("=")).join(";"),
      "wsrep-cluster-name": name,
      "wsrep-cluster-address": `gcomm://${others.join()}`,
      "wsrep-node-address": "127.0.0.1",
      "wsrep-sst-method": "begun",
      "binlog-format": "ROW",
      "innodb-autoinc-lock-mode": 2,
      "innodb-buffer-pool-size": "32M",
      "innodb-flush-log-at-trx-commit": 0,
    };
    return startServer(scope, mysql, async (line, folder) => {
      // Each node makes the account by itself.
      const init = join(folder, "init.sql");
      writeFileSync(init, `SET wsrep_on = OFF;\n${readFileSync(init, "utf8")}`);
      const own = join(folder, "data");
      if (data === "") data = own;
      else {
        await run("rm", ["-r", own]);
        await run("cp", ["-a", `${data}.copy`, own]);
      }
      const program = join(folder, "wsrep_sst_begun");
      writeFileSync(program, stateTransfer, { mode: 0o755 });
      const path = `PATH=${folder}:${process.env.PATH}`;
      return [
        "env",
        path,
        ...line,
        ...Object.entries(settings).map(([name, value]) => `--${name}=${value}`),
      ];
    }, join(root, "usr/sbin/mariadbd"));
  };
  const first = await start(ports[0]!);
  const nodes = [first];
  await complete(nodes);
  await first.stop();
  await run("cp", ["-a", data, `${data}.copy`]);
  await run("rm", [`${data}.copy/galera.cache`]);
  await first.start();
  for (const port of ports.slice(1)) {
    nodes.push(await start(port));
    await complete(nodes);
  }
  return nodes;
}

/** Takes a node out of the cluster, or lets it back in. */
const isolate = (node: Server, isolated: boolean) =>
  query(node, `SET GLOBAL wsrep_provider_options = 'gmcast.isolate=${Number(isolated)}'`);

interface Fault {
  readonly fault: string;
  cause(nodes: Server[]): Promise<unknown>;
}

const faults: Fault[] = [
  {
    fault: "a node is not primary for a time",
    async cause(nodes) {
      await isolate(nodes[1]!, true);
      await until(async () => await status(nodes[1]!, "cluster_status") === "non-Primary");
      await until(async () => await status(nodes[0]!, "cluster_size") === "2");
      await isolate(nodes[1]!, false);
      await complete(nodes);
    },
  },
  {
    fault: "a node is restarted",
    async cause(nodes) {
      await nodes[2]!.stop();
      await nodes[2]!.start();
      await complete(nodes);
    },
  },
];

describe("MySQL on Galera", () => {
  const cleanup = new Cleanup();
  let nodes: Server[];
  before(async () => {
    try {
      nodes = await startCluster(cleanup);
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      throw error;
    }
  });
  after(() => cleanup[Symbol.asyncDispose]());

  const start = (cleanup: Cleanup, fault: Fault): Running => {
    const table = place();
    return {
      engine: `${nodes[0]!.product} ${nodes[0]!.version}`,
      stores: (options: StoreOptions, see: See) =>
        nodes.map(({ url }) => {
          const pool = watchedPool(url, see);
          cleanup.of(pool, () => pool.end());
          return MySQL<Session>({ pool, table, ...options });
        }),
      fault: () => fault.cause(nodes),
      fresh: (options) => MySQL<Session>({ url: nodes[0]!.url, table, ...options }),
    };
  };

  for (const fault of faults) {
    for (const alternating of [false, true]) {
      failover({
        name: `MySQL on Galera, each chat on ${alternating ? "all nodes in turn" : "one node"}`,
        fault: fault.fault,
        alternating,
        exclusive: alternating,
        start: (cleanup) => Promise.resolve(start(cleanup, fault)),
      });
    }
  }

  const all = (table: string, options: StoreOptions = {}) =>
    nodes.map(({ url }) => MySQL<number>({ url, table, timeout: 120_000, ...options }));

  it("MySQL on Galera upgrades an old table on three nodes at the same time", async () => {
    for (let round = 0; round < 5; round++) {
      const table = place();
      const values = Array.from({ length: 200 }, (_, i) => `('${i % 150}', '${i}')`);
      await query(
        nodes[0]!,
        `CREATE TABLE \`${table}\` (\`key\` varchar(32), session text)`,
        `INSERT INTO \`${table}\` VALUES ${values.join()}`,
      );
      await using cleanup = new Cleanup();
      const stores = cleanup.stores(...all(table));
      await Promise.all(stores.map((store) => store.ready()));
      await Promise.all(stores.map((store, i) => store.set(`new-${i}`, i)));
      for (const node of nodes) {
        await until(async () => Number((await query(node, count(table)))[0]![0]) === 153);
      }
      // Of duplicates the newest stays.
      assert.deepEqual(await Promise.all(["0", "49", "50"].map((key) => stores[0]!.get(key))), [
        150,
        199,
        50,
      ]);
      await query(nodes[0]!, `DROP TABLE \`${table}\``);
    }
  });

  it("MySQL on Galera creates a table on three nodes at the same time", async () => {
    for (let round = 0; round < 10; round++) {
      const table = place();
      await using cleanup = new Cleanup();
      const stores = cleanup.stores(...all(table));
      await Promise.all(stores.map((store, i) => store.set(`${i}`, i)));
      for (const node of nodes) {
        await until(async () => Number((await query(node, count(table)))[0]![0]) === 3);
      }
      await query(nodes[0]!, `DROP TABLE \`${table}\``);
    }
  });

  it("MySQL on Galera loses no update() of one session on three nodes", async () => {
    const table = place();
    await using cleanup = new Cleanup();
    const stores = cleanup.stores(...all(table));
    await Promise.all(stores.map((store) => store.ready()));
    // One key at a time, so that each node has a single claim in its statement, and they conflict.
    for (let round = 0; round < 300; round++) {
      const add = (store: Store<number>) =>
        store.update(`${round}`, (count = 0) => count + 1, { wait: 120_000 });
      await Promise.all(stores.map(add));
    }
    for (const node of nodes) {
      const sum = `SELECT count(*), min(session), max(session) FROM \`${table}\``;
      await until(async () => `${(await query(node, sum))[0]}` === "300,3,3");
    }
    await query(nodes[0]!, `DROP TABLE \`${table}\``);
  });

  it("MySQL on Galera prunes on three nodes at the same time", async () => {
    const table = place();
    await using cleanup = new Cleanup();
    const stores = cleanup.stores(...all(table, { ttl: 1 }));
    await Promise.all(
      Array.from({ length: 300 }, (_, i) => stores[i % 3]!.set(`${i}`, i)),
    );
    for (const node of nodes) {
      await until(async () => Number((await query(node, count(table)))[0]![0]) === 300);
    }
    await Promise.all(stores.map((store) => store.prune()));
    for (const node of nodes) {
      await until(async () => Number((await query(node, count(table)))[0]![0]) === 0);
    }
    await query(nodes[0]!, `DROP TABLE \`${table}\``);
  });
});

const count = (table: string) => `SELECT count(*) FROM \`${table}\``;

/**
 * Redis or Valkey, the program of `TEST_REDIS_PROGRAM`: failovers by Sentinel and in a cluster, and slots
 * that move, with node-redis and ioredis.
 */

import { describe } from "node:test";
import type { StoreOptions } from "../../mod.ts";
import { Redis } from "../../redis.ts";
import { redis } from "../../scripts/servers/redis.ts";
import type { Cleanup } from "../support/cleanup.ts";
import { requireVersion } from "../support/packages.ts";
import { command, RedisServers } from "../support/redisServers.ts";
import { until } from "../support/until.ts";
import {
  failover,
  type FailoverHarness,
  type Running,
  type Session,
  watch,
} from "../suites/failover.ts";

/** The commands that a store sends. */
const commands = [
  "get",
  "mGet",
  "mget",
  "set",
  "mSet",
  "mset",
  "del",
  "eval",
  "evalSha",
  "evalsha",
];

/** Makes a client that is not connected yet. */
// deno-lint-ignore no-explicit-any
type MakeClient = (port: number, options?: object) => any;

const sentinels: Record<string, MakeClient> = {
  "node-redis 6": (port) =>
    requireVersion("redis", "6").createSentinel({
      name: "main",
      sentinelRootNodes: [{ host: "127.0.0.1", port }],
    }),
  "ioredis 6": (port, options) =>
    new (requireVersion("ioredis", "6").Redis)({
      ...options,
      name: "main",
      sentinels: [{ host: "127.0.0.1", port }],
    }),
};

const clusters: Record<string, MakeClient> = {
  "node-redis 6": (port) =>
    requireVersion("redis", "6").createCluster({
      rootNodes: [{ url: `redis://127.0.0.1:${port}` }],
    }),
  "ioredis 6": (port) =>
    new (requireVersion("ioredis", "6").Cluster)([{ host: "127.0.0.1", port }]),
};

/** Sends a command until the server accepts it. */
function insist(port: number, ...args: string[]): Promise<void> {
  return until(async () => `${await command(port, ...args)}` === "OK");
}

const master = async (sentinel: number) => {
  const address = await command(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main");
  return Number((address as string[])[1]);
};

const info = async (port: number, section: string) => `${await command(port, "INFO", section)}`;

describe("Redis in a failover", () => {
  /**
   * Servers that end with their test. A Sentinel that lived on would make a replica of the next server on the
   * port of a master that was killed, with the data of the earlier test.
   */
  const startServers = (cleanup: Cleanup) =>
    cleanup.of(new RedisServers(), (servers) => servers[Symbol.asyncDispose]());

  /** Stores whose clients begin at a port. */
  async function running(
    make: MakeClient,
    port: number,
    server: number,
    cleanup: Cleanup,
    fault: () => Promise<unknown>,
  ): Promise<Running> {
    const store = (options: StoreOptions, see = (_error: unknown) => {}) => {
      const client = watch(make(port), commands, (error) => {
        // The store then sends the script itself.
        if (!`${error}`.includes("NOSCRIPT")) see(error);
      });
      client.on("error", () => {});
      cleanup.of(client, (it) => it.destroy ? it.destroy() : it.disconnect());
      return Redis<Session>({ client, ...options });
    };
    return {
      engine: (await redis.describe(`redis://127.0.0.1:${server}`)).join(" "),
      stores: (options, see) => [store(options, see)],
      fault,
      fresh: store,
    };
  }

  type Fault = Pick<FailoverHarness, "fault" | "losable"> & {
    args?: string[];
    cause(
      servers: RedisServers,
      own: Awaited<ReturnType<RedisServers["sentinel"]>>,
    ): Promise<unknown>;
  };

  const demotion: Fault["cause"] = async (_servers, own) => {
    await insist(own.sentinel, "SENTINEL", "FAILOVER", "main");
    await until(async () => await master(own.sentinel) === own.replica);
    await until(async () => /role:slave/.test(await info(own.master, "replication")));
  };

  const sentinelFaults: Fault[] = [
    {
      fault: "the master is killed",
      losable: "last",
      async cause(servers, own) {
        await servers.kill(own.master);
        await until(async () => await master(own.sentinel) === own.replica);
      },
    },
    {
      // The old master takes writes until Sentinel demotes it, 10 s after the promotion.
      fault: "SENTINEL FAILOVER demotes the master",
      losable: "during",
      cause: demotion,
    },
    {
      fault: "SENTINEL FAILOVER demotes the master, with min-replicas-to-write 1",
      args: ["--min-replicas-to-write", "1"],
      losable: "last",
      cause: demotion,
    },
  ];

  // Without the option this client stays with the old master until Sentinel demotes it.
  failover({
    name: "Redis behind Sentinel with ioredis 6 and failoverDetector",
    fault: "SENTINEL FAILOVER demotes the master",
    losable: "during",
    async start(cleanup) {
      const servers = startServers(cleanup);
      const group = await servers.sentinel();
      const make: MakeClient = (port) => sentinels["ioredis 6"]!(port, { failoverDetector: true });
      return running(make, group.sentinel, group.master, cleanup, () => demotion(servers, group));
    },
  });

  for (const [client, make] of Object.entries(sentinels)) {
    for (const { cause, args = [], ...fault } of sentinelFaults) {
      for (const exclusive of [false, true]) {
        failover({
          name: `Redis behind Sentinel with ${client}`,
          exclusive,
          ...fault,
          async start(cleanup) {
            const servers = startServers(cleanup);
            const group = await servers.sentinel(...args);
            return running(
              make,
              group.sentinel,
              group.master,
              cleanup,
              () => cause(servers, group),
            );
          },
        });
      }
    }
  }

  type Nodes = Awaited<ReturnType<RedisServers["replicatedCluster"]>>;
  type ClusterFault = Pick<FailoverHarness, "fault" | "losable"> & {
    cause(servers: RedisServers, nodes: Nodes): Promise<unknown>;
  };

  /** Waits until a replica is a master and the nodes agree. */
  async function promoted(replica: number, others: number[]): Promise<void> {
    await until(async () => /role:master/.test(await info(replica, "replication")));
    await until(async () => {
      const states = await Promise.all(others.map((port) => command(port, "CLUSTER", "INFO")));
      return states.every((state) => /cluster_state:ok/.test(`${state}`));
    });
  }

  const clusterFaults: ClusterFault[] = [
    {
      fault: "a master is killed",
      losable: "last",
      async cause(servers, { masters, replicas }) {
        await servers.kill(masters[1]!);
        await promoted(replicas[1]!, [masters[0]!, masters[2]!, ...replicas]);
      },
    },
    {
      fault: "CLUSTER FAILOVER",
      async cause(_servers, { masters, replicas }) {
        await insist(replicas[1]!, "CLUSTER", "FAILOVER");
        await promoted(replicas[1]!, [...masters, ...replicas]);
      },
    },
    {
      fault: "slots are moved",
      cause: (_servers, { masters }) => moveSlots(masters, masters[0]!, masters[1]!),
    },
  ];

  for (const [client, make] of Object.entries(clusters)) {
    for (const { cause, ...fault } of clusterFaults) {
      for (const exclusive of [false, true]) {
        failover({
          name: `Redis Cluster with ${client}`,
          exclusive,
          ...fault,
          async start(cleanup) {
            const servers = startServers(cleanup);
            const nodes = await servers.replicatedCluster();
            const [root] = nodes.masters;
            return running(make, root!, root!, cleanup, () => cause(servers, nodes));
          },
        });
      }
    }
  }
});

/** Moves all slots that have sessions from one master to another, as `redis-cli --cluster reshard` does. */
async function moveSlots(masters: number[], from: number, to: number): Promise<void> {
  const [source, target] = await Promise.all(
    [from, to].map(async (port) => `${await command(port, "CLUSTER", "MYID")}`),
  ) as [string, string];
  for (const slot of await usedSlots(from)) {
    await command(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", source);
    await command(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", target);
    for (;;) {
      const keys = await command(from, "CLUSTER", "GETKEYSINSLOT", slot, "1") as string[];
      if (keys.length === 0) break;
      await command(from, "MIGRATE", "127.0.0.1", `${to}`, keys[0]!, "0", "10000");
    }
    for (const port of [to, from, ...masters]) {
      await insist(port, "CLUSTER", "SETSLOT", slot, "NODE", target);
    }
  }
}

/** The slots of a server's keys. */
async function usedSlots(port: number): Promise<Set<string>> {
  const keys = await command(port, "KEYS", "*") as string[];
  const slots = await Promise.all(keys.map((key) => command(port, "CLUSTER", "KEYSLOT", key)));
  return new Set(slots.map(String));
}

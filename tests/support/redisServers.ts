/** Starts Redis servers for one test file: single servers, a cluster, a sentinel. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createClient } from "redis";
import { freePort } from "../../scripts/servers/launch.ts";
import { until } from "./until.ts";

/** Returns free ports. */
function freePorts(count: number, offset?: number): Promise<number[]> {
  return Promise.all(Array.from({ length: count }, () => freePort(offset)));
}

/** Sends one command. */
export async function command(port: number, ...args: string[]): Promise<unknown> {
  const client = createClient({ url: `redis://127.0.0.1:${port}` });
  client.on("error", () => {});
  await client.connect();
  try {
    return await client.sendCommand(args);
  } finally {
    client.destroy();
  }
}

/**
 * Waits until a replica without data has what its master writes. A replica that is "online" may get its first
 * writes only a second later.
 */
async function follows(replica: number, master: number): Promise<void> {
  let key = "";
  // In a cluster, other masters have most of the slots.
  await until(async () =>
    await command(master, "SET", key = `probe:${Math.random()}`, "") === "OK"
  );
  await until(async () => await command(replica, "DBSIZE") === 1);
  await command(master, "DEL", key);
}

/** Redis servers with their data in one temporary folder. They are stopped and deleted together. */
export class RedisServers implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "telegraf-session-redis-"));
  readonly #processes = new Map<number, ChildProcess>();
  readonly #args = new Map<number, string[]>();

  /** Starts a server; returns its port. */
  async single(...args: string[]): Promise<number> {
    const [port] = await freePorts(1);
    this.#args.set(port!, args);
    await this.restart(port!);
    return port!;
  }

  /** Starts a single server again. */
  async restart(port: number): Promise<void> {
    await this.#start(port, this.#args.get(port)!);
  }

  /** Starts a cluster of three servers; returns their ports. */
  async cluster(...args: string[]): Promise<number[]> {
    const ports = await this.#nodes(3, args);
    const slots = [0, 5461, 10923, 16384];
    for (const [i, port] of ports.entries()) {
      const length = slots[i + 1]! - slots[i]!;
      const own = Array.from({ length }, (_, slot) => String(slots[i]! + slot));
      await command(port, "CLUSTER", "ADDSLOTS", ...own);
      await command(port, "CLUSTER", "SET-CONFIG-EPOCH", String(i + 1));
    }
    await this.#meet(ports);
    return ports;
  }

  /** Starts a cluster of three masters, each with a replica; returns their ports. */
  async replicatedCluster(): Promise<{ masters: number[]; replicas: number[] }> {
    const args = ["--cluster-node-timeout", "1000"];
    const masters = await this.cluster(...args);
    const replicas = await this.#nodes(3, args);
    await this.#meet([masters[0]!, ...replicas], 6);
    for (const [i, replica] of replicas.entries()) {
      const id = `${await command(masters[i]!, "CLUSTER", "MYID")}`;
      await until(async () => `${await command(replica, "CLUSTER", "NODES")}`.includes(id));
      await command(replica, "CLUSTER", "REPLICATE", id);
    }
    const all = [...masters, ...replicas];
    await until(async () => {
      // Each node must know the role of each other, or it takes no part in a failover.
      const views = await Promise.all(all.map((port) => command(port, "CLUSTER", "NODES")));
      return views.every((view) => `${view}`.match(/slave \w{40}/g)?.length === 3);
    });
    await Promise.all(replicas.map((replica, i) => follows(replica, masters[i]!)));
    return { masters, replicas };
  }

  /** Adds a replica of a server to its cluster; returns its port. */
  async replica(primary: number): Promise<number> {
    const [port] = await this.#nodes(1);
    const id = `${await command(primary, "CLUSTER", "MYID")}`;
    await command(port!, "CLUSTER", "MEET", "127.0.0.1", `${primary}`);
    await until(async () => await command(port!, "CLUSTER", "REPLICATE", id) === "OK");
    await until(async () => `${await command(primary, "INFO", "replication")}`.includes("online"));
    return port!;
  }

  /** Starts servers that may become nodes of a cluster. */
  async #nodes(count: number, args: string[] = []): Promise<number[]> {
    // The nodes talk to each other on the port that is higher by 10,000.
    const ports = await freePorts(count, 10_000);
    await Promise.all(ports.map((port) => {
      const own = ["--cluster-enabled", "yes", "--cluster-config-file", `nodes-${port}.conf`];
      return this.#start(port, [...own, "--repl-diskless-sync-delay", "0", ...args]);
    }));
    return ports;
  }

  /** Makes the nodes know each other, until each knows this many. */
  async #meet(ports: number[], count = ports.length): Promise<void> {
    for (const [i, port] of ports.entries()) {
      if (i === 0) continue;
      await command(port, "CLUSTER", "MEET", "127.0.0.1", String(ports[0]));
    }
    await until(async () => {
      const infos = await Promise.all(ports.map((port) => command(port, "CLUSTER", "INFO")));
      const ready = new RegExp(`cluster_state:ok[^]*cluster_known_nodes:${count}\\b`);
      return infos.every((info) => ready.test(`${info}`));
    });
  }

  /** Starts a master, its replica and a sentinel for "main"; returns their ports. */
  async sentinel(
    ...args: string[]
  ): Promise<{ sentinel: number; master: number; replica: number }> {
    const [sentinel] = await freePorts(1);
    const master = await this.single("--repl-diskless-sync-delay", "0", ...args);
    const replica = await this.single("--replicaof", "127.0.0.1", String(master), ...args);
    await follows(replica, master);
    // A server that is only slow must not be taken for dead.
    const config = join(this.#folder, "sentinel.conf");
    writeFileSync(
      config,
      `port ${sentinel}\nsentinel monitor main 127.0.0.1 ${master} 1\n` +
        "sentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 6000\n",
    );
    await this.#start(sentinel!, [], config);
    await until(async () => {
      const replicas = await command(sentinel!, "SENTINEL", "REPLICAS", "main");
      return (replicas as unknown[]).length === 1;
    });
    return { sentinel: sentinel!, master, replica };
  }

  /** Sends a signal to the server. */
  signal(port: number, signal: NodeJS.Signals): void {
    process.kill(this.#processes.get(port)!.pid!, signal);
  }

  /** Kills the server without a shutdown. */
  async kill(port: number): Promise<void> {
    const child = this.#processes.get(port);
    this.#processes.delete(port);
    if (child === undefined || child.exitCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#processes.keys()].map((port) => this.kill(port)));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #start(port: number, args: string[], config?: string): Promise<void> {
    // Each has its own folder, because a replica saves the data of its master there.
    const folder = join(this.#folder, String(port));
    mkdirSync(folder, { recursive: true });
    const own = config === undefined
      ? ["--port", String(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
      : [config, "--sentinel"];
    const child = spawn(process.env.TEST_REDIS_PROGRAM ?? "redis-server", [...own, ...args], {
      stdio: "ignore",
    });
    this.#processes.set(port, child);
    const failed = new Promise<never>((_, reject) => {
      child.on("error", () => reject(new Error("redis-server is not on the PATH: install Redis")));
      child.on("exit", (code) => reject(new Error(`redis-server ended with code ${code}`)));
    });
    failed.catch(() => {}); // rejected when the server is stopped
    await Promise.race([failed, until(async () => await command(port, "PING") === "PONG")]);
  }
}

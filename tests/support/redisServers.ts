/** Starts Redis servers for one test file: single servers, a cluster, a sentinel. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createClient } from "redis";
import { until } from "./until.ts";

/** Returns free ports. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  const ports: number[] = [];
  for (const server of servers) {
    if (!server.listening) await once(server, "listening");
    ports.push((server.address() as { port: number }).port);
  }
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
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
  async cluster(): Promise<number[]> {
    const free = await freePorts(6);
    const ports = free.slice(0, 3);
    await Promise.all(ports.map((port, i) => this.#startNode(port, free[3 + i]!)));
    const slots = [0, 5461, 10923, 16384];
    for (const [i, port] of ports.entries()) {
      const range = [String(slots[i]), String(slots[i + 1]! - 1)];
      await command(port, "CLUSTER", "ADDSLOTSRANGE", ...range);
      await command(port, "CLUSTER", "SET-CONFIG-EPOCH", String(i + 1));
      if (i > 0) {
        const first = [String(ports[0]), String(free[3])];
        await command(port, "CLUSTER", "MEET", "127.0.0.1", ...first);
      }
    }
    await until(async () => {
      const infos = await Promise.all(ports.map((port) => command(port, "CLUSTER", "INFO")));
      return infos.every((info) => /cluster_state:ok[\s\S]*cluster_known_nodes:3/.test(`${info}`));
    });
    return ports;
  }

  /** Adds a replica of a server to its cluster; returns its port. */
  async replica(primary: number): Promise<number> {
    const [port, bus] = await freePorts(2);
    await this.#startNode(port!, bus!);
    const id = `${await command(primary, "CLUSTER", "MYID")}`;
    const nodes = `${await command(primary, "CLUSTER", "NODES")}`;
    const [, otherBus] = /@(\d+)\S* myself/.exec(nodes)!;
    await command(port!, "CLUSTER", "MEET", "127.0.0.1", `${primary}`, otherBus!);
    await until(async () => await command(port!, "CLUSTER", "REPLICATE", id) === "OK");
    await until(async () => `${await command(primary, "INFO", "replication")}`.includes("online"));
    return port!;
  }

  #startNode(port: number, bus: number): Promise<void> {
    const own = ["--cluster-enabled", "yes", "--cluster-config-file", `nodes-${port}.conf`];
    const quick = ["--repl-diskless-sync-delay", "0"];
    return this.#start(port, [...own, ...quick, "--cluster-port", String(bus)]);
  }

  /** Starts a master, its replica and a sentinel for "main"; returns their ports. */
  async sentinel(): Promise<{ sentinel: number; master: number; replica: number }> {
    const [sentinel] = await freePorts(1);
    const master = await this.single("--repl-diskless-sync-delay", "0");
    const replica = await this.single("--replicaof", "127.0.0.1", String(master));
    await until(async () => `${await command(master, "INFO", "replication")}`.includes("online"));
    const config = join(this.#folder, "sentinel.conf");
    writeFileSync(
      config,
      `port ${sentinel}\nsentinel monitor main 127.0.0.1 ${master} 1\n` +
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
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
    const own = config === undefined
      ? ["--port", String(port), "--save", "", "--dir", this.#folder, "--bind", "127.0.0.1"]
      : [config, "--sentinel"];
    const child = spawn("redis-server", [...own, ...args], { stdio: "ignore" });
    this.#processes.set(port, child);
    const failed = new Promise<never>((_, reject) => {
      child.on("error", () => reject(new Error("redis-server is not on the PATH: install Redis")));
      child.on("exit", (code) => reject(new Error(`redis-server ended with code ${code}`)));
    });
    failed.catch(() => {}); // rejected when the server is stopped
    await Promise.race([failed, until(async () => await command(port, "PING") === "PONG")]);
  }
}

/** Tests of Redis under faults. */

import process from "node:process";
import { Redis as IORedis } from "ioredis";
import { createClient } from "redis";
import { Redis } from "../../redis.ts";
import { withTLS } from "../support/certificate.ts";
import { backendOf } from "../../src/store/factory.ts";
import { type FaultHarness, faults, patiently, urlWith } from "../suites/faults.ts";
import { type LeaseFaultHarness, leaseFaults } from "../suites/leaseFaults.ts";
import { serverUrl } from "../support/servers.ts";
import { command, RedisServers } from "../support/redisServers.ts";

/** Sends a command on a direct connection, without the store. */
const send = (url: string, ...args: string[]) => command(Number(new URL(url).port), ...args);

const harness: FaultHarness = {
  name: "Redis",
  backend: ["redis", "Redis"],
  async start() {
    const servers = new RedisServers();
    const port = await servers.single("--appendonly", "yes", "--appendfsync", "always");
    const pid = async () =>
      Number(`${await command(port, "INFO", "server")}`.match(/process_id:(\d+)/)![1]);
    let current = await pid();
    return {
      url: `redis://127.0.0.1:${port}`,
      signal: (signal) => process.kill(current, signal),
      async kill() {
        current = 0;
        await servers.kill(port);
      },
      async start() {
        if (current !== 0) return;
        await servers.restart(port);
        current = await pid();
      },
      stop: () => servers[Symbol.asyncDispose](),
    };
  },
  options: (url, where) => ({ url, prefix: `${where}:` }) as object,
  store: (options) => Redis(options),
  durable: true,
  async peek(url, where, key) {
    const text = await send(url, "GET", `${where}:${key}`);
    return text === null ? undefined : JSON.parse(String(text));
  },
  broken: {
    "a wrong password": {
      options: (url) => ({ url: urlWith(url, { username: "late", password: "s3cret-late" }) }),
      error: /WRONGPASS/,
      repair: (url) => send(url, "ACL", "SETUSER", "late", "on", ">s3cret-late", "~*", "+@all"),
    },
    "a missing database": {
      options: (url) => ({ url: urlWith(url, { pathname: "/99" }) }),
      error: /DB index is out of range/,
    },
    "a host that does not exist": {
      options: () => ({ url: "redis://user:s3cret@nowhere.invalid" }),
      error: /ENOTFOUND|EAI_AGAIN|timed out/,
    },
    "a server without TLS": {
      options: (url) => ({ url: urlWith(url, { protocol: "rediss:", password: "s3cret" }) }),
      error: /./,
    },
    "a server of another kind": {
      options: () => ({
        url: urlWith(serverUrl("postgres"), { protocol: "redis:", pathname: "" }),
      }),
      error: /./,
    },
  },
  async disconnect(url) {
    await send(url, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  },
  async refuseWrites(url, _proxy, refuse) {
    await send(url, "REPLICAOF", ...(refuse ? ["127.0.0.1", "1"] : ["NO", "ONE"]));
  },
  /** A client with a blocking command of another caller: later commands wait for it. */
  async exhaust({ url }, { place, timeout }) {
    const client = createClient({ url });
    client.on("error", () => {});
    const store = Redis({ client, prefix: `${place}:`, timeout });
    await patiently(() => store.set("k", 0));
    const waiting = client.blPop(`${place}-list`, 0);
    return {
      store,
      async release() {
        await send(url, "RPUSH", `${place}-list`, "go");
        await waiting;
      },
      close: () => Promise.resolve(client.destroy()),
    };
  },
  async secure({ url }) {
    const secured = await withTLS(url);
    const at = urlWith(url, { host: secured.host }).replace("redis:", "rediss:");
    return {
      ...secured,
      options: (where, socket) => ({ url: at, prefix: `${where}:`, config: { socket } }),
      [Symbol.asyncDispose]: () => secured[Symbol.asyncDispose](),
    };
  },
};

faults(harness);

const leases: LeaseFaultHarness = {
  name: "Redis",
  url: serverUrl("redis"),
  store(url, where, options, cleanup) {
    return cleanup.stores(Redis({ url, prefix: `${where}:`, ...options }))[0]!;
  },
  backend: (url, where) => backendOf(Redis, { url, prefix: `${where}:` }),
  roundTrips: () => Promise.resolve(2),
  async drop(where) {
    await using store = Redis({ url: serverUrl("redis"), prefix: `${where}:` });
    await store.clear();
  },
};

leaseFaults(leases);
leaseFaults({
  ...leases,
  name: "Redis with ioredis",
  store(url, where, options, cleanup) {
    const client = cleanup.of(new IORedis(url), (client) => client.disconnect());
    client.on("error", () => {});
    return cleanup.stores(Redis({ client, prefix: `${where}:`, ...options }))[0]!;
  },
});

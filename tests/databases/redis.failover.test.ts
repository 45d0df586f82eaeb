/** Failovers of Redis, clients that may read from replicas, and servers of another kind. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Redis as IORedis } from "ioredis";
import type { Store } from "../../mod.ts";
import { Redis, type RedisOptions } from "../../redis.ts";
import type { Backend, Leases } from "../../src/backend.ts";
import { backendOf } from "../../src/store/factory.ts";
import { Cleanup } from "../support/cleanup.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { command, RedisServers } from "../support/redisServers.ts";
import { gate } from "../support/scripted.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { until } from "../support/until.ts";

const versions = ["4", "5", "6"] as const;
const withPools = ["5", "6"] as const;
const url = (port: number) => `redis://127.0.0.1:${port}`;

/** Makes a server a replica of a server that does not exist, so that it keeps its data. */
const demote = (port: number) => command(port, "REPLICAOF", "127.0.0.1", "1");

/** How often a server has run a command. */
async function calls(port: number, name: string): Promise<number> {
  const stats = `${await command(port, "INFO", "commandstats")}`;
  return Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
}

describe("Redis failover", () => {
  it("Redis connects to the new primary with its own client", async () => {
    await using servers = new RedisServers();
    const [a, b] = [await servers.single(), await servers.single()];
    await using proxy = await Proxy.to(url(a!));
    await using store = Redis({ url: `redis://${proxy.host}`, timeout: 60_000 });
    await store.set("k", 1);
    await demote(a!);
    proxy.target = url(b!);
    await store.set("k", 2);
    assert.equal(await store.get("k"), 2);
    assert.equal(await store.update("k", (n) => n + 1), 3);
  });

  for (const version of withPools) {
    it(`Redis reads nothing from a former primary with a pool of node-redis ${version}`, async () => {
      await using servers = new RedisServers();
      await using cleanup = new Cleanup();
      const [a, b] = [await servers.single(), await servers.single()];
      await using proxy = await Proxy.to(url(a!));
      const pool = requireVersion("redis", version).createClientPool(
        { url: `redis://${proxy.host}` },
        { minimum: 2, maximum: 2 },
      );
      pool.on("error", () => {});
      await pool.connect();
      cleanup.of(pool, (pool) => pool.destroy());
      const [store] = cleanup.stores(Redis({ client: pool, timeout: 60_000, ttl: 3_600_000 }));
      await Promise.all(["k", "other"].map((key) => store!.set(key, 1)));
      const { opened, open } = gate();
      const lent = pool.execute(() => opened); // one of the two connections
      await demote(a!);
      proxy.target = url(b!);
      await store!.set("k", 2);
      open();
      await lent;
      for (let i = 0; i < 20; i++) {
        assert.equal(await store!.get("k"), 2);
        const both = [store!.get("k"), store!.get("other")];
        assert.deepEqual(await Promise.all(both), [2, undefined]);
      }
    });
  }

  it("Redis looks for no lease on a replica, which may be behind", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const port = await servers.single();
    const ioredis = cleanup.of(new IORedis(url(port)), (client) => client.disconnect());
    const pool = requireVersion("redis", "6").createClientPool({ url: url(port) });
    pool.on("error", () => {});
    await pool.connect();
    cleanup.of(pool, (pool) => pool.destroy());
    for (const options of [{ url: url(port) }, { client: ioredis }, { client: pool }]) {
      await command(port, "REPLICAOF", "NO", "ONE");
      const backend = cleanup.of(
        backendOf(Redis, options as RedisOptions) as Backend,
        (backend) => backend.close(),
      );
      const { signal } = new AbortController();
      await backend.open({ expiring: false, leasing: true, signal, report() {} });
      const leases = backend.leases as Leases<string>;
      await leases.claim([{ key: "k", token: "t", length: 600_000 }], signal);
      assert.equal((await leases.find(["k"], signal)).length, 1);
      await demote(port);
      await assert.rejects(async () => await leases.find(["k", "l"], signal), (error: Error) => {
        assert.match(error.message, /READONLY/);
        return backend.transient(error);
      });
    }
  });

  it("Redis says that the server is a replica", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const port = await servers.single();
    await using first = Redis({ url: url(port) });
    await first.set("k", 1);
    await demote(port);
    const ioredis = cleanup.of(new IORedis(url(port)), (client) => client.disconnect());
    const options = { timeout: 1_000 };
    const message = /READONLY.*; is the server a replica, or a former primary\?/;
    for (
      const store of cleanup.stores(
        Redis({ url: url(port), ...options }),
        Redis({ client: ioredis, ...options }),
      )
    ) {
      await until(() => store.ready().then(() => true));
      await until(async () => {
        await assert.rejects(store.set("k", 2), { name: "TimeoutError", message });
        return true;
      });
      await until(async () => await store.get("k") === 1);
    }
  });
});

describe("Redis servers that are not ready", () => {
  const keys = Array.from({ length: 50 }, (_, i) => `${i}`);

  /** A store with Redis' own client, and one with ioredis. */
  function bothClients(port: number, timeout: number, cleanup: Cleanup) {
    const client = cleanup.of(new IORedis(url(port)), (client) => client.disconnect());
    client.on("error", () => {});
    return cleanup.stores(Redis({ url: url(port), timeout }), Redis({ client, timeout }));
  }

  /** Waits until an operation has timed out because of the answer. */
  const meets = (store: Store<unknown>, message: RegExp) =>
    until(async () => {
      await assert.rejects(store.get("0"), { name: "TimeoutError", message });
      return true;
    });

  it("Redis waits while the server loads its data", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const port = await servers.single("--key-load-delay", "100000"); // in us, so 50 keys take 5 s
    const stores = bothClients(port, 60_000, cleanup);
    // Redis answers after each 2 MB that it has loaded.
    const text = "x".repeat(1_000_000);
    await Promise.all(keys.map((key) => stores[0]!.set(key, { key, text })));
    await stores[1]!.ready();
    await command(port, "CONFIG", "SET", "rdbcompression", "no");
    await command(port, "SAVE");
    await servers.kill(port);
    const restarted = servers.restart(port);
    await using impatient = Redis({ url: url(port), timeout: 500 });
    await meets(impatient, /LOADING/);
    for (const store of stores) {
      const read = Promise.all(keys.map((key) => store.get(key)));
      await store.set("1", { key: "new" });
      const expected = keys.map((key) => ({ key, text }));
      assert.deepEqual(await read, expected);
      assert.deepEqual(await store.get("1"), { key: "new" });
      await store.set("1", { key: "1", text });
    }
    await restarted;
  });

  it("Redis waits while a replica without its master refuses reads", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const port = await servers.single("--replica-serve-stale-data", "no");
    const stores = bothClients(port, 60_000, cleanup);
    await Promise.all(stores.map((store, i) => store.set(`${i}`, 1)));
    await demote(port);
    const [own, ioredis] = bothClients(port, 1_000, cleanup);
    await meets(own!, /MASTERDOWN/);
    const operations = Promise.all(stores.map(async (store, i) => {
      assert.equal(await store.get(`${i}`), 1);
      await store.set(`${i}`, 2);
      assert.equal(await store.get(`${i}`), 2);
    }));
    await meets(ioredis!, /MASTERDOWN/);
    await command(port, "REPLICAOF", "NO", "ONE");
    await operations;
  });
});

describe("Redis replicas", () => {
  it("Redis reads only from the primaries of a cluster", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const ports = await servers.cluster();
    const replicas = await Promise.all(ports.map((port) => servers.replica(port)));
    const known = async (port: number) => {
      const slots = JSON.stringify(await command(port, "CLUSTER", "SLOTS"));
      return replicas.every((replica) => slots.includes(`${replica}`));
    };
    await until(async () => (await Promise.all(ports.map(known))).every(Boolean));
    const keys = Array.from({ length: 30 }, (_, i) => `${i}`);
    for (const version of versions) {
      const client = requireVersion("redis", version).createCluster({
        rootNodes: [{ url: url(ports[0]!) }],
        useReplicas: true,
      });
      client.on("error", () => {});
      await client.connect();
      cleanup.of(client, (client) => client.disconnect());
      const [store] = cleanup.stores(
        Redis({ client, prefix: `${version}:`, ttl: 3_600_000, timeout: 60_000 }),
      );
      await Promise.all(keys.map((key) => store!.set(key, key)));
      const counts = () =>
        Promise.all(
          replicas.flatMap((port) => [calls(port, "get"), calls(port, "pttl")]),
        );
      const before = await counts();
      assert.deepEqual(await Promise.all(keys.map((key) => store!.get(key))), keys);
      for (const key of keys) assert.equal(await store!.get(key), key);
      assert.equal(await store!.update("0", (text) => `${text}!`), "0!");
      assert.deepEqual(await counts(), before, `node-redis ${version}`);
    }
  });

  for (const version of withPools) {
    it(`Redis reads only from the primary of a sentinel of node-redis ${version}`, async () => {
      await using servers = new RedisServers();
      await using cleanup = new Cleanup();
      const { sentinel, replica } = await servers.sentinel();
      const client = requireVersion("redis", version).createSentinel({
        name: "main",
        sentinelRootNodes: [{ host: "127.0.0.1", port: sentinel }],
        replicaPoolSize: 1,
      });
      client.on("error", () => {});
      await client.connect();
      cleanup.of(client, (client) => client.destroy());
      const [store] = cleanup.stores(Redis({ client, ttl: 3_600_000, timeout: 60_000 }));
      const keys = ["a", "b", "c"];
      await Promise.all(keys.map((key) => store!.set(key, key)));
      assert.deepEqual(await Promise.all(keys.map((key) => store!.get(key))), keys);
      for (const key of keys) assert.equal(await store!.get(key), key);
      await assertLists(store!, keys);
      for (const name of ["get", "mget", "pttl", "scan"]) {
        assert.equal(await calls(replica, name), 0, name);
      }
    });
  }

  it("Redis says that a server needs a cluster client", async () => {
    await using servers = new RedisServers();
    await using cleanup = new Cleanup();
    const [port] = await servers.cluster();
    const ioredis = cleanup.of(new IORedis(url(port!)), (client) => client.disconnect());
    const keys = Array.from({ length: 20 }, (_, i) => `${i}`);
    for (const store of cleanup.stores(Redis({ url: url(port!) }), Redis({ client: ioredis }))) {
      const message = /MOVED.*; the server is part of a cluster: pass a cluster client as/;
      const single = await Promise.allSettled(keys.map(async (key) => {
        await new Promise((resolve) => setTimeout(resolve, Number(key)));
        await store.get(key);
      }));
      const refused = single.filter((it) => it.status === "rejected");
      assert.ok(refused.length > 0);
      for (const { reason } of refused) {
        assert.equal(reason.name, "StoreError");
        assert.match(reason.message, /(MOVED|CROSSSLOT).*; the server is part of a cluster/);
      }
      await assert.rejects(
        (async () => {
          for (const key of keys) await store.set(key, 1);
        })(),
        { name: "StoreError", message },
      );
    }
  });
});

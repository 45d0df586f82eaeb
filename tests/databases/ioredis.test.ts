/** Tests that only Redis with clients of ioredis needs. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { inspect } from "node:util";
import { Redis } from "../../redis.ts";
import { backendOf } from "../../src/store/factory.ts";
import { transient } from "../../src/redis/errors.ts";
import { Cleanup } from "../support/cleanup.ts";
import { conformance, type Harness } from "../support/conformance.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { chats, exercise, exerciseLeases } from "../support/exercise.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { command, RedisServers } from "../support/redisServers.ts";

const versions = { 5: requireVersion("ioredis", "5"), 6: requireVersion("ioredis", "6") };

const servers = new RedisServers();
let nodes: number[];
let single: number;
let sentinel: number;

/** Returns all stored keys, as another client sees them. */
async function storedKeys(kind: string): Promise<string[]> {
  let ports = kind === "cluster" ? nodes : [single];
  if (/sentinel/.test(kind)) {
    const at = await command(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main");
    ports = [Number((at as [host: string, port: string])[1])];
  }
  const found = await Promise.all(ports.map((port) => command(port, "KEYS", "*")));
  return found.flat() as string[];
}

describe("Redis with ioredis", () => {
  before(async () => {
    let sentinels;
    [nodes, single, sentinels] = await Promise.all([
      servers.cluster(),
      servers.single(),
      servers.sentinel(),
    ]);
    ({ sentinel } = sentinels);
  });
  after(() => servers[Symbol.asyncDispose]());

  for (const [version, ioredis] of Object.entries(versions)) {
    // deno-lint-ignore no-explicit-any
    const kinds: Record<string, (options?: object) => any> = {
      client: (options) => new ioredis.Redis({ host: "127.0.0.1", port: single, ...options }),
      cluster: (options) =>
        new ioredis.Cluster(nodes.map((port) => ({ host: "127.0.0.1", port })), options),
      "client behind a sentinel": (options) =>
        new ioredis.Redis({
          name: "main",
          sentinels: [{ host: "127.0.0.1", port: sentinel }],
          ...options,
        }),
    };
    for (const [kind, create] of Object.entries(kinds)) {
      describe(`Redis with a ${kind} of ioredis ${version}`, () => {
        let shared: ReturnType<typeof create>;
        const clients: typeof shared[] = [];
        before(() => clients.push(shared = create()));
        after(() => clients.forEach((client) => client.disconnect()));

        const harness: Harness = {
          name: `Redis with a ${kind} of ioredis ${version}`,
          supports: { prune: false },
          updates: 250,
          store(where, options) {
            const client = create();
            clients.push(client);
            return Redis({ client, prefix: `${where}:`, ...options });
          },
          backend(where, options) {
            const client = create();
            clients.push(client);
            return backendOf(Redis, { client, prefix: `${where}:`, ...options });
          },
          async drop(where) {
            for (const key of await storedKeys(kind)) {
              if (key.startsWith(`${where}:`)) await shared.del(key);
            }
          },
          corrupt: async (where, key) => void await shared.set(`${where}:${key}`, "{no JSON"),
        };
        if (kind !== "client behind a sentinel") {
          conformance(harness);
        }

        it(`Redis does not close a ${kind} of ioredis ${version}`, async () => {
          const prefix = `${place()}:`;
          const store = Redis({ client: shared, prefix });
          await exercise(store);
          const second = create();
          const other = Redis({ client: second, prefix });
          await exerciseLeases(store, other);
          await other.close();
          second.disconnect();
          await store.set("k", { a: 1 });
          await store.close();
          assert.equal(shared.status, "ready");
          assert.equal(await shared.get(`${prefix}k`), '{"a":1}');
          await shared.del(`${prefix}k`);
        });

        it(`Redis connects a lazy ${kind} of ioredis ${version} only once`, async () => {
          for (const first of ["stores", "owner"]) {
            const client = create({ lazyConnect: true });
            try {
              const stores = [1, 2, 3].map(() => Redis({ client, prefix: `${place()}:` }));
              const uses = stores.map(exercise);
              if (first === "owner") uses.push(client.connect());
              await Promise.all(uses);
              assert.equal(client.status, "ready");
              assert.equal(client.listenerCount("error"), 1);
              await Promise.all(stores.map((store) => store.close()));
              assert.equal(client.status, "ready");
            } finally {
              client.disconnect();
            }
          }
        });

        it(`Redis rejects operations on a closed ${kind} of ioredis ${version}`, async () => {
          const client = create();
          const used = Redis({ client, prefix: `${place()}:` });
          const unused = Redis({ client, prefix: `${place()}:` });
          assert.equal(await used.get("k"), undefined);
          await client.quit();
          const message = /client is closed/;
          await Promise.all(
            [used.get("k"), used.set("k", 1), used.delete("k"), unused.get("k")]
              .map((operation) => assert.rejects(operation, { name: "StoreError", message })),
          );
          assert.equal(client.status, "end");
          await Promise.all([used.close(), unused.close()]);
        });

        const options = {
          enableAutoPipelining: true,
          keyPrefix: "a?[b]*\\:",
          enableOfflineQueue: false,
          maxRetriesPerRequest: 0,
          showFriendlyErrorStack: true,
          stringNumbers: true,
        };
        for (const [name, value] of Object.entries(options)) {
          it(`Redis accepts a ${kind} of ioredis ${version} with ${name}`, async () => {
            const setting = { [name]: value };
            const client = create(
              kind === "cluster" && !(name in { enableAutoPipelining: 1, enableOfflineQueue: 1 })
                ? { redisOptions: setting }
                : setting,
            );
            const where = place();
            await using store = Redis({ client, prefix: `${where}:`, ttl: 60_000 });
            try {
              await exercise(store);
              await Promise.all(chats.map((chat, i) => store.set(chat, { i })));
              await assertLists(store, chats);
              const begin = name === "keyPrefix" ? `${value}${where}:` : `${where}:`;
              const stored = await storedKeys(kind);
              assert.equal(stored.filter((key) => key.startsWith(begin)).length, 100);
              await store.clear();
              assert.equal(await store.size(), 0);
            } finally {
              client.disconnect();
            }
          });
        }
      });
    }

    it(`Redis with ioredis ${version} waits for an unavailable server, and reports it once`, async () => {
      await using proxy = await Proxy.to(`redis://127.0.0.1:${single}`);
      const { hostname: host, port } = new URL(`redis://${proxy.host}`);
      const seen: Error[] = [];
      const retryStrategy = () => 200; // the default back-off grows to seconds
      const options = { host, port: Number(port), maxRetriesPerRequest: 1, retryStrategy };
      const client = new ioredis.Redis(options);
      try {
        const onError = (error: unknown) => void seen.push(error as Error);
        await using store = Redis({ client, prefix: `${place()}:`, timeout: 4000, onError });
        for (const a of [1, 2]) {
          await store.set("k", { a });
          await proxy.down();
          await until(() => seen.length === 1);
          const error = await store.get("k").catch((error) => error);
          assert.equal(error.name, "TimeoutError");
          assert.equal(error.cause.code, "ECONNREFUSED");
          const read = store.get("k");
          await wait(500);
          await proxy.up();
          assert.deepEqual(await read, { a });
          assert.equal(seen.splice(0).length, 1);
        }
        await store.delete("k");
      } finally {
        client.disconnect();
      }
    });

    it(`Redis with ioredis ${version} works again after the connection was cut`, async () => {
      await using proxy = await Proxy.to(`redis://127.0.0.1:${single}`);
      const { hostname: host, port } = new URL(`redis://${proxy.host}`);
      const client = new ioredis.Redis({ host, port: Number(port) });
      try {
        await using store = Redis({ client, prefix: `${place()}:` });
        for (let i = 1; i <= 10; i++) {
          const writes = chats.map((chat) => store.set(chat, { i }));
          if (i % 2) await wait(1);
          proxy.cut();
          await Promise.all(writes);
          assert.deepEqual(await store.get("chat:99"), { i });
        }
        await store.clear();
      } finally {
        client.disconnect();
      }
    });

    it(`Redis with ioredis ${version} works again after the master changed`, async () => {
      const own = await servers.sentinel();
      const client = new ioredis.Redis({
        name: "main",
        sentinels: [{ host: "127.0.0.1", port: own.sentinel }],
      });
      try {
        await using store = Redis({ client, prefix: "", timeout: 30_000 });
        await store.set("k", { a: 1 });
        await command(own.master, "WAIT", "1", "1000");
        await servers.kill(own.master);
        assert.deepEqual(await store.get("k"), { a: 1 });
        await store.set("k", { a: 2 });
        assert.equal(await command(own.replica, "GET", "k"), '{"a":2}');
      } finally {
        client.disconnect();
      }
    });

    it(`Redis with ioredis ${version} reports a wrong password without repeating it`, async () => {
      await command(single, "ACL", "SETUSER", "bot", "on", ">r1ght", "~*", "+@all", "-set");
      const seen: unknown[] = [];
      const at = { host: "127.0.0.1", port: single, username: "bot" };
      const wrong = new ioredis.Redis({ ...at, password: "wr0ng" });
      const right = new ioredis.Redis({ ...at, password: "r1ght" });
      try {
        const onError = (error: unknown) => seen.push(error);
        await using bad = Redis({ client: wrong, onError, onInitError: onError });
        const error = await bad.get("k").catch((error) => error);
        assert.match(error.message, /WRONGPASS/);
        await using good = Redis({ client: right });
        assert.equal(await good.get("missing"), undefined);
        const denied = await good.set("k", "s3cret").catch((error) => error);
        assert.match(denied.message, /NOPERM/);
        assert.equal(denied.name, "StoreError");
        for (const reported of [error, denied, ...seen]) {
          assert.doesNotMatch(inspect(reported, { depth: 9, showHidden: true }), /wr0ng|s3cret/);
        }
      } finally {
        wrong.disconnect();
        right.disconnect();
      }
    });

    it(`Redis lets a cluster of ioredis ${version} send no old write after a new one`, async () => {
      const own = await servers.cluster();
      const client = new ioredis.Cluster(own.map((port) => ({ host: "127.0.0.1", port })), {
        retryDelayOnClusterDown: 3000,
        redisOptions: { maxRetriesPerRequest: 1 },
      });
      await using cleanup = new Cleanup();
      cleanup.of(client, () => client.disconnect());
      const prefix = "{k}";
      await using patient = Redis({ client, prefix, timeout: 30_000 });
      await using impatient = Redis({ client, prefix, timeout: 500 });
      await patient.set("k", 0);
      const slot = String(await command(own[0]!, "CLUSTER", "KEYSLOT", prefix));
      const holder = own[Math.min(2, Math.floor(Number(slot) / 5461.34))]!;
      await Promise.all(own.map((port) => command(port, "CLUSTER", "DELSLOTS", slot)));
      await assert.rejects(impatient.set("k", 1), { name: "TimeoutError" });
      await command(holder, "CLUSTER", "ADDSLOTS", slot);
      await patient.set("k", 2);
      await wait(4000); // the client retries the first write
      assert.equal(await command(holder, "GET", `${prefix}k`), "2");
    });
  }

  it("Redis distinguishes temporary errors of ioredis from permanent ones", () => {
    const passing = [
      "Connection is closed.",
      "Command timed out",
      "Command aborted due to connection close",
      "Reached the max retries per request limit (which is 20).",
      "Stream isn't writeable and enableOfflineQueue options is false",
      "Cluster isn't ready and enableOfflineQueue options is false",
      "None of startup nodes is available",
      "Failed to refresh slots cache.",
      "Too many Cluster redirections. Last error: ReplyError: MOVED 1 127.0.0.1:1",
      "All sentinels are unreachable. Retrying from scratch after 10ms.",
    ];
    const lasting = [
      "Ready check failed: NOAUTH Authentication required.",
      "Connection in subscriber mode, only subscriber commands may be used",
    ];
    for (const message of passing) assert.ok(transient(new Error(message)), message);
    for (const message of lasting) assert.ok(!transient(new Error(message)), message);
  });
});

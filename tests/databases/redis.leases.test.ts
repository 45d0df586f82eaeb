/** Tests of leases that only Redis needs: their names in a cluster, scripts, rights, and failovers. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { LeaseError, type Store, type StoreOptions } from "../../mod.ts";
import { Redis, type RedisOptions } from "../../redis.ts";
import type { Backend, Leases } from "../../src/backend.ts";
import { backendOf } from "../../src/store/factory.ts";
import { Cleanup } from "../support/cleanup.ts";
import { keys } from "../support/layers.ts";
import { requireVersion } from "../support/packages.ts";
import { command, RedisServers } from "../support/redisServers.ts";
import { Proxy } from "../support/proxy.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { awkwardKeys } from "../../src/testing/harness.ts";
import { patiently } from "../suites/faults.ts";
import { heldLeases } from "../../src/testing/leases.ts";

const long = 600_000;
const { signal } = new AbortController();

const claimOf = (key: string, token = "t") => ({ key, token, length: long });
const releaseOf = (key: string, value?: string | null, token = "t") => ({
  ...{ key, token, length: 0 },
  change: typeof value === "string" ? { key, value } : value,
});

/** A backend that is open for leases. */
interface Holder {
  readonly backend: Backend;
  readonly leases: Leases<string>;
}

async function open(options: object, cleanup: Cleanup): Promise<Holder> {
  const backend = backendOf(Redis, options as RedisOptions) as Backend;
  cleanup.of(backend, (backend) => backend.close());
  const opening = { expiring: true, leasing: true, signal, report() {} };
  await patiently(async () => await backend.open(opening));
  return { backend, leases: backend.leases as Leases<string> };
}

describe("Redis leases", () => {
  const servers = new RedisServers();
  let nodes: number[];
  let single: number;
  before(async () => {
    [nodes, single] = await Promise.all([servers.cluster(), servers.single()]);
  });
  after(() => servers[Symbol.asyncDispose]());

  /** Makes clients of a cluster. */
  // deno-lint-ignore no-explicit-any
  const clusters: Record<string, (keyPrefix?: string) => any> = {};
  for (const version of ["4", "6"] as const) {
    const redis = requireVersion("redis", version);
    clusters[`node-redis ${version}`] = (keyPrefix) =>
      redis.createCluster({
        keyPrefix,
        rootNodes: nodes.map((port) => ({ url: `redis://127.0.0.1:${port}` })),
      });
  }
  const ioredis = requireVersion("ioredis", "6");
  clusters["ioredis 6"] = (keyPrefix) =>
    new ioredis.Cluster(nodes.map((port) => ({ host: "127.0.0.1", port })), { keyPrefix });

  // deno-lint-ignore no-explicit-any
  function ended(cleanup: Cleanup, client: any): any {
    client.on("error", () => {});
    return cleanup.of(client, () => client.destroy ? client.destroy() : client.disconnect());
  }

  /** Prefixes of the client and of the store. node-redis 4 does not have the first one. */
  const prefixes = [
    ["", "telegraf:"],
    ["", ""],
    ["", "{bot}:"],
    ["p:", "telegraf:"],
    ["{p}:", "a?[b]*\\:"],
    ["p:", "{bot}:"],
  ] as const;
  for (const [kind, create] of Object.entries(clusters)) {
    it(`Redis has a lease in the slot of its session, in a cluster of ${kind}`, async () => {
      for (const [keyPrefix, prefix] of prefixes) {
        if (keyPrefix !== "" && kind === "node-redis 4") continue;
        await Promise.all(nodes.map((port) => command(port, "FLUSHALL")));
        await using cleanup = new Cleanup();
        const client = ended(cleanup, create(keyPrefix));
        const { backend, leases } = await open({ client, prefix }, cleanup);
        for (const key of awkwardKeys) {
          const claimed = await patiently(async () => await leases.claim([claimOf(key)], signal));
          assert.deepEqual(claimed, [{ key, token: "t", entry: undefined, note: undefined }]);
          const change = { key, value: `"${key}"` };
          const settlement = { ...claimOf(key), change };
          assert.deepEqual(await leases.settle([settlement], signal), []);
        }
        const held = await heldLeases(leases);
        assert.deepEqual([...held.keys()].sort(), awkwardKeys.toSorted());
        const found = await leases.find([...awkwardKeys, "missing"], signal);
        assert.deepEqual(found.map(({ key }) => key), [...awkwardKeys]);
        const listed = new Set<string>();
        for (let start: string | undefined;;) {
          const page = await backend.page(start, 100, signal);
          for (const { key } of page.entries) listed.add(key);
          if ((start = page.next) === undefined) break;
        }
        assert.deepEqual([...listed].sort(), awkwardKeys.toSorted());
        for (const key of awkwardKeys) {
          const [entry] = await backend.read([key], signal);
          assert.equal(entry?.value, `"${key}"`);
        }
      }
    });

    it(`Redis refuses keys whose braces allow no lease, in a cluster of ${kind}`, async () => {
      await using cleanup = new Cleanup();
      const client = ended(cleanup, create());
      const [store] = cleanup.stores(Redis({ client, prefix: `${place()}:`, timeout: 60_000 }));
      const results = await Promise.allSettled(
        ["a", "b{", "c}d", "{}e", "f"].map((key) => store!.update(key, () => ({ key }))),
      );
      assert.deepEqual(results.map(({ status }) => status[0]), ["f", "f", "r", "r", "f"]);
      const [, , { reason }] = results as [unknown, unknown, PromiseRejectedResult];
      const why = /^Cannot lock session ".*": in a cluster, the braces .* do not allow a lease/;
      assert.match(reason.message, why);
      await store!.clear();
      // The key closes the hash tag that the prefix begins.
      const [tagged] = cleanup.stores(Redis({ client, prefix: `${place()}{`, timeout: 60_000 }));
      await assert.rejects(tagged!.update("a}b", () => ({})), { message: why });
    });

    it(`Redis follows a slot that has moved, in a cluster of ${kind}`, async () => {
      await using cleanup = new Cleanup();
      const client = ended(cleanup, create());
      const prefix = `{${place()}}`;
      const [store] = cleanup.stores(Redis({ client, prefix, timeout: 60_000 }));
      await store!.update("k", () => ({ n: 1 }));
      for (const port of nodes) await command(port, "FLUSHALL"); // a slot with keys cannot move
      const slot = String(await command(nodes[0]!, "CLUSTER", "KEYSLOT", prefix));
      const owner = Math.min(2, Math.floor(Number(slot) / 5461.34));
      const [from, to, third] = [0, 1, 2].map((i) => nodes[(owner + i) % 3]!);
      const ids = new Map<number, string>();
      for (const port of nodes) ids.set(port, String(await command(port, "CLUSTER", "MYID")));
      const assign = (port: number, ...state: string[]) =>
        command(port, "CLUSTER", "SETSLOT", slot, ...state);
      await assign(to!, "IMPORTING", ids.get(from!)!);
      await assign(from!, "MIGRATING", ids.get(to!)!);
      for (const port of [to!, from!, third!]) await assign(port, "NODE", ids.get(to!)!);
      const moved = new RegExp(`^MOVED ${slot} 127.0.0.1:${to}$`);
      for (const port of [from!, third!]) {
        await until(async () => {
          const answer = await command(port, "GET", `${prefix}k`).catch((error) => error.message);
          return moved.test(`${answer}`);
        });
      }
      const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });
      await Promise.all([1, 2, 3].map(() => store!.update("k", count)));
      assert.equal(await command(to!, "GET", `${prefix}k`), '{"n":3}');
    });
  }

  /** Runs a test with a backend and a store on the single server. */
  function test(
    title: string,
    body: (
      holder: Holder & { readonly store: Store<{ n: number }> },
      send: (...args: string[]) => Promise<unknown>,
      prefix: string,
    ) => Promise<void>,
  ): void {
    it(`Redis ${title}`, async () => {
      await using cleanup = new Cleanup();
      const options = { url: `redis://127.0.0.1:${single}`, prefix: `${place()}:` };
      const holder = await open(options, cleanup);
      const [store] = cleanup.stores(Redis<{ n: number }>({ ...options, timeout: 60_000 }));
      const send = (...args: string[]) => command(single, ...args);
      await body({ ...holder, store: store! }, send, options.prefix);
    });
  }

  test("sends scripts again that the server has forgotten", async ({ leases }, send) => {
    await leases.claim([claimOf("k"), claimOf("l")], signal);
    await send("SCRIPT", "FLUSH");
    const claims = ["k", "l", "m"].map((key) => claimOf(key, "t2"));
    const claimed = await leases.claim(claims, signal);
    assert.deepEqual(claimed.map(({ token }) => token), ["t", "t", "t2"]);
    await send("SCRIPT", "FLUSH");
    assert.deepEqual(await leases.settle([releaseOf("m", "1", "t2")], signal), []);
  });

  test("keeps nothing of a released lease for long", async ({ leases }, send, prefix) => {
    await leases.claim([claimOf("k")], signal);
    assert.deepEqual(await leases.settle([releaseOf("k", "1")], signal), []);
    const left = Number(await send("PTTL", `${prefix}\0lease{${prefix}k}`));
    assert.ok(left > 0 && left <= 10_000, `${left} ms`);
  });

  test("refuses a settlement if the lease is gone", async ({ leases }, send, prefix) => {
    await send("SET", `${prefix}k`, "1");
    await leases.claim([claimOf("k"), claimOf("l")], signal);
    for (const key of ["k", "l"]) {
      assert.equal(await send("DEL", `${prefix}\0lease{${prefix}${key}}`), 1);
    }
    for (const value of ["2", null, undefined]) {
      const refused = await leases.settle([releaseOf("k", value)], signal);
      assert.deepEqual(refused, [{ key: "k", token: undefined }]);
    }
    assert.equal(await send("GET", `${prefix}k`), "1");
    // The session is missing, which is what the settlement wants.
    assert.deepEqual(await leases.settle([releaseOf("l", null)], signal), []);
  });

  test("leaves the expiry of a session that does not change", async ({ leases }, send, prefix) => {
    await send("SET", `${prefix}k`, "1", "PX", "100000000");
    const [claimed] = await leases.claim([claimOf("k")], signal);
    const expires = claimed!.entry!.expires!;
    assert.ok(Math.abs(expires - Date.now() - 100_000_000) < 1_000_000);
    const left = async () => Math.round(Number(await send("PTTL", `${prefix}k`)) / 1e7);
    for (const length of [long, 0]) {
      await leases.settle([{ ...claimOf("k"), length, change: undefined }], signal);
      assert.equal(await left(), 10);
    }
    const change = { key: "k", value: "2", expires: Date.now() + 200_000_000 };
    await leases.settle([{ ...claimOf("k"), length: 0, change }], signal);
    assert.equal(await left(), 20);
    await leases.settle([releaseOf("k", "3")], signal);
    assert.equal(await send("PTTL", `${prefix}k`), -1);
  });

  it("Redis does not take a session for expired because the reply to a claim was slow", async () => {
    await using cleanup = new Cleanup();
    await using proxy = await Proxy.to(`redis://127.0.0.1:${single}`);
    const prefix = `${place()}:`;
    const { leases } = await open({ url: `redis://${proxy.host}`, prefix }, cleanup);
    let expires: number | undefined;
    // On a slow machine the session may have expired before Redis gets the claim.
    for (let ttl = 500; expires === undefined; ttl *= 2) {
      await command(single, "SET", `${prefix}k`, "1", "PX", `${ttl}`);
      proxy.delay = ttl * 1.2;
      const [claimed] = await leases.claim([claimOf("k")], signal);
      expires = claimed!.entry?.expires;
    }
    assert.ok(expires > Date.now(), `${Date.now() - expires} ms ago`);
  });

  it("Redis waits while the application has a transaction open on the client", async () => {
    const redis = requireVersion("redis", "6");
    // deno-lint-ignore no-explicit-any
    const clients: [any, string][] = [
      [redis.createClient({ url: `redis://127.0.0.1:${single}` }), "sendCommand"],
      [new ioredis.Redis(single), "call"],
    ];
    for (const [given, method] of clients) {
      await using cleanup = new Cleanup();
      const client = ended(cleanup, given);
      const [store] = cleanup.stores(Redis({ client, prefix: `${place()}:`, timeout: 60_000 }));
      const send = (word: string) => client[method](method === "call" ? word : [word]);
      const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });
      await store!.update("k", count);
      await send("MULTI");
      const updates = Promise.all([store!.update("k", count), store!.update("l", count)]);
      await wait(50);
      await send("DISCARD");
      assert.deepEqual(await updates, [{ n: 2 }, { n: 1 }]);
      // A transaction that begins under the lease.
      let begun: Promise<unknown> | undefined;
      const late = store!.update("k", async (session) => {
        await (begun = send("MULTI"));
        return count(session);
      });
      await until(() => Promise.resolve(begun !== undefined));
      await send("DISCARD");
      assert.deepEqual(await late, { n: 3 });
      assert.deepEqual(await store!.get("k"), { n: 3 });
    }
  });

  for (const missing of ["evalsha", "eval"]) {
    it(`Redis works without leases for a user without the right to ${missing}`, async () => {
      const user = place();
      const send = (...args: string[]) => command(single, ...args);
      await send("ACL", "SETUSER", user, "on", ">s3cret", "~telegraf:*", "+@all", `-${missing}`);
      await send("SCRIPT", "FLUSH");
      await using cleanup = new Cleanup();
      const url = `redis://${user}:s3cret@127.0.0.1:${single}`;
      const [store] = cleanup.stores(Redis<{ n: number }>({ url, timeout: 60_000 }));
      const key = place();
      await store!.set(key, { n: 1 });
      const hint = /NOPERM.*'eval.*; this needs Lua scripts: allow the commands EVAL and EVALSHA$/;
      const denied = { name: "StoreError", operation: "lock", message: hint };
      const encrypt = { keys };
      const [plain, encrypting] = cleanup.stores(
        Redis({ url, prefix: `telegraf:${key}:` }),
        Redis({ url, prefix: `telegraf:${key}:`, encrypt }),
      );
      await plain!.set("k", { a: 1 });
      await assert.rejects(encrypting!.rotate(), { name: "StoreError", message: hint });
      assert.deepEqual(await encrypting!.get("k"), { a: 1 });
      const count = (session?: { n: number }) => ({ n: session!.n + 1 });
      await assert.rejects(store!.update(key, count), denied);
      const run = store!.exclusive({ getSessionKey: () => key });
      await assert.rejects(
        run({ state: {}, update: { update_id: 1 } }, () => Promise.resolve()),
        denied,
      );
      await store!.set(key, { n: 2 });
      assert.deepEqual(await store!.get(key), { n: 2 });
      await send("ACL", "SETUSER", user, `+${missing}`);
      assert.equal(await encrypting!.rotate(), 1);
      await encrypting!.clear();
      // The names of leases begin with the prefix, which is all that the user may use.
      assert.deepEqual(await store!.update(key, count), { n: 3 });
      await store!.delete(key);
      await send("ACL", "DELUSER", user);
    });
  }
});

/** What guarantees hold when a primary fails over. Replication is asynchronous. */
describe("Redis leases in a failover", () => {
  type List = string[];
  const servers = new RedisServers();
  after(() => servers[Symbol.asyncDispose]());

  // deno-lint-ignore no-explicit-any
  const kinds: Record<string, (sentinel: number, cleanup: Cleanup) => any> = {
    "node-redis"(port, cleanup) {
      const client = requireVersion("redis", "6").createSentinel({
        name: "main",
        sentinelRootNodes: [{ host: "127.0.0.1", port }],
      });
      return cleanup.of(client, (client) => client.destroy());
    },
    "ioredis"(port, cleanup) {
      const sentinels = [{ host: "127.0.0.1", port }];
      const client = new (requireVersion("ioredis", "6").Redis)({ name: "main", sentinels });
      return cleanup.of(client, (client) => client.disconnect());
    },
  };

  /** Appends to a list. */
  const append = (name: string) => (list: List = []) => [...list, name];

  /** An update that has its lease, and ends when it is told. */
  async function hold(store: Store<List>, key: string, name: string) {
    let end = () => {};
    let update: Promise<unknown>;
    await new Promise<void>((begun, failed) => {
      update = store.update(key, async (list) => {
        begun();
        await new Promise<void>((resolve) => end = resolve);
        return append(name)(list);
      });
      update.catch(failed);
    });
    return { end: () => end(), update: update! };
  }

  /** A primary with a replica, and stores on them. */
  async function setUp(kind: string, cleanup: Cleanup) {
    const own = await servers.sentinel();
    const options: StoreOptions = { timeout: 120_000 };
    const store = () => {
      const client = kinds[kind]!(own.sentinel, cleanup);
      client.on("error", () => {});
      return cleanup.stores(Redis<List>({ client, prefix: "", ...options }))[0]!;
    };
    const replicated = (key: string) =>
      until(async () => {
        const [there, here] = await Promise.all(
          [own.master, own.replica].map((port) => command(port, "GET", key)),
        );
        return there !== null && there === here;
      });
    return { ...own, a: store(), b: store(), store, replicated };
  }

  for (const kind of Object.keys(kinds)) {
    it(`Redis stores an update whose claim the replica has, with ${kind}`, async () => {
      await using cleanup = new Cleanup();
      const { a, b, master, replica, replicated } = await setUp(kind, cleanup);
      await a.update("k", append("first"));
      const { end, update } = await hold(a, "k", "a");
      await replicated("k");
      await replicated("\0lease{k}");
      await servers.kill(master);
      // Nobody else claims the lease, so it is good even if the failover takes longer.
      end();
      assert.deepEqual(await update, ["first", "a"]);
      assert.deepEqual(await b.update("k", append("b")), ["first", "a", "b"]);
      assert.equal(await command(replica, "GET", "k"), '["first","a","b"]');
    });

    it(`Redis refuses an update whose claim the failover has lost, with ${kind}`, async () => {
      await using cleanup = new Cleanup();
      const { a, b, master, replica, replicated } = await setUp(kind, cleanup);
      for (const key of ["k", "l"]) {
        await a.update(key, append("first"));
        await replicated(key);
      }
      servers.signal(replica, "SIGSTOP");
      await command(master, "CLIENT", "KILL", "TYPE", "replica");
      const held = [await hold(a, "k", "a"), await hold(a, "l", "a")];
      await servers.kill(master);
      servers.signal(replica, "SIGCONT");
      assert.deepEqual(await b.update("k", append("b")), ["first", "b"]);
      for (const { end, update } of held) {
        end();
        await assert.rejects(update, (error) => {
          assert.ok(error instanceof LeaseError);
          assert.equal(error.operation, "write");
          return true;
        });
      }
      assert.deepEqual(await a.get("k"), ["first", "b"]);
      assert.deepEqual(await a.get("l"), ["first"]);
      assert.deepEqual(await a.update("l", append("later")), ["first", "later"]);
    });
  }

  it("Redis loses at most the last updates before a failover, and none after it", async () => {
    await using cleanup = new Cleanup();
    const { a, b, store, master } = await setUp("node-redis", cleanup);
    /** Each update with the list that it has stored, and whether it began after the primary's death. */
    const acknowledged: { name: string; stored: List; afterwards: boolean }[] = [];
    let killed = false;
    let ended = false;
    const streams = [a, b, store()].map(async (store, i) => {
      for (let n = 0; !ended; n++) {
        const name = `${i}.${n}`;
        const afterwards = killed;
        try {
          const stored = await store.update("k", append(name), { wait: 600_000 });
          acknowledged.push({ name, stored: stored!, afterwards });
        } catch (error) {
          assert.ok(error instanceof LeaseError, String(error));
        }
      }
    });
    const all = Promise.all(streams);
    const count = () => acknowledged.filter(({ afterwards }) => afterwards === killed).length;
    await until(() => Promise.resolve(count() >= 30));
    await servers.kill(master);
    killed = true;
    await until(() => Promise.resolve(count() >= 30));
    ended = true;
    await all;
    const list = await a.get("k") ?? [];
    assert.equal(new Set(list).size, list.length);
    for (const { name, stored, afterwards } of acknowledged) {
      if (afterwards) assert.ok(list.includes(name), `${name} is lost`);
      // If an update is there, then so are all that it has seen.
      if (list.includes(name)) assert.deepEqual(list.slice(0, stored.length), stored);
    }
  });
});

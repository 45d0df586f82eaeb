import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { inspect } from "node:util";
import * as redis6 from "redis";
import { Redis, type RedisOptions } from "../../redis.ts";
import { settleAll } from "../../src/redis/commands.ts";
import { transient } from "../../src/redis/errors.ts";
import { backendOf } from "../../src/store/factory.ts";
import { entry, run } from "../support/process.ts";
import { Cleanup } from "../support/cleanup.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  workerOf,
} from "../support/conformance.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { requireVersion } from "../support/packages.ts";
import { urlWith } from "../suites/faults.ts";
import { Proxy } from "../support/proxy.ts";
import { redisAt } from "../support/redis.ts";
import { chats, exercise, exerciseLeases } from "../support/exercise.ts";
import { place, serverUrl } from "../support/servers.ts";
import { command, RedisServers } from "../support/redisServers.ts";
import { until } from "../support/until.ts";

const url = serverUrl("redis");

/** Creates a client for one test. */
function createClient(at = url) {
  return redis6.createClient({ url: at }).on("error", () => {});
}

const { direct, data } = redisAt(url);
const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/redis");

const harness: Harness = {
  name: "Redis",
  supports: { prune: false },
  worker: (where) => workerOf("redis", "Redis", { url, prefix: `${where}:` }),
  store: (where, options) => Redis({ url, prefix: `${where}:`, ...options }),
  backend: (where, options) => backendOf(Redis, { url, prefix: `${where}:`, ...options }),
  ...data,
};

conformance(harness);
encryptedConformance(harness);

const versions = { 4: requireVersion("redis", "4"), 5: requireVersion("redis", "5"), 6: redis6 };

describe("Redis data", () => {
  const keys = [place(), place()];
  after(() => direct((client) => client.del(keys.map((key) => `telegraf:${key}`))));

  it("Redis reads and changes what @telegraf/session 2.0.0-beta.7 wrote", async () => {
    await using cleanup = new Cleanup();
    const client = cleanup.of(createClient(), (client) => client.destroy());
    const old = upstream.Redis({ client }); // connects it
    const session = { count: 1, text: 'é "🔑"', list: [null, { a: false }] };
    for (const key of keys) await old.set(key, session);
    await using store = Redis({ client });
    assert.deepEqual(await Promise.all(keys.map((key) => store.get(key))), [session, session]);
    await store.set(keys[0]!, { count: 2 });
    assert.deepEqual(await old.get(keys[0]), { count: 2 });
    await store.delete(keys[1]!);
    assert.equal(await old.get(keys[1]), undefined);
  });

  it("Redis accepts an empty prefix", async () => {
    const key = place();
    await using store = Redis({ url, prefix: "" });
    await store.set(key, { a: 1 });
    assert.equal(await direct((client) => client.get(key)), '{"a":1}');
    await store.delete(key);
  });

  it("Redis works with new and without url", async () => {
    const { hostname: host, port } = new URL(url);
    const prefix = `${place()}:`;
    await using store = new Redis({ config: { socket: { host, port: Number(port) } }, prefix });
    await exercise(store);
  });

  it("Redis reads text from a client that maps types to Buffer", async () => {
    const client = redis6.createClient({
      url,
      commandOptions: { typeMapping: { [redis6.RESP_TYPES.BLOB_STRING]: Buffer } },
    });
    client.on("error", () => {});
    await using cleanup = new Cleanup();
    cleanup.of(client, () => client.destroy());
    const where = place();
    await using store = Redis({ client: client as RedisOptions["client"], prefix: `${where}:` });
    await exercise(store);
    await store.set("k", { a: 1 });
    const session = await store.get("k");
    await using other = harness.store(where);
    await other.set("k", { a: 2 });
    await store.set("k", session); // writes nothing because the session is unchanged
    assert.deepEqual(await other.get("k"), { a: 2 });
    await other.delete("k");
  });
});

describe("Redis clients", () => {
  const servers = new RedisServers();
  let nodes: number[];
  let single: number;
  let sentinels: { sentinel: number };
  before(async () => {
    [nodes, single, sentinels] = await Promise.all([
      servers.cluster(),
      servers.single(),
      servers.sentinel(),
    ]);
  });
  after(() => servers[Symbol.asyncDispose]());

  for (const [version, redis] of Object.entries(versions)) {
    // deno-lint-ignore no-explicit-any
    const kinds: Record<string, (keyPrefix?: string) => any> = {
      client: (keyPrefix) => redis.createClient({ url: `redis://127.0.0.1:${single}`, keyPrefix }),
      cluster: (keyPrefix) =>
        redis.createCluster({
          keyPrefix,
          rootNodes: nodes.map((port) => ({ url: `redis://:@127.0.0.1:${port}` })),
        }),
    };
    if (redis.createClientPool) {
      kinds.pool = (keyPrefix) =>
        redis.createClientPool({ url: `redis://127.0.0.1:${single}`, keyPrefix });
      kinds.sentinel = (keyPrefix) =>
        redis.createSentinel({
          keyPrefix,
          name: "main",
          sentinelRootNodes: [{ host: "127.0.0.1", port: sentinels.sentinel }],
        });
    }
    for (const [kind, create] of Object.entries(kinds)) {
      const close = (client: ReturnType<typeof create>) =>
        client.destroy ? client.destroy() : client.disconnect();

      if (version === "6") {
        it(`Redis keeps to the keyPrefix of a ${kind} of node-redis ${version}`, async () => {
          const [client, bare] = [create("a?[b]*\\:"), create()];
          for (const each of [client, bare]) await each.on("error", () => {}).connect();
          try {
            const prefix = `${place()}:`;
            await using store = Redis({ client, prefix });
            await using other = Redis({ client: bare, prefix: `a?[b]*\\:${prefix}` });
            await exercise(store);
            await exerciseLeases(store);
            await store.set("k", { a: 1 });
            assert.deepEqual(await other.get("k"), { a: 1 });
            assert.deepEqual(await store.update("k", (it) => ({ a: it!.a + 1 })), { a: 2 });
            assert.deepEqual(await other.update("k", (it) => ({ a: it!.a + 1 })), { a: 3 });
            for (const each of [store, other]) {
              await assertLists(each, ["k"]);
            }
            await store.clear();
            assert.equal(await other.size(), 0);
          } finally {
            await close(client);
            await close(bare);
          }
        });
      }

      it(`Redis accepts a connected ${kind} of node-redis ${version}`, async () => {
        const client = create();
        client.on("error", () => {});
        await client.connect();
        try {
          const prefix = `${place()}:`;
          const store = Redis({ client, prefix });
          await exercise(store);
          const second = create();
          const other = Redis({ client: second, prefix });
          await exerciseLeases(store, other);
          await other.close();
          await close(second);
          await store.set("k", { a: 1 });
          await store.close();
          assert.equal(client.isOpen, true);
          assert.equal(await client.get(`${prefix}k`), '{"a":1}');
          await client.del(`${prefix}k`);
        } finally {
          await close(client);
        }
      });

      it(`Redis connects a ${kind} of node-redis ${version} only once`, async () => {
        const client = create();
        try {
          const stores = [1, 2, 3].map(() => Redis({ client, prefix: `${place()}:` }));
          await Promise.all(stores.map(exercise));
          assert.equal(client.isOpen, true);
          assert.equal(client.listenerCount("error"), 1);
          await Promise.all(stores.map((store) => store.close()));
          assert.equal(client.isOpen, true);
        } finally {
          await close(client);
        }
      });

      it(`Redis works if the application connects a ${kind} of node-redis ${version}`, async () => {
        for (const first of ["store", "owner"]) {
          const client = create();
          client.on("error", () => {});
          const store = Redis({ client, prefix: `${place()}:` });
          try {
            const connecting = first === "owner" ? client.connect() : undefined;
            await Promise.all([store.ready(), exercise(store), connecting ?? client.connect()]);
          } finally {
            await close(client);
          }
        }
      });

      it(`Redis rejects operations on a closed ${kind} of node-redis ${version}`, async () => {
        await using cleanup = new Cleanup();
        const client = cleanup.of(create(), close);
        client.on("error", () => {});
        await client.connect();
        const timeout = 120_000;
        const used = Redis({ client, prefix: `${place()}:`, timeout });
        const unused = Redis({ client, prefix: `${place()}:`, timeout });
        assert.equal(await used.get("k"), undefined);
        await close(client);
        const start = Date.now();
        const message = /client is closed/;
        await Promise.all(
          [used.get("k"), used.set("k", 1), used.delete("k"), unused.get("k")]
            .map((operation) => assert.rejects(operation, { name: "StoreError", message })),
        );
        assert.ok(Date.now() - start < 60_000); // well before the deadline
        assert.equal(client.isOpen, false);
        await Promise.all([used.close(), unused.close()]);
      });
    }
  }

  it("Redis does not send a cluster commands with keys of several servers", async () => {
    for (const port of nodes) {
      const stats = `${await command(port, "INFO", "everything")}`;
      assert.match(stats, /cmdstat_set:/);
      assert.doesNotMatch(stats, /CROSSSLOT|cmdstat_m[gs]et/);
    }
  });

  for (const driver of ["node-redis 4", "node-redis 5", "node-redis 6", "ioredis 5", "ioredis 6"]) {
    it(`Redis lists all sessions of a cluster with ${driver}, and no other keys`, async () => {
      const [kind, version] = driver.split(" ") as [string, "4" | "5" | "6"];
      await using cleanup = new Cleanup();
      const client = kind === "ioredis"
        ? new (requireVersion("ioredis", version).Cluster)(nodes)
        : versions[version].createCluster({
          rootNodes: nodes.map((port) => ({ url: `redis://127.0.0.1:${port}` })),
        });
      cleanup.of(client, () => client.destroy ? client.destroy() : client.disconnect());
      const where = place();
      const prefix = `${where}[a-c]?*\\d^:`;
      const others = [`${where}bxy\\d^:`, `${where}[a-c]?*d^:`, `${where}[a-c]zz\\d^:`, ""];
      const [store, ...neighbours] = [prefix, ...others].map((prefix) => Redis({ client, prefix }));
      const sessions = chats.map((key): [string, unknown] => [key, { key }]).sort();
      for (const neighbour of neighbours) await neighbour.set("other", { a: 1 });
      await Promise.all(sessions.map(([key, session]) => store!.set(key, session)));
      for (const port of nodes) {
        const here = await command(port, "KEYS", `${where}*`) as string[];
        assert.ok(here.length > 10, `${here.length} of 100 on one of three servers`);
      }
      await assertLists(store!, sessions.map(([key]) => key));
      for await (const [key, session] of store!.entries()) {
        assert.deepEqual(session, Object.fromEntries(sessions)[key]);
      }
      const some = sessions.map(([key]) => key).filter((key) => key.startsWith("chat:1"));
      await assertLists(store!, some, { prefix: "chat:1" });
      await store!.clear({ prefix: "chat:1" });
      await assertLists(store!, sessions.map(([key]) => key).filter((key) => !some.includes(key)));
      await store!.clear();
      assert.equal(await store!.size(), 0);
      for (const neighbour of neighbours) {
        assert.deepEqual(await neighbour.get("other"), { a: 1 });
        await neighbour.delete("other");
      }
    });
  }

  it("Redis adds only one listener to a client that 50 stores share", async () => {
    await direct(async (client) => {
      const listeners = client.listenerCount("error");
      const stores = chats.slice(50).map((chat) =>
        Redis({ client, prefix: `${place()}:${chat}:` })
      );
      await Promise.all(stores.map((store) => store.get("k")));
      assert.equal(client.listenerCount("error"), listeners + 1);
      await Promise.all(stores.map((store) => store.close()));
    });
  });

  it("Redis keeps the operations of two stores on one client in order", async () => {
    await direct(async (client) => {
      const prefix = `${place()}:`;
      await using a = Redis({ client, prefix });
      await using b = Redis({ client, prefix });
      const write = a.set("k", 1);
      assert.equal(await b.get("k"), 1);
      await Promise.all([write, b.set("k", 2), a.set("k", 3)]);
      assert.equal(await client.get(`${prefix}k`), "3");
      await client.del(`${prefix}k`);
    });
  });

  it("Redis sends only a few commands for 100 sessions at the same time", async () => {
    const at = `redis://127.0.0.1:${await servers.single()}`;
    await using store = Redis({ url: at, prefix: "" });
    await store.ready();
    await Promise.all(chats.map((chat, i) => store.set(chat, { i })));
    await Promise.all(chats.map((chat) => store.get(chat)));
    await store.set("one", 1);
    await store.get("one");
    await Promise.all(chats.map((chat) => store.delete(chat)));
    const stats = `${await command(Number(new URL(at).port), "INFO", "commandstats")}`;
    const calls = (name: string) => Number(stats.match(`cmdstat_${name}:calls=(\\d+)`)?.[1] ?? 0);
    assert.deepEqual(
      ["mset", "mget", "set", "get", "del"].map((name) => [name, calls(name)]),
      [["mset", 1], ["mget", 1], ["set", 1], ["get", 1], ["del", 1]],
    );
  });

  it("Redis works again after the master changed", async () => {
    const own = await servers.sentinel();
    const client = redis6.createSentinel({
      name: "main",
      sentinelRootNodes: [{ host: "127.0.0.1", port: own.sentinel }],
    });
    await using cleanup = new Cleanup();
    cleanup.of(client, () => client.destroy());
    await using store = Redis({ client, prefix: "", timeout: 30_000 });
    await store.set("k", { a: 1 });
    await command(own.master, "WAIT", "1", "1000");
    await servers.kill(own.master);
    assert.deepEqual(await store.get("k"), { a: 1 });
    await store.set("k", { a: 2 });
    assert.equal(await command(own.replica, "GET", "k"), '{"a":2}');
  });

  it("Redis waits while the server is a read-only replica", async () => {
    const port = await servers.single("--replicaof", "127.0.0.1", "1");
    await using store = Redis({ url: `redis://127.0.0.1:${port}` });
    const write = store.set("k", { a: 1 });
    await wait(300);
    await command(port, "REPLICAOF", "NO", "ONE");
    await write;
    assert.deepEqual(await store.get("k"), { a: 1 });
  });

  it("Redis rejects immediately if the server is out of memory", async () => {
    const port = await servers.single("--maxmemory", "1mb");
    await using store = Redis({ url: `redis://127.0.0.1:${port}`, timeout: 120_000 });
    const start = Date.now();
    await assert.rejects(store.set("k", "x".repeat(2e6)), { name: "StoreError", message: /OOM/ });
    assert.equal(await store.get("k"), undefined);
    assert.ok(Date.now() - start < 60_000); // well before the deadline
  });

  it("Redis opens as soon as the server is available", async () => {
    const port = await servers.single();
    await servers.kill(port);
    const at = `redis://127.0.0.1:${port}`;
    await using cleanup = new Cleanup();
    const client = cleanup.of(createClient(at), (client) => client.destroy());
    const stores = cleanup.stores(
      Redis({ url: at, timeout: 30_000 }),
      Redis({ client, timeout: 30_000 }),
    );
    const reads = Promise.all(stores.map((store) => store.get("k")));
    reads.catch(() => {}); // awaited below
    await wait(500);
    await servers.restart(port);
    assert.deepEqual(await reads, [undefined, undefined]);
  });
});

describe("Redis options", () => {
  const bad = (options: unknown) => () => Redis(options as RedisOptions);

  it("Redis refuses invalid options", () => {
    assert.throws(bad(null), { name: "TypeError", message: /^Redis: options must be/ });
    assert.throws(bad({ prefx: "" }), { name: "TypeError", message: /unknown option "prefx"/ });
    for (const options of [{ url: 1 }, { prefix: 1 }, { config: 1 }, { client: 1 }]) {
      const [name] = Object.keys(options);
      assert.throws(bad(options), { name: "TypeError", message: RegExp(`option "${name}" must`) });
    }
  });

  it("Redis refuses url or config together with client", () => {
    const client = createClient();
    for (const other of [{ url }, { config: {} }]) {
      assert.throws(bad({ client, ...other }), {
        name: "TypeError",
        message: /no effect together/,
      });
    }
    bad({ client, url: undefined })();
  });

  it("Redis refuses an invalid client", () => {
    const promise = createClient().connect();
    const other = { status: "ready", get() {}, set() {}, del() {}, connect() {}, on() {} };
    const legacy = requireVersion("redis", "4").createClient({ url, legacyMode: true });
    for (const client of [{}, [], new Map(), promise, other, legacy, createClient().legacy()]) {
      const message = /^Redis: option "client" must be a client, .* of node-redis .* of ioredis/;
      assert.throws(bad({ client }), { name: "TypeError", message });
    }
    return promise.then((client) => client.destroy());
  });

  it("Redis refuses an invalid url without repeating it", async () => {
    const urls = [
      "",
      "user:s3cret@localhost",
      "redis://user:s3cret@host:port",
      "redis://user:s3cret@host:99999",
      "http://user:s3cret@localhost",
      "redis://user:s3cret@localhost/db",
      "redis://us\"er:s3cret@x'y@:1:1",
      "redis://user:%s3cret@localhost",
      "unix://user:s3cret@",
    ];
    for (const url of urls) {
      assert.throws(bad({ url }), (error: Error) => {
        assert.equal(error.name, "TypeError");
        assert.match(error.message, /^Redis: /);
        assert.doesNotMatch(inspect(error, { depth: 9, showHidden: true }), /s3cret/);
        return true;
      });
    }
    // Only node-redis can check these options, so the error appears after it has loaded.
    const config = { RESP: 2, clientSideCache: {} };
    await using store = Redis({ url: "redis://user:s3cret@localhost", config } as RedisOptions);
    await assert.rejects(store.ready(), (error: Error) => {
      assert.doesNotMatch(inspect(error, { depth: 9 }), /s3cret/);
      assert.match(error.message, /node-redis refuses these options: Client Side Caching/);
      return error.cause instanceof TypeError;
    });
  });
});

describe("Redis servers", () => {
  it("Redis connects to an IPv6 address", async () => {
    await using proxy = await Proxy.to(url, "::1");
    const through = urlWith(url, { host: proxy.host });
    assert.match(through, /\[::1\]/);
    await using store = Redis({ url: through, prefix: `${place()}:`, ttl: 60_000 });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
  });

  it("Redis works with a server that does not know HELLO", async () => {
    await using proxy = await Proxy.to(url);
    proxy.answer = (request) =>
      /hello/i.test(String(request))
        ? Buffer.from("-ERR unknown command 'HELLO', with args beginning with: '3'\r\n")
        : undefined;
    const through = urlWith(url, { host: proxy.host });
    await using store = Redis({ url: through, prefix: `${place()}:`, ttl: 60_000 });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
  });

  const strategies = {
    "false": false,
    "a function that returns false": () => false as const,
    "a function that returns an error": () => new Error("enough"),
    "a function that stops after a few attempts": (attempts: number) => attempts > 2 ? false : 5,
  } as const;
  for (const [title, reconnectStrategy] of Object.entries(strategies)) {
    it(`Redis works again after a reconnectStrategy ended its client: ${title}`, async () => {
      await using proxy = await Proxy.to(url);
      const errors: unknown[] = [];
      await using store = Redis({
        url: urlWith(url, { host: proxy.host }),
        prefix: `${place()}:`,
        config: { socket: { reconnectStrategy } },
        timeout: 5_000,
        onError: (error) => errors.push(error),
      });
      await store.set("k", 1);
      for (let n = 2; n <= 3; n++) {
        await proxy.down();
        for (let i = 0; i < 500 && errors.length < n - 1; i++) await wait(10);
        await wait(50); // until the strategy has ended the client
        const write = store.set("k", n); // waits for the server
        await wait(50);
        await proxy.up();
        await write;
        assert.equal(await store.get("k"), n);
      }
      assert.ok(errors.length >= 2);
    });
  }
});

describe("Redis errors", () => {
  it("Redis rejects in time if no server is available, and the process continues", async () => {
    const { code, output, duration } = await run(`
      import { Redis } from ${JSON.stringify(entry("redis", import.meta.url))};
      const store = Redis({ url: "redis://user:s3cret@127.0.0.1:1", timeout: 3000 });
      const operations = [store.get("k"), store.set("k", 1), store.delete("k"), store.ready()];
      const errors = operations.map((operation) => operation.catch((error) => error));
      for (const { name, message, cause } of await Promise.all(errors)) {
        console.log(name, /after 3000 ms; last error: .*ECONNREFUSED/.test(message), cause.code);
      }
    `);
    assert.equal(output, "TimeoutError true ECONNREFUSED\n".repeat(4));
    assert.equal(code, 0);
    assert.ok(duration < 60_000);
  });

  it("Redis does not keep the process alive after close()", async () => {
    const { code, output, duration } = await run(`
      import { Redis } from ${JSON.stringify(entry("redis", import.meta.url))};
      const store = Redis({ url: ${JSON.stringify(url)} });
      console.log(await store.get("${place()}"));
      await store.close();
    `);
    assert.equal(output, "undefined\n");
    assert.equal(code, 0);
    assert.ok(duration < 60_000);
  });

  it("Redis rejects immediately if the password is wrong or a command is forbidden", async () => {
    const user = place();
    await direct((client) =>
      client.sendCommand([
        "ACL",
        "SETUSER",
        user,
        "on",
        ">r1ght",
        "~*",
        "+get",
        "+hello",
        "+client",
      ])
    );
    try {
      const at = new URL(url);
      [at.username, at.password] = [user, "wr0ng"];
      const start = Date.now();
      const seen: unknown[] = [];
      await using store = Redis({
        url: at.href,
        timeout: 120_000,
        onInitError: (error) => seen.push(error),
        onError: (error) => seen.push(error),
      });
      const error = await store.get("k").catch((error) => error);
      assert.equal(error.name, "StoreError");
      assert.match(error.message, /WRONGPASS/);
      assert.deepEqual(seen, [error]);
      assert.doesNotMatch(inspect(error, { depth: 9 }), /wr0ng/);
      at.password = "r1ght";
      await using good = Redis({ url: at.href, timeout: 120_000 });
      assert.equal(await good.get("missing"), undefined);
      await assert.rejects(good.set("k", 1), { name: "StoreError", message: /NOPERM/ });
      await using cleanup = new Cleanup();
      const client = cleanup.of(
        createClient(at.href.replace("r1ght", "wr0ng")),
        (client) => client.destroy(),
      );
      await using passed = Redis({ client, timeout: 120_000 });
      await assert.rejects(passed.get("k"), { name: "StoreError", message: /WRONGPASS/ });
      assert.ok(Date.now() - start < 60_000); // well before the deadline
    } finally {
      await direct((client) => client.sendCommand(["ACL", "DELUSER", user]));
    }
  });

  it("Redis works again after the connection was cut, even during commands", async () => {
    await using proxy = await Proxy.to(url);
    const seen: unknown[] = [];
    const where = place();
    await using store = Redis({
      url: `redis://${proxy.host}`,
      prefix: `${where}:`,
      onError: (error) => seen.push(error),
    });
    await store.set("k", { a: 0 });
    for (let i = 1; i <= 10; i++) {
      const writes = chats.map((chat) => store.set(chat, { i }));
      if (i % 2) await wait(1);
      proxy.cut();
      await Promise.all(writes);
      assert.deepEqual(await store.get("k"), { a: 0 });
      assert.deepEqual(await store.get("chat:99"), { i });
    }
    assert.ok(seen.length >= 1 && seen.length <= 10, `${seen.length} errors reported`);
    await harness.drop(where);
  });

  it("Redis waits for an unavailable server, and reports it once", async () => {
    await using proxy = await Proxy.to(url);
    const seen: Error[] = [];
    const options = {
      prefix: `${place()}:`,
      timeout: 4000, // node-redis waits up to 2 s before it connects again
      onError: (error: unknown) => void seen.push(error as Error),
    };
    const socket = { reconnectStrategy: 200 }; // the default back-off grows to seconds
    const client = redis6.createClient({ url: `redis://${proxy.host}`, socket });
    client.on("error", () => {});
    await using cleanup = new Cleanup();
    cleanup.of(client, () => client.destroy());
    const stores = cleanup.stores(
      Redis({ url: `redis://${proxy.host}`, ...options }),
      Redis({ client, ...options }),
    );
    for (const a of [1, 2]) {
      await Promise.all(stores.map((store) => store.set("k", { a })));
      await proxy.down();
      await until(() => seen.length === 2); // each store lost its connection
      for (
        const error of await Promise.all(stores.map((store) => store.get("k").catch((e) => e)))
      ) {
        assert.equal(error.name, "TimeoutError");
        assert.equal(error.cause.code, "ECONNREFUSED");
      }
      const reads = Promise.all(stores.map((store) => store.get("k")));
      await wait(500);
      await proxy.up();
      assert.deepEqual(await reads, [{ a }, { a }]);
      assert.equal(seen.splice(0).length, 2);
    }
    await stores[0]!.delete("k");
  });

  it("Redis replaces a connection that hangs, and keeps an idle one", async () => {
    await using dead = await Proxy.to(url);
    await using idle = await Proxy.to(url);
    const options = { prefix: `${place()}:` };
    await using one = Redis({ url: `redis://${dead.host}`, ...options });
    await using other = Redis({ url: `redis://${idle.host}`, ...options });
    await Promise.all([one.ready(), other.ready()]);
    dead.silence();
    await Promise.all([one.get("k"), wait(6000)]); // within the default timeout
    assert.equal(dead.connections, 2);
    assert.equal(await other.get("k"), undefined);
    assert.equal(idle.connections, 1);
  });

  it("Redis closes its connection if it cannot open in time", async () => {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket.resume()); // never replies
      socket.on("close", () => sockets.delete(socket));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    await using cleanup = new Cleanup();
    cleanup.of(server, () => server.close());
    const { port } = server.address() as { port: number };
    await using store = Redis({ url: `redis://127.0.0.1:${port}`, timeout: 300 });
    await assert.rejects(store.get("k"), { name: "TimeoutError" });
    await until(() => Promise.resolve(sockets.size === 0));
  });

  it("Redis reconnects according to config.socket.reconnectStrategy", async () => {
    await using proxy = await Proxy.to(url);
    const calls: number[] = [];
    const config = { socket: { reconnectStrategy: (attempts: number) => calls.push(attempts) } };
    await using store = Redis({ url: `redis://${proxy.host}`, config, prefix: `${place()}:` });
    await store.ready();
    proxy.cut();
    assert.equal(await store.get("k"), undefined);
    assert.equal(calls.length, 1);
    await using never = Redis({ url: "redis://127.0.0.1:1", config, timeout: 300 });
    await assert.rejects(never.get("k"), { name: "TimeoutError" });
    assert.equal(calls.length, 1); // not used while the store opens
  });

  it("Redis does not take a session for expired while Redis has it", async () => {
    const prefix = `${place()}:`;
    await using store = Redis({ url, prefix, ttl: 20 });
    await direct(async (client) => {
      for (let round = 0; round < 50; round++) {
        await store.set("k", round);
        let session: unknown;
        do session = await store.get("k"); while (session !== undefined);
        assert.equal(await client.get(`${prefix}k`), null);
      }
    });
  });

  it("Redis renews a session by the clock of the server", async () => {
    const hour = 3_600_000;
    const prefix = `${place()}:`;
    await using store = Redis({ url, prefix, ttl: hour });
    await using longer = Redis({ url, prefix, ttl: 2 * hour });
    const { now } = Date;
    try {
      for (const shift of [-5 * hour, 5 * hour]) {
        Date.now = () => now() + shift;
        await store.set("k", { a: 1 });
        await longer.set("k", await longer.get("k") as object); // an update that changes nothing
        const left = await direct((client) => client.pTTL(`${prefix}k`));
        assert.ok(left > hour && left < 3 * hour, `${left} ms`);
      }
    } finally {
      Date.now = now;
    }
  });

  it("Redis waits for all commands of a batch that failed", async () => {
    let done = false;
    const slow = wait(50).then(() => done = true);
    await assert.rejects(settleAll([slow, Promise.reject(new Error("no"))]), /no/);
    assert.ok(done);
  });

  it("Redis distinguishes temporary errors from permanent ones", () => {
    const passing = [
      "LOADING Redis is loading the dataset in memory",
      "CLUSTERDOWN The cluster is down",
      "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
      "TRYAGAIN Multiple keys request during rehashing of slot",
      "READONLY You can't write against a read only replica.",
      "ERR max number of clients reached",
    ];
    const lasting = [
      "NOAUTH Authentication required.",
      "WRONGPASS invalid username-password pair or user is disabled.",
      "NOPERM User x has no permissions to run the 'get' command",
      "OOM command not allowed when used memory > 'maxmemory'.",
      "WRONGTYPE Operation against a key holding the wrong kind of value",
      "ERR syntax error",
    ];
    for (const message of passing) assert.ok(transient(new redis6.ErrorReply(message)), message);
    for (const message of lasting) assert.ok(!transient(new redis6.ErrorReply(message)), message);
    for (const redis of Object.values(versions)) {
      assert.ok(transient(new redis.ClientOfflineError()));
      assert.ok(transient(new redis.SocketClosedUnexpectedlyError()));
      assert.ok(transient(new redis.ConnectionTimeoutError()));
      assert.ok(transient(new redis.DisconnectsClientError()));
      assert.ok(transient(new redis.RootNodesUnavailableError()));
      assert.ok(!transient(new redis.ClientClosedError()));
    }
  });
});

/** Tests that only Redis with clients of @upstash/redis needs. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { inspect } from "node:util";
import { Redis as Upstash, type RedisConfigNodejs, type Requester } from "@upstash/redis";
import * as redis6 from "redis";
import { Redis } from "../../redis.ts";
import { transient } from "../../src/redis/errors.ts";
import { backendOf } from "../../src/store/factory.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { Cleanup } from "../support/cleanup.ts";
import { conformance, workerOf } from "../support/conformance.ts";
import { chats, exercise, exerciseLeases } from "../support/exercise.ts";
import { requireVersion } from "../support/packages.ts";
import { redisAt } from "../support/redis.ts";
import { place, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { Bridge } from "../support/upstash.ts";

const redisUrl = serverUrl("redis");
const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/redis");

type Options = Partial<RedisConfigNodejs>;

let bridge: Bridge;
before(async () => bridge = await Bridge.to(redisUrl));
after(() => bridge[Symbol.asyncDispose]());

/** Creates a client of a bridge. */
function clientOf({ url, token }: Bridge, options: Options = {}): Upstash {
  return new Upstash({ url, token, ...options });
}

/** Creates a client that needs no HTTP. */
function createClient() {
  return redis6.createClient({ url: redisUrl }).on("error", () => {});
}

const { direct, data } = redisAt(redisUrl);

/** The names of the commands of each request that the work sends. */
async function requestsOf(at: Bridge, work: () => Promise<unknown>): Promise<string[][]> {
  const before = at.requests.length;
  await work();
  return at.requests.slice(before).map(({ commands }) => commands.map(([name]) => name!));
}

for (const automaticDeserialization of [true, false]) {
  const options: Options = { automaticDeserialization };
  conformance({
    name: `Redis with Upstash's client, automaticDeserialization ${automaticDeserialization}`,
    supports: { prune: false },
    updates: 250,
    worker: (where) => {
      const { url, token } = bridge;
      return workerOf("redis", "Redis", {
        upstash: { url, token, ...options },
        prefix: `${where}:`,
      });
    },
    store: (where, more) =>
      Redis({ client: clientOf(bridge, options), prefix: `${where}:`, ...more }),
    backend: (where, more) =>
      backendOf(Redis, { client: clientOf(bridge, options), prefix: `${where}:`, ...more }),
    ...data,
  });
}

describe("Redis with Upstash's client", () => {
  const variants: Record<string, Options> = {
    automaticDeserialization: { automaticDeserialization: true },
    "automaticDeserialization off": { automaticDeserialization: false },
    "enableAutoPipelining off": { enableAutoPipelining: false },
    "responseEncoding off": { responseEncoding: false },
    "latencyLogging off": { latencyLogging: false, enableTelemetry: false },
    "a signal": { signal: new AbortController().signal },
  };
  for (const [name, options] of Object.entries(variants)) {
    it(`Redis with Upstash's client reads stored text unchanged, with ${name}`, async () => {
      const client = clientOf(bridge, options);
      const prefix = `${place()}:`;
      await using store = Redis({ client, prefix });
      await using other = Redis({ url: redisUrl, prefix });
      await exercise(store);
      await exerciseLeases(store, other);
      const texts = [
        "123",
        "1e21",
        '{"a":1.0, "b":"é🔑\\ud800"}',
        '"123"',
        "null",
        "[[1]]",
        '{"__proto__":1}',
      ];
      const { signal } = new AbortController();
      const backend = backendOf(Redis, { client, prefix });
      for (const text of texts) {
        await direct((it) => it.set(`${prefix}k`, text));
        assert.deepEqual((await backend.read(["k"], signal)).map(({ value }) => value), [text]);
        await backend.replace!([{ key: "k", before: text, after: "{}" }], signal);
        assert.equal(await direct((it) => it.get(`${prefix}k`)), "{}");
        await direct((it) => it.set(`${prefix}k`, text));
        const leases = backend.leases as Exclude<typeof backend.leases, string | undefined>;
        const [claimed] = await leases.claim([{ key: "k", token: "t", length: 1000 }], signal);
        assert.equal(claimed!.entry!.value, text);
        const settlement = { key: "k", token: "t", length: 0, change: undefined };
        assert.deepEqual(await leases.settle([settlement], signal), []);
      }
      // The texts of these keys are also JSON.
      const empty = Redis({ client, prefix: "" });
      const base = `${Date.now()}`;
      const keys = [base, `${base}.50`, `${base}00000000000000`];
      for (const key of keys) await empty.set(key, { key });
      await assertLists(empty, keys, { prefix: base });
      assert.deepEqual(
        await Promise.all(keys.map((key) => empty.get(key))),
        keys.map((key) => ({ key })),
      );
      await empty.clear({ prefix: base });
      assert.equal(await empty.size({ prefix: base }), 0);
      await store.clear();
    });
  }

  it("Redis with Upstash's client reads and changes what @telegraf/session 2.0.0-beta.7 wrote", async () => {
    await using cleanup = new Cleanup();
    const old = upstream.Redis({ client: cleanup.of(createClient(), (it) => it.destroy()) });
    const session = { count: 1, text: 'é "🔑"', list: [null, { a: false }], big: 1e300 };
    const key = place();
    await old.set(key, session); // connects the client
    await using store = Redis({ client: clientOf(bridge) });
    assert.deepEqual(await store.get(key), session);
    await store.set(key, { count: 2 });
    assert.deepEqual(await old.get(key), { count: 2 });
    await store.delete(key);
    assert.equal(await old.get(key), undefined);
  });

  it("Redis with Upstash's client sends each batch in one request", async () => {
    const client = clientOf(bridge);
    await using store = Redis({ client, prefix: `${place()}:` });
    await using expiring = Redis({ client, prefix: `${place()}:`, ttl: 60_000 });
    const all = (work: (chat: string) => Promise<unknown>) =>
      requestsOf(bridge, () => Promise.all(chats.map(work)));
    const times = (name: string) => chats.map(() => name);
    const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });
    for (const it of [store, expiring]) {
      await it.ready();
      await it.update("warm-up", count); // the server learns the scripts
    }
    assert.deepEqual(await all((chat) => store.set(chat, 1)), [["MSET"]]);
    assert.deepEqual(await all((chat) => store.get(chat)), [["MGET"]]);
    assert.deepEqual(await all((chat) => store.delete(chat)), [["DEL"]]);
    assert.deepEqual(await all((chat) => expiring.set(chat, 1)), [times("SET")]);
    assert.deepEqual(await all((chat) => expiring.get(chat)), [["MGET", ...times("PTTL")]]);
    for (const it of [store, expiring]) {
      await it.clear();
      const requests = await all((chat) => it.update(chat, count));
      assert.deepEqual(requests, [times("EVALSHA"), times("EVALSHA")]);
      await it.clear();
    }
  });

  it("Redis with Upstash's client sends the text of unknown scripts in one more request", async () => {
    await using own = await Bridge.to(redisUrl);
    await using store = Redis({ client: clientOf(own), prefix: `${place()}:` });
    await store.ready();
    await direct((client) => client.scriptFlush());
    const update = (chat: string) => store.update(chat, () => ({ a: 1 }));
    const requests = await requestsOf(own, () => Promise.all(chats.map(update)));
    const names = requests.map((commands) => [...new Set(commands)].join());
    // Three scripts: the look for an owner of all sessions, the claims, and the settlements.
    assert.ok(names.includes("EVAL") && requests.length <= 6, names.join());
    await store.clear();
  });

  it("Redis with Upstash's client reports a wrong token without repeating it, or the session", async () => {
    for (const token of ["wr0ng", ""]) {
      await using own = await Bridge.to(redisUrl);
      await using store = Redis({ client: new Upstash({ url: own.url, token }) });
      const error = await store.set("k", "s3cret").catch((error) => error);
      assert.equal(error.name, "StoreError");
      assert.match(error.message, /WRONGPASS invalid or missing auth token$/);
      assert.doesNotMatch(inspect(error, { depth: 9, showHidden: true }), /wr0ng|s3cret/);
      assert.equal(own.requests.length, 1);
    }
  });

  it("Redis with Upstash's client reports a client without URL", async () => {
    await using store = Redis({ client: new Upstash({ url: "", token: "t", retry: false }) });
    await assert.rejects(store.get("k"), { name: "StoreError", message: /URL/ });
  });

  it("Redis with Upstash's client waits for an unavailable server", async () => {
    await using own = await Bridge.to(redisUrl);
    const client = clientOf(own, { retry: false });
    const prefix = `${place()}:`;
    await using patient = Redis({ client, prefix, timeout: 60_000 });
    await using impatient = Redis({ client, prefix, timeout: 500 });
    for (const a of [1, 2]) {
      await patient.set("k", { a });
      await own.down();
      const error = await impatient.get("k").catch((error) => error);
      assert.equal(error.name, "TimeoutError");
      assert.match(error.cause.message, /^Upstash cannot be reached: /);
      const read = patient.get("k");
      await own.up();
      assert.deepEqual(await read, { a });
    }
    await patient.delete("k");
  });

  const faults: Record<string, { status: number; body: string }> = {
    "a proxy's page": { status: 502, body: "<html>Bad Gateway</html>" },
    "an incomplete answer": { status: 200, body: '[{"result":"czNjcmV0' },
    "an answer without results": { status: 200, body: '{"result":"T0s="}' },
    "too few results": { status: 200, body: "[]" },
    "an error without reason": { status: 503, body: '{"message":"Service Unavailable"}' },
    "too many commands": { status: 429, body: '{"error":"ERR max commands per second exceeded"}' },
  };
  for (const [name, fault] of Object.entries(faults)) {
    it(`Redis with Upstash's client retries after ${name}`, async () => {
      await using own = await Bridge.to(redisUrl);
      const prefix = `${place()}:`;
      await using store = Redis({ client: clientOf(own), prefix, timeout: 60_000 });
      await using impatient = Redis({ client: clientOf(own), prefix, timeout: 300 });
      await store.set("k", { a: 1 });
      own.fault = fault;
      const seen = own.requests.length;
      const read = store.get("k");
      await until(() => own.requests.length >= seen + 2);
      own.fault = undefined;
      assert.deepEqual(await read, { a: 1 });
      own.fault = fault;
      const error = await impatient.set("k", "s3cret").catch((error) => error);
      assert.equal(error.name, "TimeoutError");
      assert.ok(transient(error.cause), inspect(error));
      assert.doesNotMatch(inspect(error, { depth: 9, showHidden: true }), /s3cret|czNjcmV0/);
      own.fault = undefined;
      await store.delete("k");
    });
  }

  it("Redis with Upstash's client ends a request that has timed out", async () => {
    await using own = await Bridge.to(redisUrl);
    const client = clientOf(own);
    const prefix = `${place()}:`;
    await using patient = Redis({ client, prefix, timeout: 10_000 });
    await using impatient = Redis({ client, prefix, timeout: 300 });
    await patient.set("k", 1);
    own.fault = "silent";
    await assert.rejects(impatient.set("k", 2), { name: "TimeoutError" });
    own.fault = undefined;
    await patient.set("k", 3);
    assert.equal(await direct((it) => it.get(`${prefix}k`)), "3");
    await patient.delete("k");
  });

  it("Redis with Upstash's client keeps to the client's own signal", async () => {
    await using own = await Bridge.to(redisUrl);
    const client = clientOf(own, { signal: () => AbortSignal.timeout(200) });
    await using store = Redis({ client, prefix: `${place()}:`, timeout: 60_000 });
    await store.set("k", 1);
    own.fault = "silent";
    const seen = own.requests.length;
    const read = store.get("k");
    await until(() => own.requests.length >= seen + 2, 20_000);
    own.fault = undefined;
    assert.equal(await read, 1);
    await store.delete("k");
  });

  it("Redis with Upstash's client sends no old write after a new one", async () => {
    let release: (() => void) | undefined;
    const gate = new Promise<void>((resolve) => release = resolve);
    let held: Promise<unknown> | undefined;
    // As an older client, it has no signal for each request.
    const requester = {
      request({ path = [], body }: { path?: string[]; body?: unknown }) {
        const text = JSON.stringify(body);
        const send = async () => {
          const headers = { authorization: `Bearer ${bridge.token}` };
          const options = { method: "POST", headers, body: text };
          return (await fetch(`${bridge.url}/${path.join("/")}`, options)).json();
        };
        if (held !== undefined || !text.startsWith('[["SET"')) return send();
        return held = gate.then(send);
      },
    };
    const client = new Upstash(requester as Requester);
    const prefix = `${place()}:`;
    await using patient = Redis({ client, prefix, timeout: 60_000 });
    await using impatient = Redis({ client, prefix, timeout: 300 });
    await assert.rejects(impatient.set("k", 1), { name: "TimeoutError" });
    const second = patient.set("k", 2);
    await Promise.race([second, wait(300)]);
    release!();
    await Promise.all([second, held]);
    assert.equal(await direct((it) => it.get(`${prefix}k`)), "2");
    await patient.delete("k");
  });

  it("Redis with Upstash's client keeps batches below 1 MB, and refuses a larger session", async () => {
    await using own = await Bridge.to(redisUrl);
    own.maxRequestSize = 1_048_576;
    await using store = Redis({ client: clientOf(own), prefix: `${place()}:` });
    await store.ready();
    const session = ['"'.repeat(10_000)];
    await Promise.all(chats.map((chat) => store.set(chat, session)));
    await Promise.all(chats.map((chat) => store.update(chat, () => [...session, "b"])));
    assert.deepEqual(await store.get("chat:1"), [...session, "b"]);
    const sizes = own.requests.map(({ size }) => size);
    assert.ok(Math.max(...sizes) < own.maxRequestSize, String(sizes));
    const large = "x".repeat(own.maxRequestSize);
    const error = { name: "TooLargeError", key: "k", message: /ERR max request size exceeded/ };
    await store.set("k", 1);
    await assert.rejects(store.set("k", large), error);
    await assert.rejects(store.update("k", () => large), error);
    const both = await Promise.allSettled([store.set("k", large), store.set("other", 2)]);
    assert.deepEqual(both.map(({ status }) => status), ["rejected", "fulfilled"]);
    assert.deepEqual([await store.get("k"), await store.get("other")], [1, 2]);
    await store.clear();
  });

  it("Redis with Upstash's client refuses readYourWrites: false, and other objects", () => {
    const client = clientOf(bridge, { readYourWrites: false });
    assert.throws(() => Redis({ client }), {
      name: "TypeError",
      message:
        'Redis: option "client" must read from the primary, because replicas may be behind: ' +
        "set its readYourWrites to true, but it is false",
    });
    // deno-lint-ignore no-explicit-any
    const pipeline = clientOf(bridge).pipeline() as any;
    assert.throws(() => Redis({ client: pipeline }), {
      name: "TypeError",
      message: /option "client" must be .* or a client of @upstash\/redis, but is/,
    });
  });

  it("Redis with Upstash's client leaves the client as it is", async () => {
    const client = clientOf(bridge);
    const key = place();
    const store = Redis({ client });
    await store.set(key, { a: 1 });
    await store.close();
    assert.deepEqual(await client.get(`telegraf:${key}`), { a: 1 });
    assert.equal(await client.del(`telegraf:${key}`), 1);
  });
});

/** Tests that only Redis with clients of @upstash/redis needs. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { inspect } from "node:util";
import { Redis as Upstash, type Requester } from "@upstash/redis";
import * as redis6 from "redis";
import { Redis } from "../../redis.ts";
import { transient } from "../../src/redis/errors.ts";
import { backendOf } from "../../src/store/factory.ts";
import { assertLists } from "../../src/testing/harness.ts";
import { Cleanup } from "../support/cleanup.ts";
import { conformance } from "../support/conformance.ts";
import { chats, exercise, exerciseLeases } from "../support/exercise.ts";
import { requireVersion } from "../support/packages.ts";
import { place, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { Bridge } from "../support/upstash.ts";

const redisUrl = serverUrl("redis");
const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/redis");

type Options = Partial<ConstructorParameters<typeof Upstash>[0]>;

let bridge: Bridge;
before(async () => bridge = await Bridge.to(redisUrl));
after(() => bridge[Symbol.asyncDispose]());

/** Creates a client of a bridge. */
function clientOf({ url, token }: Bridge, options: Options = {}): Upstash {
  return new Upstash({ url, token, ...options });
}

/** Runs a function with a direct connection, without the store. */
async function direct<T>(
  work: (client: ReturnType<typeof redis6.createClient>) => Promise<T>,
): Promise<T> {
  const client = redis6.createClient({ url: redisUrl });
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

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
    store: (where, more) =>
      Redis({ client: clientOf(bridge, options), prefix: `${where}:`, ...more }),
    backend: (where, more) =>
      backendOf(Redis, { client: clientOf(bridge, options), prefix: `${where}:`, ...more }),
    drop: (where) =>
      direct(async (client) => {
        for await (const keys of client.scanIterator({ MATCH: `${where}:*`, COUNT: 1000 })) {
          if (keys.length > 0) await client.del(keys);
        }
      }),
    corrupt: (where, key) =>
      direct(async (client) => void await client.set(`${where}:${key}`, "{no JSON")),
    async writeOld(where, key, session) {
      const client = redis6.createClient({ url: redisUrl });
      try {
        await upstream.Redis({ client, prefix: `${where}:` }).set(key, session); // connects it
      } finally {
        client.destroy();
      }
    },
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
});

/** Tests of Redis with replies that only proxies send, for example Envoy before several servers. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describe, it } from "node:test";
import { Redis } from "../../redis.ts";
import { urlWith } from "../suites/faults.ts";
import { requireVersion } from "../support/packages.ts";
import { Proxy } from "../support/proxy.ts";
import { place, serverUrl } from "../support/servers.ts";

const url = serverUrl("redis");

interface OwnClient {
  on(event: "error", listener: () => void): unknown;
  destroy?(): void;
  disconnect(): unknown;
}

/** Makes a client of each driver. */
const clients: Record<string, (url: string) => OwnClient> = {
  "node-redis 4": (url) => requireVersion("redis", "4").createClient({ url }),
  "node-redis 5": (url) => requireVersion("redis", "5").createClient({ url }),
  "node-redis 6": (url) => requireVersion("redis", "6").createClient({ url }),
  "ioredis 5": (url) => new (requireVersion("ioredis", "5").Redis)(url, { lazyConnect: true }),
  "ioredis 6": (url) => new (requireVersion("ioredis", "6").Redis)(url, { lazyConnect: true }),
};

describe("Redis behind a proxy", () => {
  for (const [title, make] of Object.entries(clients)) {
    it(`Redis does not read an error among the replies of a batch as a session (${title})`, async () => {
      await using proxy = await Proxy.to(url);
      const client = make(urlWith(url, { host: proxy.host }));
      client.on("error", () => {});
      try {
        // With "discard", a reply that cannot be decoded counts as a missing session, and the next
        // `set` overwrites the stored one.
        const options = { client, prefix: `${place()}:`, onCorrupt: "discard" } as object;
        await using store = Redis(options);
        await Promise.all([store.set("a", 1), store.set("b", 2)]);
        let errors = 0;
        proxy.answer = (request) => {
          if (!/mget/i.test(String(request)) || ++errors > 2) return undefined;
          return Buffer.from("*2\r\n$1\r\n1\r\n-upstream failure\r\n");
        };
        assert.deepEqual(await Promise.all([store.get("a"), store.get("b")]), [1, 2]);
        assert.equal(errors, 3);
        proxy.answer = (request) =>
          /mget/i.test(String(request))
            ? Buffer.from("*2\r\n-WRONGTYPE of b\r\n-WRONGTYPE of a\r\n")
            : undefined;
        // A permanent error belongs to one of the keys, so the store reads each key separately.
        assert.deepEqual(await Promise.all([store.get("a"), store.get("b")]), [1, 2]);
        proxy.answer = undefined;
        await store.clear();
      } finally {
        client.destroy === undefined ? client.disconnect() : client.destroy();
      }
    });
  }

  it("Redis repeats a batch that the proxy wrote only in part", async () => {
    await using proxy = await Proxy.to(url);
    const prefix = `${place()}:`;
    await using store = Redis({ url: urlWith(url, { host: proxy.host }), prefix });
    let errors = 0;
    proxy.answer = (request) =>
      /mset/i.test(String(request)) && ++errors < 3
        ? Buffer.from("-finished with 1 error(s)\r\n")
        : undefined;
    await Promise.all([store.set("a", 1), store.set("b", 2)]);
    assert.equal(errors, 3);
    assert.deepEqual(await Promise.all([store.get("a"), store.get("b")]), [1, 2]);
    await store.clear();
  });
});

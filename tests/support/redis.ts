/** What the tests of stores in Redis do without the store. */

import { createClient } from "redis";
import { requireVersion } from "./packages.ts";
import type { Harness } from "./conformance.ts";

const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/redis");

/** Access to a server. */
export function redisAt(url: string) {
  const create = () => createClient({ url }).on("error", () => {});

  /** Runs a function with a direct connection, without the store. */
  async function direct<T>(work: (client: ReturnType<typeof create>) => Promise<T>): Promise<T> {
    const client = create();
    await client.connect();
    try {
      return await work(client);
    } finally {
      client.destroy();
    }
  }

  /** What the conformance suite does with the data of places, which are prefixes without their colon. */
  const data: Pick<Harness, "drop" | "corrupt" | "writeOld"> = {
    drop: (where) =>
      direct(async (client) => {
        for await (const keys of client.scanIterator({ MATCH: `${where}:*`, COUNT: 1000 })) {
          if (keys.length > 0) await client.del(keys);
        }
      }),
    corrupt: (where, key) => direct((client) => client.set(`${where}:${key}`, "{no JSON")),
    async writeOld(where, key, session) {
      const client = create();
      try {
        await upstream.Redis({ client, prefix: `${where}:` }).set(key, session); // connects it
      } finally {
        client.destroy();
      }
    },
  };
  return { direct, data };
}

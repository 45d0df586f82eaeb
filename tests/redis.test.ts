import { createClient } from "redis";
import { Redis } from "../redis.ts";
import { conformance, type Harness } from "./conformance.ts";
import { serverUrl } from "./servers.ts";
import { underTelegraf } from "./telegraf.ts";

const url = serverUrl("redis");

/** A connected client of the test's own. */
const connected = () => createClient({ url }).on("error", () => {}).connect();

/** Works past the store. */
async function direct<T>(
  work: (client: Awaited<ReturnType<typeof connected>>) => Promise<T>,
): Promise<T> {
  const client = await connected();
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

const harness: Harness = {
  name: "Redis",
  dates: "text",
  store: (where, options) => Redis({ url, prefix: `${where}:`, ...options }),
  drop: (where) =>
    direct(async (client) => {
      for await (const keys of client.scanIterator({ MATCH: `${where}:*`, COUNT: 1000 })) {
        if (keys.length > 0) await client.del(keys);
      }
    }),
  corrupt: (where, key) =>
    direct(async (client) => void await client.set(`${where}:${key}`, "{no JSON")),
};

conformance(harness);
underTelegraf(harness);

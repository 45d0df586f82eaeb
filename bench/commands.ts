/** Counts the commands of a burst. The count does not depend on the speed of the server. */

import type { MongoClient } from "mongodb";
import { requireVersion } from "../tests/support/packages.ts";
import { ours, type Store, upstream } from "./contenders.ts";
import { tableName } from "./throughput.ts";
import { fill, workloads } from "./workloads.ts";

/** Counts the commands of a burst of 100 chats, with 100 stored sessions. */
export async function countCommands(url: string): Promise<Record<string, number>> {
  const { MongoClient } = await import("mongodb");
  const { Mongo } = await import("../mongodb.ts");
  const makers: Record<string, (client: MongoClient, collection: string) => Store> = {
    [ours]: (client, collection) => Mongo({ client, collection }),
    [upstream](client, collection) {
      const { Mongo } = requireVersion("@telegraf/session", "2.0.0-beta.7", "/mongodb");
      return { ...Mongo({ client, collection }), close() {} };
    },
  };
  const counts: Record<string, number> = {};
  for (const [name, make] of Object.entries(makers)) {
    const client = await new MongoClient(url, { monitorCommands: true }).connect();
    const burst = workloads.find(({ name }) => name === "burst")!;
    const store = make(client, tableName());
    await fill(store, burst.keys, 300);
    const run = burst.prepare(store, 300);
    await run();
    let count = 0;
    client.on("commandStarted", () => count++);
    await run();
    counts[name] = count;
    await store.close();
    await client.close();
  }
  return counts;
}

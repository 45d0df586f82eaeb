/** Removes the data of the benchmark from a server. */

import { type Backend, mongoClient, redisClient } from "./contenders.ts";

/** Deletes the data of the stores with these names. SQLite files are deleted with their folder. */
export async function cleanUp(backend: Backend, url: string, names: string[]): Promise<void> {
  switch (backend) {
    case "redis": {
      const client = await redisClient(url);
      // One scan for all names, because some have a million keys.
      const ours = new Set(names);
      for await (const keys of client.scanIterator({ MATCH: "*bench_*", COUNT: 1000 })) {
        const made = keys.filter((key) => ours.has(key.match(/bench_[a-z0-9]+/)![0]));
        if (made.length > 0) await client.unlink(made);
      }
      client.destroy();
      break;
    }
    case "postgres": {
      const { default: { Client } } = await import("pg");
      const client = new Client(url);
      await client.connect();
      for (const name of names) await client.query(`DROP TABLE IF EXISTS "${name}"`);
      await client.end();
      break;
    }
    case "mysql": {
      const { createConnection } = await import("mysql2/promise");
      const connection = await createConnection(url);
      for (const name of names) await connection.query(`DROP TABLE IF EXISTS \`${name}\``);
      await connection.end();
      break;
    }
    case "mongodb": {
      await using client = await mongoClient(url);
      for (const name of names) await client.db().dropCollection(name).catch(() => {});
      break;
    }
    case "sqlite":
  }
}

/**
 * Sends updates to a store of any entry. Its arguments: the entry, the factory in it, and options as JSON:
 * those of the store, and as `upstash` those of a client of `@upstash/redis`.
 */

import process from "node:process";
import { fileURLToPath } from "node:url";
import { runUpdates } from "../../testing.ts";
import { entry } from "./process.ts";

async function main(path: string, factory: string, json: string): Promise<void> {
  const { [factory]: make } = await import(fileURLToPath(entry(path, import.meta.url)));
  const { upstash, ...options } = JSON.parse(json);
  const client = upstash && { client: new (await import("@upstash/redis")).Redis(upstash) };
  await runUpdates(make({ ...options, ...client, timeout: 300_000 }));
}

main(...process.argv.slice(2) as [string, string, string]);

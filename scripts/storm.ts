/**
 * Counts updates that several processes lose under `exclusive()`: 2, 4 and 8 processes, 1, 20 and 1,000
 * chats, handlers of 0, 20 and 200 ms. Every process sends all its updates at the same time.
 *
 * Usage: `deno run -A scripts/storm.ts [--updates 400] [--processes 2,4,8] [--chats 1,20,1000]
 * [--handlers 0,20,200] [store …]`
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { Worker } from "../tests/support/worker.ts";
import { startServers } from "./servers/index.ts";

const { values, positionals } = parseArgs({
  options: {
    updates: { type: "string", default: "400" },
    processes: { type: "string", default: "2,4,8" },
    chats: { type: "string", default: "1,20,1000" },
    handlers: { type: "string", default: "0,20,200" },
  },
  allowPositionals: true,
});
const numbers = (text: string) => text.split(",").map(Number);

const servers = await startServers({ own: true, documentdb: true, log: console.log });
const folder = mkdtempSync(join(tmpdir(), "storm-"));
const { redis, postgres, mysql } = servers.urls;
const { product, url } = servers.servers.mongodb;
// FerretDB 1 has no leases.
const mongodb = product === "MongoDB" ? url : servers.documentdb?.url;
const stores: Record<
  string,
  [module: string, factory: string, options: (place: string) => object]
> = {
  redis: ["redis", "Redis", (prefix) => ({ url: redis, prefix: `${prefix}:` })],
  pg: ["pg", "Postgres", (table) => ({ url: postgres, table })],
  mysql: ["mysql", "MySQL", (table) => ({ url: mysql, table })],
  denokv: ["denokv", "DenoKV", (prefix) => ({ path: join(folder, "storm.kv"), prefix })],
  sqlite: ["sqlite", "SQLite", (name) => ({ filename: join(folder, name) })],
  mongodb: ["mongodb", "Mongo", (collection) => ({ url: mongodb, collection })],
};

/** Runs one storm, and returns its row in the table. */
async function storm(store: string, processes: number, chats: number, handler: number) {
  const [module, factory, optionsOf] = stores[store]!;
  const options = { ...optionsOf(`storm-${randomBytes(4).toString("hex")}`), timeout: 60_000 };
  const each = Math.ceil(Number(values.updates) / processes);
  const workers = Array.from({ length: processes }, () => new Worker([module, factory]));
  try {
    for (const worker of workers) await worker.call("openStorm", "bot", options, handler);
    const started = performance.now();
    const results = await Promise.all(
      workers.map((worker) => worker.call("storm", "bot", chats, each)),
    ) as { acknowledged: number; errors: number; waits: number[] }[];
    const ms = performance.now() - started;
    const stored = await workers[0]!.call("total", "bot", chats) as number;
    const acknowledged = results.reduce((sum, it) => sum + it.acknowledged, 0);
    const errors = results.reduce((sum, it) => sum + it.errors, 0);
    const waits = results.flatMap((it) => it.waits).sort((a, b) => a - b);
    for (const worker of workers) await worker.call("close", "bot");
    return {
      store,
      processes,
      chats,
      "handler ms": handler,
      acknowledged,
      errors,
      lost: acknowledged - stored,
      "updates/s": Math.round(acknowledged / ms * 1000),
      "median wait ms": Math.round(waits[waits.length >> 1] ?? 0),
      "longest wait ms": Math.round(waits.at(-1) ?? 0),
    };
  } finally {
    for (const worker of workers) await worker[Symbol.asyncDispose]();
  }
}

let lost = 0;
try {
  const rows: Awaited<ReturnType<typeof storm>>[] = [];
  const all = Object.keys(stores).filter((name) => name !== "mongodb" || mongodb !== undefined);
  for (const store of positionals.length > 0 ? positionals : all) {
    for (const processes of numbers(values.processes)) {
      for (const chats of numbers(values.chats)) {
        for (const handler of numbers(values.handlers)) {
          const row = await storm(store, processes, chats, handler);
          rows.push(row);
          lost += Math.abs(row.lost);
          console.log(Object.values(row).join("\t"));
        }
      }
    }
  }
  console.table(rows);
} finally {
  await servers.stop();
  rmSync(folder, { recursive: true, force: true });
}
if (lost > 0) throw new Error(`${lost} updates were lost, or stored twice`);
process.exit();

/** The cost of many stored sessions: time, memory of the process, and space in the database. */

import { existsSync, statSync } from "node:fs";
import process from "node:process";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import {
  type Backend,
  bare,
  cached,
  contenders,
  ours,
  redisClient,
  type Store,
  upstream,
} from "./contenders.ts";
import { start } from "./process.ts";
import { compare, type Effort, measure, type Result } from "./runner.ts";
import { tableName } from "./throughput.ts";
import { fill, key, update } from "./workloads.ts";

const open = (backend: Backend, store: string, url: string, place: string) =>
  contenders[backend].find(({ name }) => name === store)!.open(url, place);

/** Measures how fast our store is with each number of stored sessions. */
export async function growth(
  backend: Backend,
  url: string,
  counts: number[],
  effort: Effort,
): Promise<Record<"one" | "burst", Result[]>> {
  const stores: Store[] = [];
  try {
    for (const count of counts) {
      const store = await open(backend, ours, url, tableName());
      stores.push(store);
      await fill(store, count, 300, 2000);
    }
    const named = counts.map((count) => `${count.toLocaleString("en-US")} sessions`);
    const randomKey = (i: number) => key(Math.floor(Math.random() * counts[i]!));
    const run = async (tasks: (i: number) => () => Promise<unknown>, count: number) =>
      compare(
        await measure(named.map((name, i) => ({ name, run: tasks(i) })), count, effort),
        [named[0]!],
      );
    return {
      one: await run((i) => () => update(stores[i]!, randomKey(i)), 1),
      burst: await run((i) => async () => {
        const keys = new Set(Array.from({ length: 100 }, () => randomKey(i)));
        await Promise.all(Array.from(keys, (key) => update(stores[i]!, key)));
      }, 100),
    };
  } finally {
    await Promise.all(stores.map((store) => store.close()));
  }
}

/** Memory and space after many sessions were stored and read. */
export interface Memory {
  store: string;
  /** Growth of the heap of the process, in bytes. */
  heap: number;
  /** Memory of the process at the end, in bytes. */
  resident: number;
  /** Space per session in the database, in bytes; undefined if the database does not report it. */
  stored?: number;
}

/** Measures each store in its own process. */
export async function memory(backend: Backend, url: string, count: number): Promise<Memory[]> {
  const results: Memory[] = [];
  for (const store of [ours, upstream, bare]) {
    // 2.0.0-beta.7 would take minutes, because it writes each session to the disk separately.
    if (backend === "sqlite" && store === upstream) continue;
    results.push({ store, ...await measureAlone(backend, store, url, count) });
  }
  return results;
}

async function measureAlone(
  backend: Backend,
  store: string,
  url: string,
  count: number,
): Promise<Omit<Memory, "store">> {
  const file = fileURLToPath(import.meta.url);
  const child = start(file, [backend, store, url, String(count), tableName()]);
  return JSON.parse(await text(child.stdout));
}

/** The size of a session of 300 bytes in the cache, as bytes of the heap. */
export async function cachedSize(backend: Backend, url: string): Promise<number> {
  const count = 10_000;
  const [own, other] = [
    await measureAlone(backend, cached, url, count),
    await measureAlone(backend, ours, url, count),
  ];
  return (own.heap - other.heap) / (count - 1000);
}

async function measureMemory(
  backend: Backend,
  name: string,
  url: string,
  count: number,
  place: string,
): Promise<Omit<Memory, "store">> {
  const collect = (globalThis as unknown as { gc(): void }).gc;
  const store = await open(backend, name, url, place);
  await fill(store, 1000, 300);
  collect();
  const before = process.memoryUsage().heapUsed;
  const room = await stored(backend, url, place);
  await fill(store, count, 300);
  for (let i = 0; i < count; i += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, j) => store.get(key(i + j))));
  }
  collect();
  const { heapUsed, rss } = process.memoryUsage();
  const after = await stored(backend, url, place);
  await store.close();
  return {
    heap: heapUsed - before,
    resident: rss,
    stored: after === undefined ? undefined : (after - room!) / (count - 1000),
  };
}

/** Bytes that the sessions of a place occupy; undefined if the database does not report it. */
async function stored(backend: Backend, url: string, place: string): Promise<number | undefined> {
  switch (backend) {
    case "redis": {
      const client = await redisClient(url);
      const info = String(await client.info("memory"));
      client.destroy();
      return Number(info.match(/used_memory_dataset:(\d+)/)![1]);
    }
    case "postgres": {
      const { default: { Client } } = await import("pg");
      const client = new Client(url);
      await client.connect();
      const { rows } = await client.query("SELECT pg_total_relation_size($1) AS size", [
        `"${place}"`,
      ]);
      await client.end();
      return Number(rows[0].size);
    }
    case "mysql": {
      const { createConnection } = await import("mysql2/promise");
      const connection = await createConnection(url);
      await connection.query(`ANALYZE TABLE \`${place}\``);
      const [rows] = await connection.query(
        `SELECT DATA_LENGTH + INDEX_LENGTH AS size FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?`,
        [place],
      );
      await connection.end();
      return Number((rows as { size: number }[])[0]!.size);
    }
    case "sqlite":
      return ["", "-wal"].map((end) => `${url}/${place}.sqlite${end}`)
        .reduce((sum, path) => sum + (existsSync(path) ? statSync(path).size : 0), 0);
    case "mongodb":
      return undefined;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [backend, store, url, count, place] = process.argv.slice(2) as [
    Backend,
    string,
    string,
    string,
    string,
  ];
  console.log(JSON.stringify(await measureMemory(backend, store, url, Number(count), place)));
  process.exit(); // some stores leave connections open
}

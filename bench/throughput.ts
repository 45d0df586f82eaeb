/** Measures how fast the stores are. */

import {
  bare,
  cached,
  type Contender,
  ours,
  required,
  type Store,
  upstream,
} from "./contenders.ts";
import {
  compare,
  type Effort,
  measure,
  type Measured,
  type Result,
  speedup,
  type Task,
} from "./runner.ts";
import { botOnly, fill, type Workload } from "./workloads.ts";

export interface Cell {
  workload: string;
  /** Size of a session, in bytes. */
  size: number;
  /** Delay that was added to each round trip, in ms. */
  delay: number;
  results: Result[];
}

export interface Plan extends Effort {
  /** How often all stores are opened. One table or connection may be unusually fast or slow. */
  openings: number;
}

/** The name of the bot with Telegraf's own store, as a reference. */
export const inMemory = botOnly[0]!.name;

/** The name of our store without `cache`, as a reference for the store with it. */
export const uncached = "without cache";

/** Measures the stores in one workload. */
export async function throughput(
  url: string,
  contenders: Contender[],
  workload: Workload,
  size: number,
  plan: Plan,
): Promise<Result[]> {
  const measured: Measured[] = [];
  let working = contenders;
  for (let opening = 0; opening < plan.openings; opening++) {
    const stores: Store[] = [];
    const tasks: Task[] = [];
    try {
      for (const { name, open } of working) {
        try {
          const store = await within(20_000, open(url, tableName()));
          await within(20_000, fill(store, workload.keys, size));
          stores.push(store);
          tasks.push({ name, run: workload.prepare(store, size) });
        } catch (error) {
          // Some stores do not work with some servers, for example keyv with FerretDB.
          if (required.includes(name)) throw error;
          console.error(`${name} is skipped: ${(error as Error).message}`);
          working = working.filter((other) => other.name !== name);
        }
      }
      if (workload.name === "bot") {
        for (const { name, open } of botOnly) {
          tasks.push({ name, run: workload.prepare(open(), size) });
        }
      }
      const results = await measure(tasks, workload.count, {
        ...plan,
        warmUp: opening === 0 ? plan.warmUp : 4, // later the code is warm already
      });
      for (const { name, times } of results) {
        const before = measured.find((one) => one.name === name);
        if (before === undefined) measured.push({ name, times });
        else before.times.push(...times);
      }
    } finally {
      await Promise.all(stores.map((store) => store.close()));
    }
  }
  const results = compare(measured, [upstream, bare, inMemory]);
  const at = (name: string) => measured.findIndex((one) => one.name === name);
  if (at(cached) >= 0 && at(ours) >= 0) {
    results[at(cached)]!.speedup[uncached] = speedup(measured[at(cached)]!, measured[at(ours)]!);
  }
  return results;
}

/** Returns the result of the work, or rejects after this many ms. */
export async function within<T>(ms: number, work: T | Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`timed out after ${ms} ms`)), ms);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** All names that `tableName()` has returned. */
export const tableNames: string[] = [];

/** Returns a new name for a table, collection, prefix or file. */
export function tableName(): string {
  const name = `bench_${Math.random().toString(36).slice(2, 10)}`;
  tableNames.push(name);
  return name;
}

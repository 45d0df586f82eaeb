/** How fast the stores are, in each workload. */

import { bare, type Contender, type Store, upstream } from "./contenders.ts";
import { compare, type Effort, measure, type Measured, type Result, type Task } from "./runner.ts";
import { botOnly, fill, type Workload } from "./workloads.ts";

export interface Cell {
  workload: string;
  /** Of a session, in bytes. */
  size: number;
  /** Added to each round trip, in ms. */
  delay: number;
  results: Result[];
}

export interface Plan extends Effort {
  /** How often all stores are opened anew: a table or connection may have good or bad luck. */
  openings: number;
}

const memory = botOnly[0]!.name;

/** Measures the stores in one workload. */
export async function throughput(
  url: string,
  contenders: Contender[],
  workload: Workload,
  size: number,
  plan: Plan,
): Promise<Result[]> {
  const measured: Measured[] = [];
  for (let opening = 0; opening < plan.openings; opening++) {
    const stores: Store[] = [];
    const tasks: Task[] = [];
    try {
      for (const { name, open } of contenders) {
        const store = await open(url, tableName());
        stores.push(store);
        await fill(store, workload.keys, size);
        tasks.push({ name, run: workload.prepare(store, size) });
      }
      if (workload.name === "bot") {
        for (const { name, open } of botOnly) {
          tasks.push({ name, run: workload.prepare(open(), size) });
        }
      }
      const results = await measure(tasks, workload.count, plan);
      results.forEach(({ name, times }, i) => {
        (measured[i] ??= { name, times: [] }).times.push(...times);
      });
    } finally {
      for (const store of stores) await store.close();
    }
  }
  return compare(measured, [upstream, bare, memory]);
}

/** Fit for a table, collection, prefix and file. */
export function tableName(): string {
  return `bench_${Math.random().toString(36).slice(2, 10)}`;
}

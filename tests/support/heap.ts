/** Measures the memory in use after garbage collection, on each runtime. */

import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Collects all garbage synchronously. */
export const collect: () => void = (() => {
  const { Bun } = globalThis as { Bun?: { gc(now: boolean): void } };
  if (Bun) return () => Bun.gc(true);
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc");
})();

/** The used heap in bytes, after garbage collection. */
export function heapUsed(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

/** The growth of the heap in bytes: the median of the last third minus that of the middle third. */
export function growth(heap: number[]): number {
  const third = Math.floor(heap.length / 3);
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
  return median(heap.slice(-third)) - median(heap.slice(third, 2 * third));
}

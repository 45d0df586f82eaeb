/** How much memory is in use once the garbage is gone, on each runtime. */

import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Collects all garbage, at once. */
export const collect: () => void = (() => {
  const { Bun } = globalThis as { Bun?: { gc(now: boolean): void } };
  if (Bun) return () => Bun.gc(true);
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc");
})();

/** How many bytes of the heap are in use. */
export function heapUsed(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

/** By how many bytes the heap has grown: its median in the last third against the one in the middle. */
export function growth(heap: number[]): number {
  const third = Math.floor(heap.length / 3);
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
  return median(heap.slice(-third)) - median(heap.slice(third, 2 * third));
}

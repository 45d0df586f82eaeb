/** The reports of the benchmark, as they are stored and printed. */

import process from "node:process";
import { cpus, totalmem } from "node:os";
import { bare, cached, ours, upstream } from "./contenders.ts";
import type { Usage } from "./cpu.ts";
import type { Memory } from "./growth.ts";
import type { Quartiles, Result } from "./runner.ts";
import { type Cell, uncached } from "./throughput.ts";

/** The results of one backend. */
export interface Report {
  backend: string;
  /** Product and version. */
  server: string;
  /** A warning to readers of the numbers. */
  remark?: string;
  runtime: string;
  machine: string;
  date: string;
  /** Versions of the peers, by package name. */
  versions: Record<string, string>;
  cells: Cell[];
  /** CPU time of the client, by workload. */
  cpu?: Record<string, Usage[]>;
  /** What `exclusive()` costs, by workload. */
  exclusive?: Record<string, Result[]>;
  startup?: Result[];
  /** Speed of our store with each number of stored sessions. */
  growth?: Record<"one" | "burst", Result[]>;
  memory?: Memory[];
  /** Bytes of the heap for a session of 300 bytes in the cache. */
  cachedSize?: number;
  /** Commands of a burst of 100 chats, by store. */
  commands?: Record<string, number>;
}

export function runtime(): string {
  const { deno, node } = process.versions as { deno?: string; node: string };
  return deno ? `Deno ${deno}` : `Node.js ${node}`;
}

export function machine(): string {
  const all = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${all.length} × ${all[0]?.model.trim() || "unknown CPU"}, ${memory} GB`;
}

/** A table with one line per store. */
export function table(title: string, results: Result[], unit = "µs"): string {
  const references = [...new Set(results.flatMap(({ speedup }) => Object.keys(speedup)))];
  const rows = results.map(({ store, time, speedup }) => [
    store,
    number(unit === "ms" ? time.median / 1000 : time.median),
    ...references.map((name) => quartiles(speedup[name])),
  ]);
  return grid(title, ["", unit, ...references.map((name) => `× ${name}`)], rows);
}

/** A table of the CPU time of the client, with one line per store. */
export function cpuTable(title: string, results: Usage[]): string {
  const references = Object.keys(results[0]?.relative ?? {});
  const counted = results.some(({ instructions }) => instructions !== undefined);
  const rows = results.map(({ store, cpu, relative, instructions }) => [
    store,
    quartiles(cpu),
    ...references.map((name) => quartiles(relative[name])),
    ...(counted ? [quartiles(instructions)] : []),
  ]);
  const heads = references.map((name) => `CPU / ${name}`);
  return grid(title, ["", "µs of CPU", ...heads, ...(counted ? ["instructions"] : [])], rows);
}

/** A table whose first column has names, and the others numbers. */
export function grid(title: string, head: string[], rows: string[][]): string {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)));
  const line = (row: string[]) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ")
      .trimEnd();
  return [title, line(head), ...rows.map(line)].join("\n") + "\n";
}

/** A table of memory and space: heap and process in MB, database in bytes per session. */
export function memoryTable(title: string, results: Memory[]): string {
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const rows = results.map(({ store, heap, resident, stored }) =>
    [
      store,
      `heap ${heap < 0 ? "" : "+"}${megabytes(heap)}`,
      `process ${megabytes(resident)}`,
      stored === undefined ? "" : `${stored.toFixed(0)} bytes each in the database`,
    ].map((cell, i) => cell.padEnd([20, 16, 18, 0][i]!)).join("  ").trimEnd()
  );
  return [title, ...rows].join("\n") + "\n";
}

/** The median, then both quartiles in parentheses. */
function quartiles(measured: Quartiles | undefined): string {
  if (measured === undefined) return "";
  const { low, median, high } = measured;
  return `${number(median)} (${number(low)}–${number(high)})`;
}

export function number(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The speed of our store relative to 2.0.0-beta.7 and to the bare driver, and of `cache` to it. */
export function summary({ cells }: Report): string {
  const lines = cells.flatMap(({ workload, size, delay, results }) => {
    const result = results.find(({ store }) => store === ours);
    if (result === undefined) return [];
    const fastest = [...results]
      .filter(({ store }) => store === ours || !/^@telegraf|^bare|memory|no session/.test(store))
      .sort((a, b) => a.time.median - b.time.median)[0]!;
    const { [upstream]: old, [bare]: limit } = result.speedup;
    const more = results.find(({ store }) => store === cached)?.speedup[uncached];
    return [
      [
        `${workload}, ${size} bytes${delay ? `, ${delay} ms` : ""}`,
        old ? `${number(old.median)} × beta.7` : "",
        limit ? `${number(limit.median)} × bare` : "",
        more ? `cache: ${number(more.median)} ×` : "",
        fastest.store === ours ? "" : `faster: ${fastest.store}`,
      ].map((cell, i) => cell.padEnd([28, 14, 12, 14, 0][i]!)).join("  ").trimEnd(),
    ];
  });
  return lines.join("\n");
}

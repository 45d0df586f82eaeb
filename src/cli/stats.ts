/**
 * `stats URL`.
 *
 * @module
 */

import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";
import type { Context } from "./context.ts";
import { sizeOf } from "./convert.ts";
import { Database } from "./database.ts";
import { exit, interruption } from "./failure.ts";
import { startProgressOf } from "./progress.ts";
import { bytes, count } from "./text.ts";
import { sourceOf } from "./transfer.ts";
import { locate } from "./url.ts";

const hour = 60 * 60 * 1000;
const day = 24 * hour;

/** Groups of sessions, by the time until they expire: the upper limit, in ms. */
const groups = [
  ["expired", 0],
  ["within an hour", hour],
  ["within a day", day],
  ["within a week", 7 * day],
  ["within 30 days", 30 * day],
  ["later", Infinity],
] as const;

/** Prints the number of sessions, their sizes, when they expire, and how they are stored. */
export async function stats(url: string, context: Context): Promise<number> {
  const { stdout, stderr, signal } = context;
  await using database = await Database.open(locate(url), context);
  let sessions = 0;
  let total = 0;
  const largest: { key: string; size: number }[] = [];
  const histogram = new Map(["never", ...groups.map(([name]) => name)].map((name) => [name, 0]));
  const versions = new Map<string, number>();
  const ways = new Map<string, number>();
  const now = Date.now();
  const progress = await startProgressOf(database, stderr);
  try {
    for await (const { entries, read } of sourceOf(database).batches()) {
      if (signal.aborted) throw interruption();
      for (const { key, value, expires } of await read(entries.map(({ key }) => key))) {
        const size = sizeOf(database.format, value.stored);
        sessions++;
        total += size;
        largest.push({ key, size });
        const group = expires === undefined
          ? "never"
          : groups.find(([, limit]) => expires - now <= limit)![0];
        add(histogram, group);
        add(versions, value.version === 0 ? "no version" : `version ${value.version}`);
        add(ways, wayOf(value));
      }
      largest.sort((a, b) => b.size - a.size).splice(5);
      progress.add(entries.length);
    }
  } finally {
    progress.stop();
  }
  if (signal.aborted) throw interruption();
  const average = sessions === 0 ? 0 : Math.round(total / sessions);
  const lines = [
    `${database.title}: ${count(sessions, "session")}, ${bytes(total)}, ${
      bytes(average)
    } on average`,
    "",
    "Largest:",
    ...largest.map(({ key, size }) => `  ${bytes(size).padStart(10)}  ${JSON.stringify(key)}`),
    "",
    "Expiry:",
    ...bars(histogram, sessions),
    ...isOnly(versions, "no version") ? [] : ["", "Versions:", ...bars(versions, sessions)],
    ...isOnly(ways, "as they are") ? [] : ["", "Stored:", ...bars(ways, sessions)],
  ];
  stdout.write(`${lines.join("\n")}\n`);
  return exit.ok;
}

/** How a session is stored, in words. */
function wayOf({ keyId, form, problem }: Plain<unknown>): string {
  if (keyId !== undefined) return `encrypted with key ${keyId}${form ? ", by a codec" : ""}`;
  if (problem instanceof StoreError) return "by a newer version of this package";
  return form ? "by a codec" : "as they are";
}

function add(histogram: Map<string, number>, group: string): void {
  histogram.set(group, (histogram.get(group) ?? 0) + 1);
}

/** Whether there are no other groups. */
function isOnly(histogram: Map<string, number>, group: string): boolean {
  return [...histogram.keys()].every((name) => name === group);
}

/** The lines of a histogram. */
function bars(histogram: Map<string, number>, total: number): string[] {
  const width = Math.max(14, ...[...histogram.keys()].map(({ length }) => length));
  return [...histogram].map(([group, number]) => {
    const bar = "#".repeat(Math.ceil(number / Math.max(1, total) * 30));
    return `  ${group.padEnd(width)} ${number.toLocaleString("en").padStart(12)}  ${bar}`.trimEnd();
  });
}

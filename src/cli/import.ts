/**
 * `import SOURCE TO`.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { document } from "../document.ts";
import { type Context, count, Failure, sentence } from "./context.ts";
import { Database, locate } from "./database.ts";
import { type Format, formats, type Others } from "./formats.ts";
import { progress } from "./progress.ts";
import { type Batch, conclude, type Mode, type Source, transfer } from "./transfer.ts";

/** How to read the source. */
export interface Import {
  /** The name of the format. */
  readonly format: string;
  /** Whether to leave keys unconverted. */
  readonly keepKeys: boolean;
  /** Whether to import sessions under any key. */
  readonly allKeys: boolean;
}

/** What was unusual in the source. */
interface Foreign {
  /** The number of keys that could not be converted. */
  keys: number;
  /** The number of entries that could not be read. */
  bad: number;
  /** Entries that were ignored. */
  others?: Others;
}

/** Imports sessions that `export` printed or that another package stored. */
export async function importSessions(
  from: string,
  to: string,
  mode: Mode & Import,
  context: Context,
): Promise<number> {
  const { stdout, stderr } = context;
  const there = locate(to);
  const format = formats[mode.format]!;
  const url = /:\/\//.test(from);
  if (!url && from !== "-" && !existsSync(from)) throw new Failure(`There is no file ${from}`);
  const started = performance.now();
  const purpose = mode.dryRun ? "look" : "fill";
  const warn = (text: string) => stderr.write(`${text}\n`);
  await using target = await Database.open(there, purpose, context, warn);
  const shown = await progress(stderr, undefined);
  const foreign: Foreign = { keys: 0, bad: 0 };
  const source: Source = {
    title: from === "-" ? "standard input" : url ? locate(from).title : from,
    codec: document,
    batches: () => batches(format, from, mode, target.limits.keys, foreign, context),
  };
  const outcome = await transfer(source, target, mode, shown, context).finally(() => shown.stop());
  if (foreign.others !== undefined) {
    const { others, thing, imported } = foreign.others;
    stdout.write(`Ignored ${count(others, thing)} of ${source.title}. ${imported}\n`);
  }
  if (foreign.keys > 0) {
    const kept = `Kept ${count(foreign.keys, "key")} unchanged`;
    const they = foreign.keys === 1 ? "it" : "they";
    stdout.write(
      `${kept} because ${they} cannot be converted to the form <user id>:<chat id>. ` +
        "If your bot uses its own getSessionKey, this is fine.\n",
    );
  }
  outcome.refused += foreign.bad;
  return conclude(outcome, source, target, mode, started, context);
}

/** Groups sessions into batches. */
async function* batches(
  { key: keyOf, read }: Format,
  from: string,
  { keepKeys, allKeys }: Import,
  size: number,
  foreign: Foreign,
  context: Context,
): AsyncGenerator<Batch> {
  let some = new Map<string, { key: string; value: unknown; expires?: number }>();
  const batch = (): Batch => {
    const entries = some;
    some = new Map();
    return {
      entries: [...entries.values()],
      read: (keys) => Promise.resolve(keys.map((key) => entries.get(key)!)),
    };
  };
  try {
    for await (const found of read(from, context, allKeys)) {
      if ("others" in found) {
        foreign.others = found;
        continue;
      }
      if ("error" in found) {
        foreign.bad++;
        context.stderr.write(`Not imported: ${found.where}: ${sentence(found.error)}\n`);
        continue;
      }
      const key = keyOf === undefined || keepKeys ? found.key : keyOf(found.key);
      if (key === undefined) foreign.keys++;
      const entry = { ...found, key: key ?? found.key };
      // Of duplicates the first one is used, because other packages use the first one in MongoDB.
      if (!some.has(entry.key)) some.set(entry.key, entry);
      if (some.size >= size) yield batch();
    }
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(`${from}: ${sentence(error)}`);
  }
  if (some.size > 0) yield batch();
}

/**
 * `import SOURCE TO`.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { performance } from "node:perf_hooks";
import type { Entry } from "../backend.ts";
import { document } from "../codec/document.ts";
import type { Plain } from "../codec/header.ts";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { Failure, sentence } from "./failure.ts";
import { type Format, formats, type Ignored } from "./formats.ts";
import { startProgress } from "./progress.ts";
import { count } from "./text.ts";
import { type Batch, type Mode, report, type Source, transfer } from "./transfer.ts";
import { locate } from "./url.ts";

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
interface Findings {
  /** The number of keys that could not be converted. */
  unconverted: number;
  /** The number of entries that could not be read. */
  unreadable: number;
  /** Entries that were ignored. */
  ignored?: Ignored;
}

/** Imports sessions that `export` printed or that another package stored. */
export async function importSessions(
  from: string,
  to: string,
  mode: Mode & Import,
  context: Context,
): Promise<number> {
  const { stdout, stderr } = context;
  const location = locate(to);
  const format = formats[mode.format]!;
  const url = /:\/\//.test(from);
  if (!url && from !== "-" && !existsSync(from)) throw new Failure(`There is no file ${from}`);
  const started = performance.now();
  const warn = (text: string) => stderr.write(`${text}\n`);
  const changes = !mode.dryRun;
  const access = { prepare: changes, changes, mayBeMissing: mode.dryRun, warn };
  await using target = await Database.open(location, context, access);
  const progress = startProgress(stderr, undefined);
  const findings: Findings = { unconverted: 0, unreadable: 0 };
  const source: Source = {
    title: from === "-" ? "standard input" : url ? locate(from).title : from,
    format: document,
    batches: () => batches(format, from, mode, target.limits.keys, findings, context),
  };
  const outcome = await transfer(source, target, mode, progress, context)
    .finally(() => progress.stop());
  if (findings.ignored !== undefined) {
    const { ignored, thing, imported } = findings.ignored;
    stdout.write(`Ignored ${count(ignored, thing)} of ${source.title}. ${imported}\n`);
  }
  if (findings.unconverted > 0) {
    const kept = `Kept ${count(findings.unconverted, "key")} unchanged`;
    const they = findings.unconverted === 1 ? "it" : "they";
    stdout.write(
      `${kept} because ${they} cannot be converted to the form <user id>:<chat id>. ` +
        "If your bot uses its own getSessionKey, this is fine.\n",
    );
  }
  outcome.refused += findings.unreadable;
  return report(outcome, source, target, mode, started, context);
}

/** Groups sessions into batches. */
async function* batches(
  { convertKey, read }: Format,
  from: string,
  { keepKeys, allKeys }: Import,
  size: number,
  findings: Findings,
  context: Context,
): AsyncGenerator<Batch> {
  let pending = new Map<string, Entry<Plain<unknown>>>();
  const takeBatch = (): Batch => {
    const entries = pending;
    pending = new Map();
    return {
      entries: [...entries.values()],
      read: (keys) => Promise.resolve(keys.map((key) => entries.get(key)!)),
    };
  };
  try {
    for await (const found of read(from, context, allKeys)) {
      if ("ignored" in found) {
        findings.ignored = found;
        continue;
      }
      if ("error" in found) {
        findings.unreadable++;
        context.stderr.write(`Not imported: ${found.where}: ${sentence(found.error)}\n`);
        continue;
      }
      const key = convertKey === undefined || keepKeys ? found.key : convertKey(found.key);
      if (key === undefined) findings.unconverted++;
      const { value: content, version = 0, expires } = found;
      const entry = { key: key ?? found.key, value: { version, content }, expires };
      // Of duplicates the first one is used, because other packages use the first one in MongoDB.
      if (!pending.has(entry.key)) pending.set(entry.key, entry);
      if (pending.size >= size) yield takeBatch();
    }
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(`${from}: ${sentence(error)}`);
  }
  if (pending.size > 0) yield takeBatch();
}

/**
 * `copy FROM TO`.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { exit, Failure } from "./failure.ts";
import { type Progress, startProgressOf } from "./progress.ts";
import { type Mode, report, sourceOf, transfer } from "./transfer.ts";
import { locate, type Location, parametersOf } from "./url.ts";

/** Copies all sessions of one database to another. */
export async function copy(
  from: string,
  to: string,
  mode: Mode,
  context: Context,
): Promise<number> {
  const { stderr } = context;
  let progress: Progress | undefined = undefined;
  const warn = (text: string) => {
    progress?.clear();
    stderr.write(`${text}\n`);
  };
  const [fromLocation, toLocation] = [locate(from), locate(to)];
  if (overlap(fromLocation, toLocation)) {
    throw new Failure(
      "FROM and TO share sessions; use another database, table, collection or prefix for TO",
      exit.usage,
    );
  }
  const started = performance.now();
  await using source = await Database.open(fromLocation, context, { warn });
  const changes = !mode.dryRun;
  const access = { prepare: changes, changes, mayBeMissing: mode.dryRun, warn };
  await using target = await Database.open(toLocation, context, access);
  progress = await startProgressOf(source, stderr);
  const batched = sourceOf(source, Math.min(source.limits.keys, target.limits.keys));
  const outcome = await transfer(batched, target, mode, progress, context)
    .finally(() => progress?.stop());
  return report(outcome, batched, target, mode, started, context);
}

/** Whether FROM and TO share sessions: then `copy` would read what it has just written. */
function overlap(from: Location, to: Location): boolean {
  if (from.kind !== to.kind || from.title !== to.title) return false;
  const [read, written] = [parametersOf(from), parametersOf(to)];
  // If a prefix begins with a shorter one, its keys also belong to the shorter one.
  if (from.kind === "redis") return written.prefix!.startsWith(read.prefix!);
  return Object.keys(read).every((name) => read[name] === written[name]);
}

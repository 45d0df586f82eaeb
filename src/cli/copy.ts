/**
 * `copy FROM TO`.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { type Context, exit, Failure } from "./context.ts";
import { Database, locate, type Location, placesOf } from "./database.ts";
import { progressOf } from "./progress.ts";
import { conclude, type Mode, sourceOf, transfer } from "./transfer.ts";

/** Copies all sessions of one database to another. */
export async function copy(
  from: string,
  to: string,
  mode: Mode,
  context: Context,
): Promise<number> {
  const { stderr } = context;
  const warn = (text: string) => stderr.write(`${text}\n`);
  const [here, there] = [locate(from), locate(to)];
  if (overlap(here, there)) {
    throw new Failure(
      "FROM and TO share sessions; use another database, table, collection or prefix for TO",
      exit.usage,
    );
  }
  const started = performance.now();
  await using source = await Database.open(here, "read", context, warn);
  const purpose = mode.dryRun ? "look" : "fill";
  await using target = await Database.open(there, purpose, context, warn);
  const shown = await progressOf(source, stderr);
  const batches = sourceOf(source, Math.min(source.limits.keys, target.limits.keys));
  const outcome = await transfer(batches, target, mode, shown, context)
    .finally(() => shown.stop());
  return conclude(outcome, batches, target, mode, started, context);
}

/** Whether FROM and TO share sessions: then `copy` would read what it has just written. */
function overlap(from: Location, to: Location): boolean {
  if (from.kind !== to.kind || from.title !== to.title) return false;
  const [here, there] = [placesOf(from), placesOf(to)];
  // If a prefix begins with a shorter one, its keys also belong to the shorter one.
  if (from.kind === "redis") return there.prefix!.startsWith(here.prefix!);
  return Object.keys(here).every((place) => here[place] === there[place]);
}

/**
 * `prune URL`.
 *
 * @module
 */

import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { exit, interruption } from "./failure.ts";
import { count } from "./text.ts";
import { locate } from "./url.ts";

/** Deletes expired sessions. */
export async function prune(url: string, context: Context): Promise<number> {
  await using database = await Database.open(locate(url), context);
  if (!database.prunes) {
    context.stdout.write(`${database.title} deletes expired sessions by itself.\n`);
    return exit.ok;
  }
  let total = 0;
  let deleted: number;
  do {
    deleted = await database.prune();
    total += deleted;
  } while (deleted > 0 && !context.signal.aborted);
  context.stdout.write(`Deleted ${count(total, "expired session")} from ${database.title}.\n`);
  if (context.signal.aborted) throw interruption();
  return exit.ok;
}

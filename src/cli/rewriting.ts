/**
 * Rewrites all sessions of a database, page by page, while bots use it.
 *
 * @module
 */

import type { Renew } from "../transform/rewrite.ts";
import type { Context } from "./context.ts";
import type { Database } from "./database.ts";
import { exit, Failure, refusal } from "./failure.ts";
import { startProgressOf } from "./progress.ts";
import { count } from "./text.ts";
import { sourceOf } from "./transfer.ts";

/** What a command does with sessions. */
export interface Change {
  /** What happens to them, for messages: "migrated". */
  readonly done: string;
  readonly renew: Renew;
  /** Called after each batch with the keys of the sessions that were rewritten, or would be. */
  add(keys: ReadonlySet<string>): void;
  /** The lines to print at the end. */
  summary(): string[];
}

/** Rewrites all sessions, or those that come before Ctrl-C. Prints the result. */
export async function rewriteAll(
  database: Database,
  { done, renew, add, summary }: Change,
  dryRun: boolean,
  { signal, stdout, stderr }: Context,
): Promise<number> {
  const progress = await startProgressOf(database, stderr);
  let refused = 0;
  const refuse = (key: string, error: unknown) => {
    refused++;
    progress.clear();
    stderr.write(`Not ${done}: session ${JSON.stringify(key)}: ${refusal(error)}\n`);
  };
  const rewrite = dryRun ? tryAll : database.rewrite.bind(database);
  try {
    for await (const { entries } of sourceOf(database).batches()) {
      if (signal.aborted) break;
      const keys = [...new Set(entries.map(({ key }) => key))];
      add(await rewrite(keys, renew, refuse));
      progress.add(entries.length);
    }
  } catch (error) {
    if (!signal.aborted) throw error; // after Ctrl-C, still report what was done
  } finally {
    progress.stop();
  }
  for (const line of summary()) stdout.write(`${line}\n`);
  if (signal.aborted) {
    throw new Failure("Interrupted; run the same command again to continue", exit.interrupted);
  }
  if (refused > 0) {
    throw new Failure(`${count(refused, "session was", "sessions were")} not ${done}`);
  }
  return exit.ok;

  /** Finds out which sessions would be rewritten. */
  async function tryAll(keys: string[]): Promise<ReadonlySet<string>> {
    const found = (await database.read(keys)).filter(({ key, value }) => {
      try {
        return renew(value, key) !== undefined;
      } catch (error) {
        refuse(key, error);
        return false;
      }
    });
    return new Set(found.map(({ key }) => key));
  }
}

/**
 * `rotate URL`.
 *
 * @module
 */

import { rotated } from "../transform/rewrite.ts";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { exit, Failure } from "./failure.ts";
import { places } from "./keys.ts";
import { checkReadable } from "./readable.ts";
import { type Change, rewriteAll } from "./rewriting.ts";
import { count } from "./text.ts";
import { locate } from "./url.ts";

/** Encrypts with the newest key what an older key, or none, has encrypted. */
export async function rotate(
  url: string,
  { dryRun }: { readonly dryRun: boolean },
  context: Context,
): Promise<number> {
  const location = locate(url);
  if (context.keys === undefined) {
    throw new Failure(
      `rotate needs keys: put the newest one and the older ones into ${places}`,
      exit.usage,
    );
  }
  await using database = await Database.open(location, context);
  let sessions = 0;
  const change: Change = {
    done: "encrypted",
    renew(plain, key) {
      if (plain.problem !== undefined) checkReadable(plain); // for its message
      return rotated(plain, key);
    },
    add: ({ size }) => sessions += size,
    summary() {
      const done = dryRun ? "Would encrypt" : "Encrypted";
      return [`${done} ${count(sessions, "session")} of ${database.title} with the newest key.`];
    },
  };
  return await rewriteAll(database, change, dryRun, context);
}

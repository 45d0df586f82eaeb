/**
 * `get URL KEY` and `delete URL KEY`.
 *
 * @module
 */

import { checkKey, isAlive } from "../store/entry.ts";
import type { Context } from "./context.ts";
import { jsonText, Tally } from "./convert.ts";
import { Database } from "./database.ts";
import { exit, Failure, interruption, refusal, sentence } from "./failure.ts";
import { isAbsent } from "./readable.ts";
import { locate } from "./url.ts";

/** Prints a session as JSON. */
export async function get(url: string, key: string, context: Context): Promise<number> {
  const location = locate(url);
  check(key);
  await using database = await Database.open(location, context);
  const [entry] = await database.read([key]);
  if (entry === undefined || isAbsent(entry.value) || !isAlive(entry)) {
    throw missing(key, database);
  }
  let json: string;
  try {
    json = jsonText(database.format, entry.value, new Tally());
  } catch (error) {
    throw new Failure(`Session ${JSON.stringify(key)} cannot be decoded: ${refusal(error)}`);
  }
  const shown = context.stdout.isTTY ? JSON.stringify(JSON.parse(json), null, 2) : json;
  context.stdout.write(`${shown}\n`);
  return exit.ok;
}

/** Deletes a session. */
export async function remove(url: string, key: string, context: Context): Promise<number> {
  const location = locate(url);
  check(key);
  await using database = await Database.open(location, context, { changes: true });
  const found = await database.read([key]);
  if (found.length === 0) throw missing(key, database);
  if (context.signal.aborted) throw interruption();
  await database.remove([key]);
  context.stdout.write(`Deleted session ${JSON.stringify(key)} from ${database.title}.\n`);
  return exit.ok;
}

function check(key: string): void {
  try {
    checkKey(key);
  } catch (error) {
    throw new Failure(sentence(error), exit.usage);
  }
}

function missing(key: string, { title }: Database): Failure {
  return new Failure(`${title} has no session ${JSON.stringify(key)}`);
}

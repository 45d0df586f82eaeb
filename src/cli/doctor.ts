/**
 * `doctor URL`.
 *
 * @module
 */

import { randomUUID } from "node:crypto";
import { performance } from "node:perf_hooks";
import { type Context, count, exit, sentence, some } from "./context.ts";
import { Database, locate } from "./database.ts";
import { sourceOf } from "./transfer.ts";

/** Looks whether a store would work on the database, and changes nothing. */
export async function doctor(url: string, context: Context): Promise<number> {
  const location = locate(url);
  let wrong = 0;
  const say = (mark: string, text: string) => context.stdout.write(`${mark} ${text}\n`);
  const check = async (text: string, work: () => Promise<unknown>) => {
    try {
      const note = await work();
      say("✓", note === undefined ? text : `${text}: ${note}`);
      return true;
    } catch (error) {
      wrong++;
      say("✗", `${text}: ${sentence(error)}`);
      return false;
    }
  };

  let database: Database | undefined;
  const started = performance.now();
  await check("can be opened", async () => {
    database = await Database.open(location, "probe", context);
    return `${database.title}, ${Math.round(performance.now() - started)} ms`;
  });
  if (database === undefined) return exit.failed;
  await using opened = database;
  const { plan, missing } = opened;
  if (missing) say("•", "there is nothing yet; the first operation of a store makes it:");
  else if (plan?.changes.length === 0) say("✓", "the schema is as it should be");
  else if (plan !== undefined) {
    say("•", "the schema is of an older version; the first operation of a store upgrades it:");
  }
  for (const change of plan?.changes ?? []) {
    context.stdout.write(`    ${change.replace(/\s+/g, " ")}\n`);
  }
  if (missing) return exit.ok;

  const readable = await check("sessions can be read", () => inspect(opened, context));
  const key = `doctor:${randomUUID()}`;
  const rights = "sessions can be changed and deleted (tried with a key that is not there)";
  if (readable) {
    await check(rights, async () => {
      await opened.renew([key], Date.now());
      await opened.remove([key]);
    });
  }
  return wrong === 0 ? exit.ok : exit.failed;

  /** Reads all sessions. */
  async function inspect(database: Database, { signal }: Context): Promise<string> {
    let sessions = 0;
    let last: string | undefined;
    const repeated: string[] = [];
    const broken: string[] = [];
    for await (const { entries, read } of sourceOf(database).batches()) {
      if (signal.aborted) break;
      const keys = entries.map(({ key }) => key);
      if (plan?.unique === false) {
        for (const key of keys) {
          if (key === last && repeated.at(-1) !== key) repeated.push(key);
          last = key;
        }
      }
      for (const { key, value } of await read(keys)) {
        sessions++;
        try {
          database.codec.decode(value);
        } catch {
          broken.push(key);
        }
      }
    }
    if (repeated.length > 0) {
      const kept = location.kind === "mongodb" ? "first" : "newest";
      const keys = count(repeated.length, "key is", "keys are");
      say("•", `${keys} there more than once, of which the ${kept} stays: ${some(repeated)}`);
    }
    if (broken.length > 0) {
      wrong++;
      say("✗", `${count(broken.length, "session")} cannot be decoded: ${some(broken)}`);
    }
    return count(sessions, "session");
  }
}

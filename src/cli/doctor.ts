/**
 * `doctor URL`.
 *
 * @module
 */

import { randomUUID } from "node:crypto";
import { performance } from "node:perf_hooks";
import type { Plan } from "../backend.ts";
import { defaults } from "../options.ts";
import { isAlive, ownersKey } from "../store/entry.ts";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { exit, Failure, interruption, sentence } from "./failure.ts";
import { describeLease, overdueLeases } from "./leases.ts";
import { isBroken, obstacle } from "./readable.ts";
import { startProgressOf } from "./progress.ts";
import { checkPlan } from "./rights.ts";
import { count, quoted } from "./text.ts";
import { sourceOf } from "./transfer.ts";
import { describe, locate, type Location } from "./url.ts";

/** Checks whether a store would work on the database. Leaves the database as it was. */
export async function doctor(url: string, context: Context): Promise<number> {
  const { signal, stdout } = context;
  const location = locate(url);
  let problems = 0;
  const print = (mark: string, text: string) => stdout.write(`${mark} ${text}\n`);
  const check = async (text: string, work: () => Promise<string | void>) => {
    try {
      const note = await work();
      if (signal.aborted) throw interruption();
      print("✓", note === undefined ? text : `${text}: ${note}`);
    } catch (error) {
      if (signal.aborted) throw interruption();
      problems++;
      print("✗", `${text}: ${sentence(error)}`);
    }
  };

  let database: Database | undefined;
  const started = performance.now();
  await check("open the database", async () => {
    database = await Database.open(location, context, { mayBeMissing: true });
    return `${database.title}, ${Math.round(performance.now() - started)} ms`;
  });
  if (database === undefined) return exit.failed;
  await using opened = database;
  const { plan, missing } = opened;
  if (missing) {
    const place = describe(location);
    print("•", `${place} does not exist yet; the first operation of a store creates it:`);
  } else if (plan?.changes.length === 0) print("✓", "the schema is up to date");
  else if (plan !== undefined) {
    print("•", "the schema is from an older version; the first operation of a store upgrades it:");
  }
  for (const change of plan?.changes ?? []) {
    stdout.write(`    ${change.replace(/\s+/g, " ")}\n`);
  }
  if (plan !== undefined && plan.changes.length > 0) {
    await check(missing ? "create it (dry run)" : "upgrade it (dry run)", () => checkUpgrade(plan));
  }
  if (!missing) {
    await check("read all sessions", () => readAll(opened));
    await readLeases(opened);
    await tryChanges(opened);
  }
  return problems === 0 ? exit.ok : exit.failed;

  /** Checks whether the first operation of a store can create or upgrade the schema. */
  async function checkUpgrade(plan: Plan): Promise<string | void> {
    try {
      await checkPlan(location, plan, context);
    } catch (error) {
      if (missing || !plan.unique && location.kind !== "mongodb") throw error;
      // A store works without the upgrade.
      throw new Failure(`${sentence(error)}; stores work without it, within the old limits`);
    }
  }

  /** Writes, reads, renews and deletes a test session, as a bot does. */
  async function tryChanges(database: Database): Promise<void> {
    const key = `doctor:${randomUUID().slice(0, 18)}`; // old tables have room for 32 characters
    const { codec } = database;
    const session = () => codec.encode({ doctor: true });
    // If the process is killed before it deletes the session, the session expires.
    const expires = Date.now() + 60_000;
    let written = false;
    try {
      if (needsKey(location, plan)) {
        print(
          "•",
          "write a session: not tried, because the table has no unique key before the upgrade",
        );
      } else {
        await check("write a session", async () => {
          await database.write([{ key, value: session(), expires }], true, defaults.timeout);
          written = true;
          await database.write([{ key, value: session(), expires }], false, defaults.timeout);
        });
      }
      if (written) {
        await check("read the written session", async () => {
          const [entry] = await database.read([key]);
          if (entry === undefined || !isAlive(entry)) throw new Failure("it is missing");
          if (!codec.equal(entry.value, session())) {
            throw new Failure("it differs from the session that was written");
          }
        });
      }
      await check("set the expiry time of a session", async () => {
        await database.renew([key], Date.now() + 60_000, defaults.timeout);
      });
      await check("delete a session", async () => {
        await database.remove([key], defaults.timeout);
        written = false;
      });
    } finally {
      if (written) await database.remove([key], defaults.timeout).catch(() => {});
    }
  }

  /** Reports the process that has all sessions in memory, and leases that an update holds for too long. */
  async function readLeases(database: Database): Promise<void> {
    const owner = await database.owner();
    if (owner !== undefined) print("•", owner);
    const held = (await database.leases()).filter(({ key }) => key !== ownersKey);
    if (held.length > 0) print("•", count(held.length, "lease is held", "leases are held"));
    for (const lease of overdueLeases(held)) print("•", `held for long: ${describeLease(lease)}`);
  }

  /** Reads all sessions, and reports duplicate keys and sessions that cannot be decoded. */
  async function readAll(database: Database): Promise<string> {
    let sessions = 0;
    let last: string | undefined;
    const repeated: string[] = [];
    const broken: string[] = [];
    /** The numbers of sessions that need more to be read, by what that is. */
    const unchecked = new Map<string, number>();
    const progress = await startProgressOf(database, context.stderr);
    try {
      for await (const { entries, read } of sourceOf(database).batches()) {
        if (signal.aborted) throw interruption();
        const keys = entries.map(({ key }) => key);
        if (plan?.unique === false) {
          for (const key of keys) {
            if (key === last && repeated.at(-1) !== key) repeated.push(key);
            last = key;
          }
        }
        for (const { key, value } of await read(keys)) {
          sessions++;
          const how = obstacle(value);
          if (how !== undefined) unchecked.set(how, (unchecked.get(how) ?? 0) + 1);
          else if (isBroken(database.codec, value, key)) broken.push(key);
        }
        progress.add(entries.length);
      }
    } finally {
      progress.stop();
    }
    if (repeated.length > 0) {
      const kept = location.kind === "mongodb" ? "first" : "newest";
      const keys = count(repeated.length, "key has", "keys have");
      print(
        "•",
        `${keys} more than one entry; the upgrade keeps the ${kept} one: ${quoted(repeated)}`,
      );
    }
    for (const [how, number] of unchecked) {
      print("•", `not checked: ${count(number, "session")}, ${how}`);
    }
    if (broken.length > 0) {
      problems++;
      print("✗", `${count(broken.length, "session")} cannot be decoded: ${quoted(broken)}`);
    }
    return count(sessions, "session");
  }
}

/** Whether inserts need a unique key that the table does not have yet. */
function needsKey({ kind }: Location, plan: Plan | undefined): boolean {
  return plan?.unique === false && (kind === "pg" || kind === "sqlite");
}

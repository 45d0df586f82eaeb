/**
 * Sessions on their way into a database, batch by batch: the next one is read while one is written,
 * and no more than these two are in memory.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { Codec, Entry } from "../backend.ts";
import { StoreError } from "../errors.ts";
import { checkKey } from "../store.ts";
import {
  bytes,
  type Context,
  count,
  exit,
  Failure,
  interruption,
  sentence,
  some,
  unlessInterrupted,
} from "./context.ts";
import { converter, sizeOf, Tally } from "./convert.ts";
import type { Database } from "./database.ts";
import type { Progress } from "./progress.ts";

/** Some sessions of a source, whose values are not read before they are wanted. */
export interface Batch {
  readonly entries: readonly { readonly key: string; readonly expires?: number }[];
  read(keys: string[]): Promise<Entry<unknown>[]>;
}

/** Where sessions come from. */
export interface Source {
  readonly title: string;
  readonly codec: Codec<unknown>;
  batches(): AsyncIterable<Batch>;
}

/** How sessions are transferred. */
export interface Mode {
  /** Whether sessions that are there already are replaced; they are kept otherwise. */
  readonly overwrite: boolean;
  /** Whether nothing is written. */
  readonly dryRun: boolean;
}

/** What came of a transfer. */
export class Outcome {
  readonly tally: Tally = new Tally();
  written = 0;
  bytes = 0;
  present = 0;
  expired = 0;
  /** What could not be transferred, and why; it has been told already. */
  refused = 0;
  /** The keys of sessions that are transferred, though they cannot be decoded. */
  readonly broken: string[] = [];
  /** Whether the user stopped it before the end. */
  interrupted = false;
}

/** The source that a database is, in batches that it reads at once. */
export function sourceOf(database: Database, size: number = database.limits.keys): Source {
  return {
    title: database.title,
    codec: database.codec,
    async *batches() {
      for await (const page of database.pages()) {
        for (let i = 0; i < page.length; i += size) {
          yield { entries: page.slice(i, i + size), read: (keys) => database.read(keys) };
        }
      }
    },
  };
}

/** Moves all sessions, or as many as there is time for before the user stops it. */
export async function transfer(
  source: Source,
  target: Database,
  { overwrite, dryRun }: Mode,
  progress: Progress,
  { signal, stderr }: Context,
): Promise<Outcome> {
  const outcome = new Outcome();
  const convert = converter(source.codec, target.codec, outcome.tally);
  const refuse = (key: string, error: unknown) => {
    outcome.refused++;
    progress.pause();
    stderr.write(`Not copied: session ${JSON.stringify(key)}: ${why(error)}\n`);
  };

  /** The entries of a batch that are to be written. */
  async function wanted({ entries, read }: Batch): Promise<Entry<unknown>[]> {
    const now = Date.now();
    const alive = entries.filter(({ expires = Infinity }) => expires > now);
    let keys = [...new Set(alive.map(({ key }) => key))].filter((key) => {
      try {
        return checkKey(key) !== "";
      } catch (error) {
        refuse(key, error);
        return false;
      }
    });
    outcome.expired += entries.length - alive.length;
    if (!overwrite) {
      const present = new Set((await target.read(keys)).map(({ key }) => key));
      outcome.present += present.size;
      keys = keys.filter((key) => !present.has(key));
    }
    return (await read(keys)).flatMap((entry) => {
      // Redis tells only now.
      if ((entry.expires ?? Infinity) <= now) {
        outcome.expired++;
        return [];
      }
      try {
        const value = convert(entry.value);
        if (value === undefined || value === "") return []; // stored nothing
        // Text is copied byte for byte, so nothing else looks at it.
        if (typeof value === "string" && !decodes(target.codec, value)) {
          outcome.broken.push(entry.key);
        }
        return { ...entry, value };
      } catch (error) {
        refuse(entry.key, error);
        return [];
      }
    });
  }

  async function write(entries: Entry<unknown>[]): Promise<void> {
    if (!dryRun) await target.write(entries, !overwrite);
    outcome.written += entries.length;
    for (const { value } of entries) outcome.bytes += sizeOf(target.codec, value);
  }

  /** Writes a batch; where it fails, one by one, so that a bad entry fails alone. */
  async function writeAll(entries: Entry<unknown>[]): Promise<void> {
    try {
      return await write(entries);
    } catch (error) {
      if (entries.length === 1 && !(error instanceof StoreError)) throw error;
    }
    const failures: [string, unknown][] = [];
    for (const entry of entries) {
      try {
        await write([entry]);
      } catch (error) {
        failures.push([entry.key, error]);
      }
    }
    // Where all fail it is not they that are bad.
    const [[, error] = []] = failures;
    if (failures.length === entries.length && !(error instanceof StoreError)) throw error;
    for (const [key, error] of failures) refuse(key, error);
  }

  const batches = source.batches()[Symbol.asyncIterator]();
  /** The next batch, or nothing after the last one or when the user stops the command. */
  const next = async (): Promise<Batch | undefined> => {
    const { done, value } = await unlessInterrupted(signal, () => batches.next());
    return done ? undefined : value;
  };
  let writing = Promise.resolve();
  try {
    for (let batch = await next(); batch !== undefined; batch = await next()) {
      const { length } = batch.entries;
      const entries = await wanted(batch);
      await writing;
      if (signal.aborted) throw interruption();
      writing = (async () => {
        for (const some of split(entries, target)) await writeAll(some);
        progress.add(length);
      })();
      writing.catch(() => {}); // it is awaited when the next batch has been read
    }
  } catch (error) {
    if (!signal.aborted) {
      await batches.return?.();
      throw error;
    }
    outcome.interrupted = true;
    // Not awaited, because a source may still wait for standard input.
    batches.return?.().catch(() => {});
  }
  await writing;
  return outcome;
}

/** Batches that the database takes. */
function* split(entries: Entry<unknown>[], { limits, codec }: Database) {
  let some: Entry<unknown>[] = [];
  let size = 0;
  for (const entry of entries) {
    const more = codec.size(entry.value);
    if (some.length > 0 && (some.length === limits.keys || size + more > limits.bytes)) {
      yield some;
      some = [];
      size = 0;
    }
    some.push(entry);
    size += more;
  }
  if (some.length > 0) yield some;
}

/** Whether a stored value is a session. */
export function decodes(codec: Codec<unknown>, value: unknown): boolean {
  try {
    codec.decode(value);
    return true;
  } catch {
    return false;
  }
}

/** Says why an entry was refused; its key is said already. */
function why(error: unknown): string {
  return sentence(error).replace(/^Cannot write session ".*": (?=\S)/s, "");
}

/** Says what came of a transfer, and how the program ends. */
export function conclude(
  outcome: Outcome,
  source: Source,
  target: Database,
  { overwrite, dryRun }: Mode,
  started: number,
  { stdout }: Context,
): number {
  const { written, present, expired, refused, broken, tally, interrupted } = outcome;
  const say = (line: string) => stdout.write(`${line}\n`);
  const seconds = `${((performance.now() - started) / 1000).toFixed(1)} s`;
  const what = `${count(written, "session")} (${bytes(outcome.bytes)})`;
  const way = `from ${source.title} to ${target.title}`;
  say(dryRun ? `Would copy ${what} ${way}.` : `Copied ${what} ${way} in ${seconds}.`);
  if (present > 0) {
    const skipped = `${dryRun ? "Would skip" : "Skipped"} ${count(present, "session")}`;
    say(`${skipped} that TO already has; --overwrite replaces such sessions.`);
  }
  if (expired > 0) say(`Left out ${count(expired, "expired session")}.`);
  for (const line of tally.sentences()) say(line);
  if (broken.length > 0) {
    const them = count(broken.length, "session", "sessions");
    const stay = dryRun ? "would be copied" : broken.length === 1 ? "was copied" : "were copied";
    say(`${them} cannot be decoded and ${stay} unchanged: ${some(broken)}.`);
  }
  if (interrupted) {
    throw new Failure(
      overwrite
        ? "Interrupted; with --overwrite the same command starts again from the beginning"
        : "Interrupted; run the same command again to continue",
      exit.interrupted,
    );
  }
  if (refused > 0) {
    throw new Failure(`${count(refused, "session was", "sessions were")} not copied`);
  }
  return exit.ok;
}

/**
 * Copies sessions into a database in batches. While a batch is written, the next one is read; only
 * these two are in memory.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { Entry } from "../backend.ts";
import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";
import { checkKey } from "../store/entry.ts";
import { batchesOf } from "../store/lane.ts";
import type { Context } from "./context.ts";
import { converter, type Origin, sizeOf, Tally } from "./convert.ts";
import type { Database } from "./database.ts";
import { exit, Failure, interruption, refusal, unlessInterrupted } from "./failure.ts";
import { isAbsent, isBroken } from "./readable.ts";
import type { Progress } from "./progress.ts";
import { bytes, count, quoted } from "./text.ts";

/** A batch of sessions. Their values are read later, and only those of sessions that are copied. */
export interface Batch {
  readonly entries: readonly { readonly key: string; readonly expires?: number }[];
  read(keys: string[]): Promise<Entry<Plain<unknown>>[]>;
}

/** A source of sessions. */
export interface Source extends Origin {
  readonly title: string;
  batches(): AsyncIterable<Batch>;
}

/** How to copy sessions. */
export interface Mode {
  /** Whether to replace sessions that the target already has; otherwise they are skipped. */
  readonly overwrite: boolean;
  /** Whether to write nothing. */
  readonly dryRun: boolean;
}

/** The result of a transfer. */
export class Outcome {
  readonly tally: Tally = new Tally();
  written = 0;
  bytes = 0;
  present = 0;
  expired = 0;
  /** The number of sessions that could not be copied. Each of them has been reported. */
  refused = 0;
  /** The keys of sessions that were copied although they cannot be decoded. */
  readonly broken: string[] = [];
  /** Whether Ctrl-C ended the transfer early. */
  interrupted = false;
}

/** Makes a database the source of a transfer, in batches of up to `size` sessions. */
export function sourceOf(database: Database, size: number = database.limits.keys): Source {
  return {
    title: database.title,
    format: database.format,
    place: database.place,
    async *batches() {
      for await (const page of database.pages()) {
        for (let i = 0; i < page.length; i += size) {
          yield { entries: page.slice(i, i + size), read: (keys) => database.read(keys) };
        }
      }
    },
  };
}

/** Copies all sessions, or those that come before Ctrl-C. */
export async function transfer(
  source: Source,
  target: Database,
  { overwrite, dryRun }: Mode,
  progress: Progress,
  { signal, stderr }: Context,
): Promise<Outcome> {
  const outcome = new Outcome();
  const convert = converter(source, target, outcome.tally);
  const refuse = (key: string, error: unknown) => {
    outcome.refused++;
    progress.clear();
    stderr.write(`Not copied: session ${JSON.stringify(key)}: ${refusal(error)}\n`);
  };

  /** Selects the entries of a batch that must be written, and converts their values. */
  async function select({ entries, read }: Batch): Promise<Entry<Plain<unknown>>[]> {
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
      // Redis reports expiry times only together with values.
      if ((entry.expires ?? Infinity) <= now) {
        outcome.expired++;
        return [];
      }
      try {
        if (isAbsent(entry.value)) return [];
        const value = convert(entry.value, entry.key);
        // Text is copied byte for byte, so nothing else would detect invalid text.
        if (typeof value.content === "string" && isBroken(target.codec, value, entry.key)) {
          outcome.broken.push(entry.key);
        }
        return { ...entry, value };
      } catch (error) {
        refuse(entry.key, error);
        return [];
      }
    });
  }

  async function write(entries: Entry<Plain<unknown>>[]): Promise<void> {
    if (!dryRun) await target.write(entries, !overwrite);
    outcome.written += entries.length;
    for (const { value } of entries) outcome.bytes += sizeOf(target.format, value.content);
  }

  /** Writes a batch. If that fails, writes each entry alone, so that only invalid entries fail. */
  async function writeAll(entries: Entry<Plain<unknown>>[]): Promise<void> {
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
    // If every entry fails, the entries are not the cause.
    const [[, error] = []] = failures;
    if (failures.length === entries.length && !(error instanceof StoreError)) throw error;
    for (const [key, error] of failures) refuse(key, error);
  }

  const batches = source.batches()[Symbol.asyncIterator]();
  /** The next batch; `undefined` after the last one. Throws after Ctrl-C. */
  const next = async (): Promise<Batch | undefined> => {
    const { done, value } = await unlessInterrupted(signal, () => batches.next());
    return done ? undefined : value;
  };
  let writing = Promise.resolve();
  try {
    for (let batch = await next(); batch !== undefined; batch = await next()) {
      const { length } = batch.entries;
      const entries = await select(batch);
      await writing;
      if (signal.aborted) throw interruption();
      writing = (async () => {
        const size = ({ value }: Entry<Plain<unknown>>) => target.codec.size(value);
        for (const batch of batchesOf(entries, size, target.limits)) await writeAll(batch);
        progress.add(length);
      })();
      writing.catch(() => {}); // awaited after the next batch has been read
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

/** Prints the result of a transfer, and returns the exit code. */
export function report(
  outcome: Outcome,
  source: Source,
  target: Database,
  { overwrite, dryRun }: Mode,
  started: number,
  { stdout }: Context,
): number {
  const { written, present, expired, refused, broken, tally, interrupted } = outcome;
  const print = (line: string) => stdout.write(`${line}\n`);
  const seconds = `${((performance.now() - started) / 1000).toFixed(1)} s`;
  const what = `${count(written, "session")} (${bytes(outcome.bytes)})`;
  const way = `from ${source.title} to ${target.title}`;
  print(dryRun ? `Would copy ${what} ${way}.` : `Copied ${what} ${way} in ${seconds}.`);
  if (present > 0) {
    const skipped = `${dryRun ? "Would skip" : "Skipped"} ${count(present, "session")}`;
    print(`${skipped} that TO already has; --overwrite replaces such sessions.`);
  }
  if (expired > 0) print(`Left out ${count(expired, "expired session")}.`);
  for (const line of tally.sentences()) print(line);
  if (broken.length > 0) {
    const them = count(broken.length, "session", "sessions");
    const stay = dryRun ? "would be copied" : broken.length === 1 ? "was copied" : "were copied";
    print(`${them} cannot be decoded and ${stay} unchanged: ${quoted(broken)}.`);
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

/**
 * The context in which commands run, and how they report failures.
 *
 * @module
 */

import type { MaybePromise } from "../backend.ts";
import { reason } from "../errors.ts";
import type { StoreFactory } from "../store.ts";
import type { Kind } from "./database.ts";

/** A text stream that may be a terminal, for example `process.stderr`. */
export interface Output {
  readonly isTTY?: boolean;
  write(text: string, done?: () => void): unknown;
}

/** Everything that a command needs besides its arguments. */
export interface Context {
  /** Loads the factory of each database; most of these modules load the driver as well. */
  // deno-lint-ignore no-explicit-any
  readonly factories: { readonly [Name in Kind]: () => Promise<StoreFactory<any>> };
  /** Loads drivers, for commands that use one without a store. */
  // deno-lint-ignore no-explicit-any
  readonly drivers: { readonly [Name in "mongodb" | "pg" | "mysql"]: () => Promise<any> };
  /** For results. */
  readonly stdout: Output;
  /** For progress, warnings and errors. */
  readonly stderr: Output;
  readonly stdin: AsyncIterable<Uint8Array>;
  /** Aborts after Ctrl-C. */
  readonly signal: AbortSignal;
  /** The time limit for opening a database, in ms. */
  readonly timeout: number;
  /** The arguments of the program, if npx runs it from its cache. */
  readonly npx?: readonly string[];
}

/** The exit codes. */
export const exit = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** An error whose message is printed as it is, without a stack. */
export class Failure extends Error {
  readonly code: number;

  constructor(message: string, code: number = exit.failed) {
    super(message);
    this.code = code;
  }
}

/** The failure that ends a command after Ctrl-C. */
export function interruption(): Failure {
  return new Failure("Interrupted", exit.interrupted);
}

/**
 * Runs work that changes nothing. After Ctrl-C, stops waiting for its result.
 *
 * @throws {Failure} after Ctrl-C.
 */
export async function unlessInterrupted<T>(
  signal: AbortSignal,
  work: () => MaybePromise<T>,
): Promise<T> {
  let stop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(interruption());
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  stopped.catch(() => {}); // a rejection after the race is not an error
  try {
    return await (signal.aborted ? stopped : Promise.race([work(), stopped]));
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** The message of an error, in one sentence without credentials. */
export function sentence(error: unknown): string {
  return error instanceof Failure ? error.message : reason(error);
}

/**
 * Converts the value of `--timeout` from seconds to ms.
 *
 * @throws {Failure} if the value is invalid.
 */
export function seconds(text: string): number {
  const number = Number(text);
  if (text.trim() !== "" && number > 0 && number <= 86_400) return number * 1000;
  const expected = "a number of seconds, more than 0 and at most 86400";
  throw new Failure(`--timeout must be ${expected}, but is "${text}"`, exit.usage);
}

/** Formats a number of things, as `1 session` or `2,000 sessions`. */
export function count(number: number, thing: string, things = `${thing}s`): string {
  return `${number.toLocaleString("en")} ${number === 1 ? thing : things}`;
}

/** Formats a number of bytes, as `2.5 MB`. */
export function bytes(number: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit++;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

/** Formats keys for a message: quotes the first five, and counts the others. */
export function quoted(keys: readonly string[]): string {
  const shown = keys.slice(0, 5).map((key) => JSON.stringify(key)).join(", ");
  return keys.length > 5 ? `${shown} and ${count(keys.length - 5, "other")}` : shown;
}

/**
 * What commands are given, and how they say that something went wrong.
 *
 * @module
 */

import type { MaybePromise } from "../backend.ts";
import { reason } from "../errors.ts";
import type { StoreFactory } from "../store.ts";
import type { Kind } from "./database.ts";

/** A stream of text that may be a terminal: `process.stderr`, say. */
export interface Output {
  readonly isTTY?: boolean;
  write(text: string, done?: () => void): unknown;
}

/** What a command works with. */
export interface Context {
  /** Loads the factory of a database, and with it the driver. */
  // deno-lint-ignore no-explicit-any
  readonly factories: { readonly [Name in Kind]: () => Promise<StoreFactory<any>> };
  /** Loads the drivers that are used without a store. */
  // deno-lint-ignore no-explicit-any
  readonly drivers: { readonly [Name in "mongodb" | "pg" | "mysql"]: () => Promise<any> };
  /** Data. */
  readonly stdout: Output;
  /** Progress and what went wrong. */
  readonly stderr: Output;
  readonly stdin: AsyncIterable<Uint8Array>;
  /** Aborts when the user wants to stop. */
  readonly signal: AbortSignal;
  /** How long opening a database may take, in ms. */
  readonly timeout: number;
  /** The arguments of the program, if npx runs it from its cache. */
  readonly npx?: readonly string[];
}

/** How the program ends. */
export const exit = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** Something that the user is told in one sentence. */
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
 * The result of work that changes nothing, unless the user stops the command before it is there.
 *
 * @throws {Failure} when the user stops the command.
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
  stopped.catch(() => {}); // it may reject after the race
  try {
    return await (signal.aborted ? stopped : Promise.race([work(), stopped]));
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** What went wrong, in one sentence without credentials. */
export function sentence(error: unknown): string {
  return error instanceof Failure ? error.message : reason(error);
}

/**
 * A time that the user gives in seconds, in ms.
 *
 * @throws {Failure} for an invalid time.
 */
export function seconds(text: string): number {
  const number = Number(text);
  if (text.trim() !== "" && number > 0 && number <= 86_400) return number * 1000;
  const expected = "a number of seconds, more than 0 and at most 86400";
  throw new Failure(`--timeout must be ${expected}, but is "${text}"`, exit.usage);
}

/** A number of things, as `1 session` or `2,000 sessions`. */
export function count(number: number, thing: string, things = `${thing}s`): string {
  return `${number.toLocaleString("en")} ${number === 1 ? thing : things}`;
}

/** Bytes, as `2.5 MB`. */
export function bytes(number: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit++;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

/** Keys for a message: the first few, quoted. */
export function some(keys: readonly string[]): string {
  const shown = keys.slice(0, 5).map((key) => JSON.stringify(key)).join(", ");
  return keys.length > 5 ? `${shown} and ${count(keys.length - 5, "other")}` : shown;
}

/**
 * What commands are given, and how they say that something went wrong.
 *
 * @module
 */

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
  /** Loads drivers with which is read what other packages wrote. */
  // deno-lint-ignore no-explicit-any
  readonly drivers: { readonly [Name in "mongodb" | "pg"]: () => Promise<any> };
  /** Data. */
  readonly stdout: Output;
  /** Progress and what went wrong. */
  readonly stderr: Output;
  readonly stdin: AsyncIterable<Uint8Array>;
  /** Aborts when the user wants to stop. */
  readonly signal: AbortSignal;
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

/** What went wrong, in one sentence without credentials. */
export function sentence(error: unknown): string {
  return error instanceof Failure ? error.message : reason(error);
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

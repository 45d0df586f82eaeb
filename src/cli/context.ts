/**
 * The context in which commands run.
 *
 * @module
 */

import { defaults } from "../options.ts";
import type { StoreFactory } from "../store/factory.ts";
import { exit, Failure } from "./failure.ts";
import type { Kind } from "./url.ts";

/** A text stream that may be a terminal, for example `process.stderr`. */
export interface Output {
  readonly isTTY?: boolean;
  /** The width of a terminal; it may change. */
  readonly columns?: number;
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
  /** Loads a module of the user. */
  readonly load: (url: string) => Promise<unknown>;
  /** For results. */
  readonly stdout: Output;
  /** For progress, warnings and errors. */
  readonly stderr: Output;
  readonly stdin: AsyncIterable<Uint8Array>;
  /** Aborts after Ctrl-C. */
  readonly signal: AbortSignal;
  /** The time limit for opening a database, in ms. */
  readonly timeout: number;
  /** Keys for encrypted sessions, the newest first. */
  readonly keys?: readonly string[] | undefined;
  /** The arguments of the program, if npx runs it from its cache. */
  readonly npx?: readonly string[];
}

/** The value of `--timeout` if it is not given, in ms. */
export const defaultTimeout = defaults.timeout;

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

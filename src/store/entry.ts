/**
 * Checks of keys and entries, for the store and the command line.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { type Rules, rules } from "../options.ts";
import { checkOptions } from "../validation.ts";

/** Anything that may expire. */
export interface Expiring {
  /** In ms since the epoch; never if absent. */
  readonly expires?: number;
}

/** The key of the lease of all sessions, for the option `cache`. */
export const ownersKey = "telegraf-session:cache";

/** Whether there is an entry and it has not expired. */
export function isAlive(entry: Expiring | undefined, now: number = Date.now()): boolean {
  return entry !== undefined && (entry.expires ?? Infinity) > now;
}

/**
 * Checks a key, before any I/O. A number becomes its decimal text.
 *
 * @throws {TypeError} if the key is not a string or number.
 * @throws {RangeError} if its length or a character is invalid.
 */
export function checkKey(key: unknown): string {
  if (typeof key === "number" || typeof key === "bigint") key = String(key);
  if (typeof key !== "string") {
    throw new TypeError(
      `A session key must be a string, but is ${key === null ? key : typeof key}`,
    );
  }
  const bytes = Buffer.byteLength(key);
  if (bytes === 0 || bytes > 512) {
    throw new RangeError(`A session key must have 1 to 512 bytes in UTF-8, but has ${bytes}`);
  }
  if (key === ownersKey) throw new RangeError(`A session cannot have the key "${ownersKey}"`);
  if (!isValid(key)) throw new RangeError("A session key must be valid Unicode without NUL");
  return key;
}

/** Options of `keys()`, `entries()`, `size()` and `clear()`. */
export interface PrefixOptions {
  /**
   * Only sessions whose keys begin with this text, byte by byte. `"123:"` are those of user 123, with
   * Telegraf's keys. Up to 512 bytes in UTF-8; all sessions if it is empty.
   *
   * @default {""}
   */
  prefix?: string | undefined;
}

const prefixRules: Rules<PrefixOptions> = {
  prefix: {
    ...rules.text,
    expected: "a string of up to 512 bytes of valid Unicode without NUL",
    accepts: (prefix: string) => Buffer.byteLength(prefix) <= 512 && isValid(prefix),
  },
};

/**
 * Checks the options of a method, and returns the prefix: empty text if there is none.
 *
 * @param caller the method, for messages.
 * @throws {TypeError} if an option is unknown or has the wrong type.
 * @throws {RangeError} if no key can begin with the prefix.
 */
export function checkPrefix(caller: string, options: PrefixOptions): string {
  checkOptions(caller, options, prefixRules);
  return options.prefix ?? "";
}

/** Whether all databases can store the text as a key, or as the beginning of one. */
function isValid(text: string): boolean {
  return !text.includes("\0") && !/\p{Surrogate}/u.test(text);
}

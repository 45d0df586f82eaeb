/**
 * Checks of keys and entries, for the store and the command line.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** Anything that may expire. */
export interface Expiring {
  /** In ms since the epoch; never if absent. */
  readonly expires?: number;
}

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
  if (key.includes("\0") || /\p{Surrogate}/u.test(key)) {
    throw new RangeError("A session key must be valid Unicode without NUL");
  }
  return key;
}

/**
 * Keys and sessions as values of MySQL's statements.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Entry, Limits, MaybePromise, Replacement } from "../backend.ts";
import { StoreError, TooLargeError } from "../errors.ts";
import type { LeaseValues } from "../sql/leases.ts";
import { padToPowerOfTwo, sortByKey, type Statements } from "../sql/statements.ts";
import type { Settings } from "./dialect.ts";

/** How keys and entries become the values of statements. */
export interface Encoder {
  /** Limits that keep a batch below `max_allowed_packet`. */
  readonly limits: Limits;
  /** The values of keys, in order. */
  keys(keys: string[]): unknown[];
  /**
   * The values of entries, in order.
   *
   * @throws {TooLargeError} if an entry is too large for the server.
   */
  rows(entries: Entry<string>[]): unknown[][];
  /**
   * The values of a replacement.
   *
   * @throws {TooLargeError} if the new session is too large for the server.
   */
  replacement(replacement: Replacement<string>): MaybePromise<unknown[]>;
  /** The values of leases. */
  readonly leases: LeaseValues;
}

/** The differences for a driver that writes values as literals into the text of a statement. */
export interface Literals {
  /** How many bytes a session can grow on the wire. */
  escapedGrowth(session: string): number;
  /** Throws if a literal cannot hold the key. */
  checkKey(key: string): void;
  /** Encodes a session as text that needs no escaping. */
  encodeSession(session: string): string;
}

/**
 * Checks a key for the key column of an older version. Without strict mode the server would truncate it,
 * or replace characters by question marks, so that it could become the key of another session.
 *
 * @throws {StoreError} if the column cannot hold the key.
 */
function checkOldKey(type: string, key: string): void {
  const [, length = Infinity, charset] = /^(?:var)?char\((\d+)\) (\w+)/.exec(type) ?? [];
  const options = { operation: "write", key } as const;
  if ([...key].length > Number(length)) {
    throw new StoreError(
      `the key is too long; the column's limit is ${length} characters`,
      options,
    );
  }
  const fits = /^utf8/.test(charset!) || (charset === "latin1" ? /^[\0-\xff]*$/ : /^[\0-\x7f]*$/)
    .test(key);
  if (!fits) {
    throw new StoreError("the column's character set lacks characters of the key", options);
  }
}

/**
 * The same JSON in ASCII.
 *
 * @throws {StoreError} if it is text of a user's codec, which has no escapes.
 */
function escaped({ key, value }: Entry<string>): string {
  const other = /[\u0080-\uffff]/g;
  if (/^~[^:]*text/.test(value) && other.test(value)) {
    const why = "the character set of the old table lacks characters of the session";
    throw new StoreError(why, { operation: "write", key });
  }
  return value.replace(
    other,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The most bytes of a statement that settles a lease, without key and session: token, note and text. */
const leaseOverhead = 4_096;

/** The most bytes of a session in such a statement. MySQL 8 and newer would truncate a longer one. */
const leaseCapacity = 2 ** 24 - 1;

/** The encoder for a table and for connections with these settings. */
export function encoder(
  { shape, values }: Statements,
  { charset, maxAllowedPacket }: Settings,
  { escapedGrowth, checkKey, encodeSession }: Partial<Literals> = {},
): Encoder {
  const { key: keyType = "", session: sessionType = "" } = Object.fromEntries(shape.columns);
  const binary = keyType.startsWith("varbinary");
  const encode = (key: unknown) => binary ? Buffer.from(String(key)) : key;
  // The column is `text` in an old table that could not be upgraded.
  const columnCapacity = sessionType.startsWith("text") ? 65_535 : Infinity;
  const ascii = !sessionType.endsWith("utf8mb4");
  function row(old: Entry<string>, overhead = 64, capacity = Infinity): unknown[] {
    const entry = ascii ? { ...old, value: escaped(old) } : old;
    const [key, session, ...others] = values(entry);
    const bytes = Buffer.byteLength(entry.value);
    const growth = escapedGrowth?.(entry.value) ?? 0;
    const limit = Math.min(
      columnCapacity,
      capacity,
      maxAllowedPacket - Buffer.byteLength(entry.key) - overhead - growth,
    );
    if (bytes > limit) {
      const why = `session is ${bytes} bytes; the server's limit is ${limit}`;
      throw new TooLargeError(why, { operation: "write", key: entry.key });
    }
    if (!binary) {
      checkOldKey(keyType, entry.key);
      checkKey?.(entry.key);
    }
    const text = encodeSession?.(entry.value) ??
      (charset === "utf8mb4" ? session : Buffer.from(entry.value));
    return [encode(key), text, ...others];
  }
  return {
    leases: {
      key: encode,
      session: (entry) => row(entry, leaseOverhead, leaseCapacity).slice(1),
      pad: (values) => values,
    },
    // Padding can double a batch, and one unit of `size` may have three bytes in UTF-8.
    limits: {
      keys: Math.min(128, maxAllowedPacket >> 13),
      bytes: Math.min(1_000_000, maxAllowedPacket >> 3),
    },
    async replacement({ key, before, after }) {
      // Not imported at the top because other operations start without it.
      const { createHash } = await import("node:crypto");
      const [encodedKey, session] = row({ key, value: after });
      return [session, encodedKey, createHash("sha256").update(before).digest("hex")];
    },
    keys(keys) {
      if (!binary && checkKey !== undefined) keys.forEach(checkKey);
      const values = [...keys].sort().map(encode);
      return padToPowerOfTwo(values, values.at(-1));
    },
    rows(entries) {
      const all = sortByKey(entries);
      const smallest = all.reduce((a, b) => a.value.length <= b.value.length ? a : b);
      return padToPowerOfTwo(all, smallest).map((entry) => row(entry));
    },
  };
}

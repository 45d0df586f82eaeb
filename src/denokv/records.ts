/**
 * Sessions and leases as keys and values. A value is a line of JSON, `{"bytes":…,"expires":…}`, and the
 * session as UTF-8. If it is longer than a value may be, it is cut into pieces, each under its own key. All
 * pieces are always written by one atomic operation, so they have the same versionstamp.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Entry } from "../backend.ts";
import { TooLargeError } from "../errors.ts";
import { isBytes } from "../validation.ts";
import type { Key, Kv, KvEntry } from "./driver.ts";
import type { Transaction } from "./transaction.ts";

/** The longest value, in bytes. */
const longest = 65_536;
/** How many pieces a session may have: as many as `getMany` reads. */
const mostPieces = 10;

/** The session's key in the database. The first piece has the name of the session. */
export function sessionKey(prefix: string, key: string, piece = 0): Key {
  return piece === 0 ? [prefix, "session", key] : [prefix, "piece", key, piece];
}

/** The key of a lease. */
export function leaseKey(prefix: string, key: string): Key {
  return [prefix, "lease", key];
}

/**
 * Cuts an entry into values.
 *
 * @throws {TooLargeError} if there would be too many.
 */
export function encode({ key, value, expires }: Entry<string>): Uint8Array[] {
  const header = JSON.stringify({ bytes: Buffer.byteLength(value), expires });
  const bytes = Buffer.from(`${header}\n${value}`);
  if (bytes.length > mostPieces * longest) {
    const most = `${mostPieces} values of ${longest} bytes`;
    const why = `the session has ${bytes.length} bytes, and Deno KV takes up to ${most}`;
    throw new TooLargeError(why, { operation: "write", key });
  }
  const pieces: Uint8Array[] = [];
  for (let i = 0; i < bytes.length; i += longest) pieces.push(bytes.subarray(i, i + longest));
  return pieces;
}

/** The header of a first piece. */
interface Header {
  /** Where the session begins. */
  readonly start: number;
  readonly pieces: number;
  readonly expires: number | undefined;
}

/** Reads the header of a first piece. Other bytes are a session without a header. */
export function headerOf(value: unknown): Header {
  const found = /^\{"bytes":(\d+)(?:,"expires":(\d+))?\}\n/
    .exec(bytesOf(value).toString("latin1", 0, 64));
  const start = found?.[0].length ?? 0;
  const pieces = Math.ceil((start + Number(found?.[1])) / longest);
  if (!(pieces <= mostPieces)) return { start: 0, pieces: 1, expires: undefined };
  return { start, pieces, expires: found![2] === undefined ? undefined : Number(found![2]) };
}

function bytesOf(value: unknown): Buffer {
  if (!isBytes(value)) return Buffer.from(String(value));
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

/** A stored session. */
export interface Stored {
  /** Its first piece. */
  readonly head: KvEntry;
  readonly entry: Entry<string>;
}

/** Reads the other pieces of a session. `undefined` if there is no session. */
export async function load(
  kv: Kv,
  prefix: string,
  key: string,
  head: KvEntry,
): Promise<Stored | undefined> {
  for (;;) {
    if (head.versionstamp === null) return undefined;
    const { start, pieces, expires } = headerOf(head.value);
    const keys = Array.from({ length: pieces }, (_, i) => sessionKey(prefix, key, i));
    const found: KvEntry[] = pieces === 1 ? [head] : await kv.getMany(keys);
    const { versionstamp } = head;
    if (found.every((it) => it.versionstamp === versionstamp)) {
      const bytes = Buffer.concat(found.map(({ value }) => bytesOf(value)));
      return { head, entry: { key, value: bytes.toString("utf8", start), expires } };
    }
    // The database has begun to delete an expired session, or it was written meanwhile.
    if (found[0]!.versionstamp === versionstamp) return undefined;
    head = found[0]!;
  }
}

/** Adds to a transaction that an entry is stored, or with `null` that the session is deleted. */
export function put(
  transaction: Transaction,
  prefix: string,
  key: string,
  head: KvEntry,
  entry: Entry<string> | null,
): void {
  const before = head.versionstamp === null ? 0 : headerOf(head.value).pieces;
  const values = entry === null ? [] : encode(entry);
  transaction.check(sessionKey(prefix, key), head.versionstamp);
  values.forEach((value, i) => transaction.set(sessionKey(prefix, key, i), value, entry?.expires));
  for (let i = values.length; i < before; i++) transaction.delete(sessionKey(prefix, key, i));
}

/**
 * The commands on sessions.
 *
 * @module
 */

import type { Entry, Page } from "../backend.ts";
import { document } from "../codec/document.ts";
import { TooLargeError } from "../errors.ts";
import type { Collection } from "./client.ts";
import { isDuplicate } from "./errors.ts";

/** The most bytes that a document may have. */
const largest = 16 * 2 ** 20;

/** So many keys after the given one, in order; of an old collection those first that are numbers. */
export async function page(
  collection: Collection,
  start: string | undefined,
  size: number,
  signal: AbortSignal,
  old: boolean,
): Promise<Page> {
  // No key has a NUL.
  const last = old && start === undefined
    ? -Infinity
    : start?.startsWith("\0") && Number(start.slice(1));
  const numbers = typeof last === "number";
  const found = await collection.find({ key: { $gt: numbers ? last : start ?? "" } }, {
    projection: { _id: 0, key: 1, expires: 1 },
    sort: { key: 1 },
    limit: size,
    signal,
  }).toArray();
  const entries = found.map(({ key, expires }) => ({
    key: String(key),
    expires: expires?.getTime(),
  }));
  const mark = numbers ? "\0" : "";
  if (entries.length === size) return { entries, next: mark + entries.at(-1)!.key };
  return { entries, next: numbers ? "" : undefined };
}

/** Finds documents by key; in an old collection a key may be a number. */
export function keyed(keys: string[], old: boolean): object {
  const numbers = old ? keys.map(Number).filter((number, i) => String(number) === keys[i]) : [];
  if (keys.length === 1 && numbers.length === 0) return { key: keys[0] };
  return { key: { $in: [...keys, ...numbers] } };
}

/** Deletes some documents that have expired, and returns how many. */
export async function prune(
  collection: Collection,
  now: number,
  signal: AbortSignal,
): Promise<number> {
  const expired = { expires: { $lte: new Date(now) } };
  const options = { projection: { _id: 1 }, limit: 500, signal };
  const found = await collection.find(expired, options).toArray();
  if (found.length === 0) return 0;
  const ids = found.map(({ _id }) => _id);
  return (await collection.deleteMany({ _id: { $in: ids }, ...expired }, { signal })).deletedCount;
}

/** An upsert, as `bulkWrite` takes it. */
export interface Upsert {
  readonly filter: object;
  readonly update: object;
  readonly upsert: true;
}

/** An upsert of the entry. */
export function upsert(entry: Entry<unknown>): Upsert {
  const { key, value: session, expires } = entry;
  const size = document.size({ key, session }) + 35; // `_id` and `expires`
  if (size > largest) {
    const why = `session is ${size} bytes in BSON; MongoDB's limit is ${largest}`;
    throw new TooLargeError(why, { operation: "write", key });
  }
  const update = expires === undefined
    ? { $set: { session }, $unset: { expires: "" } }
    : { $set: { session, expires: new Date(expires) } };
  return { filter: { key }, update, upsert: true };
}

/** Inserts entries, in one command; returns whether none was there. */
export async function insert(
  collection: Collection,
  entries: Entry<unknown>[],
  signal: AbortSignal,
): Promise<boolean> {
  const documents = entries.map(({ key, value: session, expires }) => ({
    key,
    session,
    ...(expires !== undefined && { expires: new Date(expires) }),
  }));
  try {
    await collection.insertMany(documents, { ordered: false, signal });
    return true;
  } catch (error) {
    if (!isDuplicate(error)) throw error;
    return false; // somebody else was first, or we were, and lost the answer
  }
}

/**
 * The commands on sessions.
 *
 * @module
 */

import type { Entry, Opening, Page, Replacement } from "../backend.ts";
import { document, Versioned } from "../codec/document.ts";
import { TooLargeError } from "../errors.ts";
import { type ClientSource, type Collection, collectionOf, type Document } from "./client.ts";
import { isDuplicate } from "./errors.ts";
import { prepare } from "./schema.ts";

const projection = { _id: 0, key: 1, session: 1, version: 1, expires: 1 };

/** Reads and writes the sessions of a collection. */
export class Commands {
  /** The name of the collection with that of its database. */
  readonly namespace: string;
  readonly #source: ClientSource;
  readonly #database: string | undefined;
  readonly #name: string;
  /** Whether the server deletes expired sessions. */
  #serverPrunes = false;
  /** Whether the collection may still have the form of 2.0.0-beta, in which keys can be numbers. */
  #old = false;

  /** @throws {TypeError} if the driver refuses a name. */
  constructor(source: ClientSource, database: string | undefined, name: string) {
    this.#source = source;
    this.#database = database;
    this.#name = name;
    this.namespace = collectionOf(source.client, database, name).namespace;
  }

  async open(opening: Opening): Promise<void> {
    this.#old = opening.plan !== undefined;
    this.#serverPrunes = await this.run((collection) =>
      prepare(this.#source.client, collection, opening)
    );
    this.#source.watch(opening.report);
  }

  async read(keys: string[], signal: AbortSignal): Promise<Entry<unknown>[]> {
    const filter = this.#byKey(keys);
    const options = { projection, signal };
    const found = await this.run(async (collection) =>
      keys.length === 1
        ? [await collection.findOne(filter, options)]
        : await collection.find(filter, options).toArray()
    );
    // Without the unique index a key may have several documents. The first one counts, and the last
    // entry of a key does, so the order is reversed.
    return found.reverse().flatMap((it) =>
      // A document that only holds a lease has no session.
      it === null || it.session === undefined
        ? []
        : { key: String(it.key), value: valueOf(it), expires: it.expires?.getTime() }
    );
  }

  /** @throws {TooLargeError} if a session is too large for a document. */
  async write(entries: Entry<unknown>[], signal: AbortSignal, fresh?: boolean): Promise<void> {
    const upserts = entries.map(upsert);
    if (fresh && await this.run((collection) => insert(collection, entries, signal))) return;
    const [{ filter, update }] = upserts as [Upsert];
    const operations = upserts.map((updateOne) => ({ updateOne }));
    await this.run((collection) =>
      upserts.length === 1
        ? collection.updateOne(filter, update, { upsert: true, signal })
        : collection.bulkWrite(operations, { ordered: false, signal })
    );
  }

  /** @throws {TooLargeError} if the old and the new session together are too large for a command. */
  async replace(replacements: Replacement<unknown>[], signal: AbortSignal): Promise<void> {
    const operations = replacements.map((it) => ({ updateOne: replacement(it) }));
    await this.run((collection) => collection.bulkWrite(operations, { ordered: false, signal }));
  }

  async renew(keys: string[], expires: number, signal: AbortSignal): Promise<void> {
    const update = { $set: { expires: new Date(expires) } };
    await this.run((collection) =>
      collection.updateMany({ key: { $in: keys } }, update, { signal })
    );
  }

  async remove(keys: string[], signal: AbortSignal): Promise<void> {
    const filter = this.#byKey(keys);
    await this.run((collection) => collection.deleteMany(filter, { signal }));
  }

  /**
   * Up to `size` keys, ascending in bytes. The first one may be the prefix itself. In a collection of
   * 2.0.0-beta numeric keys come first; their cursors begin with NUL, which no key contains.
   */
  async page(
    start: string | undefined,
    size: number,
    signal: AbortSignal,
    prefix = "",
  ): Promise<Page> {
    const lastNumber = this.#old && start === undefined
      ? -Infinity
      : start?.startsWith("\0") && Number(start.slice(1));
    const numeric = typeof lastNumber === "number";
    const filter = {
      key: numeric
        ? { $gt: lastNumber }
        : start === undefined && prefix !== ""
        ? { $gte: prefix }
        : { $gt: start ?? "" },
      session: { $exists: true },
    };
    const found = await this.run((collection) =>
      collection.find(filter, {
        projection: { _id: 0, key: 1, expires: 1 },
        sort: { key: 1 },
        limit: size,
        signal,
      }).toArray()
    );
    const entries = found.map(({ key, expires }) => ({
      key: String(key),
      expires: expires?.getTime(),
    }));
    const mark = numeric ? "\0" : "";
    const last = entries.length < size ? undefined : entries.at(-1)!.key;
    if (last !== undefined && (this.#old || last.startsWith(prefix))) {
      return { entries, next: mark + last };
    }
    return { entries, next: numeric ? "" : undefined };
  }

  /** Deletes some expired documents, and returns how many. */
  async prune(now: number, signal: AbortSignal): Promise<number> {
    if (this.#serverPrunes) return 0;
    const date = new Date(now);
    const expired = { expires: { $lte: date }, $or: [{ until: null }, { until: { $lte: date } }] };
    return await this.run(async (collection) => {
      const options = { projection: { _id: 1 }, limit: 500, signal };
      const found = await collection.find(expired, options).toArray();
      if (found.length === 0) return 0;
      const filter = { _id: { $in: found.map(({ _id }) => _id) }, ...expired };
      return (await collection.deleteMany(filter, { signal })).deletedCount;
    });
  }

  /** Runs work on the collection. Replaces the client if it finds no server. */
  async run<T>(work: (collection: Collection) => Promise<T>): Promise<T> {
    const { client } = this.#source;
    try {
      return await work(collectionOf(client, this.#database, this.#name));
    } catch (error) {
      if ((error as Error).name === "MongoServerSelectionError") this.#source.replace(client);
      throw error;
    }
  }

  /** The filter for keys. In a collection of 2.0.0-beta a key may be a number. */
  #byKey(keys: string[]): object {
    const numbers = this.#old
      ? keys.map(Number).filter((number, i) => String(number) === keys[i])
      : [];
    if (keys.length === 1 && numbers.length === 0) return { key: keys[0] };
    return { key: { $in: [...keys, ...numbers] } };
  }
}

/** An upsert, as `bulkWrite` takes it. */
interface Upsert {
  readonly filter: object;
  readonly update: object;
  readonly upsert: true;
}

/** The maximum size of a document, in bytes. */
const maxDocumentSize = 16 * 2 ** 20;

function upsert(entry: Entry<unknown>): Upsert {
  checkSize(entry);
  return { filter: { key: entry.key }, update: assign(fieldsOf(entry)), upsert: true };
}

/** The fields of an entry, without its key. Those that are `undefined` must be missing. */
export function fieldsOf({ value, expires }: Pick<Entry<unknown>, "value" | "expires">): Fields {
  return {
    session: sessionOf(value),
    version: versionOf(value),
    expires: expires === undefined ? undefined : new Date(expires),
  };
}

interface Fields {
  readonly session: unknown;
  readonly version: number | undefined;
  readonly expires: Date | undefined;
}

const sessionOf = (value: unknown) => value instanceof Versioned ? value.session : value;
const versionOf = (value: unknown) => value instanceof Versioned ? value.version : undefined;

/** The value in a document that has a session. */
export function valueOf({ session, version }: Document): unknown {
  return version == null ? session : new Versioned(Number(version), session);
}

/** The update that sets fields, and removes those that are `undefined`. */
export function assign(fields: object): { readonly $set: object; readonly $unset?: object } {
  const $set: Record<string, unknown> = {};
  let $unset: Record<string, ""> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) $set[name] = value;
    else ($unset ??= {})[name] = "";
  }
  // MongoDB before 5 refuses an empty list.
  return $unset === undefined ? { $set } : { $set, $unset };
}

/** The update of a session that is still the one that was read, as `bulkWrite` takes it. */
function replacement({ key, before, after }: Replacement<unknown>) {
  const size = document.size({ key, before, after }) + 200; // names and operators
  if (size > maxDocumentSize) {
    const why = `the session before and after are ${size} bytes in BSON; ` +
      `MongoDB's limit for both together is ${maxDocumentSize}`;
    throw new TooLargeError(why, { operation: "write", key });
  }
  const session = {
    $eq: sessionOf(before),
    $exists: true, // because `null` equals a missing session
    // Because a text equals an array that has it.
    ...Array.isArray(sessionOf(before)) ? {} : { $not: { $type: "array" } },
  };
  return {
    filter: { key, session, version: versionOf(before) ?? null },
    update: assign({ session: sessionOf(after), version: versionOf(after) }),
  };
}

/** @throws {TooLargeError} if the entry is too large for a document with these other fields. */
export function checkSize({ key, value: session }: Entry<unknown>, others = {}): void {
  const size = document.size({ key, session, ...others }) + 35; // `_id` and `expires`
  if (size <= maxDocumentSize) return;
  const why = `session is ${size} bytes in BSON; MongoDB's limit is ${maxDocumentSize}`;
  throw new TooLargeError(why, { operation: "write", key });
}

/** Inserts entries with one command. Returns false if one of the keys exists. */
async function insert(
  collection: Collection,
  entries: Entry<unknown>[],
  signal: AbortSignal,
): Promise<boolean> {
  const documents = entries.map((entry) => ({
    key: entry.key,
    ...assign(fieldsOf(entry)).$set,
  }));
  try {
    await collection.insertMany(documents, { ordered: false, signal });
    return true;
  } catch (error) {
    if (!isDuplicate(error)) throw error;
    // Another process was first, or our own earlier attempt whose answer was lost.
    return false;
  }
}

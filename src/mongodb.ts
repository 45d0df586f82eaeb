/**
 * What is the same for the clients of the mongodb driver, of whichever version: their types, the
 * upgrade of a collection, and what errors mean.
 *
 * @module
 */

import type { EventEmitter } from "node:events";
import type { Entry, Opening, Page, Plan } from "./backend.ts";
import { document } from "./document.ts";
import { isError, reason, redact, TooLargeError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { described } from "./options.ts";

/** What is used of a `MongoClient` of mongodb 5 to 7. */
export interface Client {
  connect(): Promise<unknown>;
  db(name?: string): Database;
}

interface Database {
  // deno-lint-ignore no-explicit-any
  collection(name: string, options?: any): any;
}

/** What the collection holds; upstream's documents have no `expires`. */
export interface Document {
  _id: unknown;
  key: string;
  session: unknown;
  expires?: Date;
}

type Cursor<T> = AsyncIterable<T> & { toArray(): Promise<T[]> };

/** What is used of a collection. */
export interface Collection {
  readonly namespace: string;
  readonly writeConcern?: { readonly w?: unknown };
  findOne(filter: object, options: object): Promise<Document | null>;
  find(filter: object, options: object): Cursor<Document>;
  updateOne(filter: object, update: object, options?: object): Promise<unknown>;
  insertMany(documents: object[], options: object): Promise<unknown>;
  bulkWrite(operations: object[], options: object): Promise<unknown>;
  deleteMany(filter: object, options?: object): Promise<{ deletedCount: number }>;
  updateMany(filter: object, update: object, options: object): Promise<unknown>;
  aggregate(pipeline: object[], options: object): Cursor<{ _id: string }>;
  listIndexes(): Cursor<{ key: object; unique?: boolean } & Record<string, unknown>>;
  createIndex(keys: object, options: object): Promise<unknown>;
}

/** The most bytes that a document may have. */
const largest = 16 * 2 ** 20;

/**
 * Checks a client by its shape, for copies of the driver differ.
 *
 * @throws {TypeError} for what is none.
 */
export function checkClient(client: Client): void {
  if (typeof client.db !== "function" || typeof client.connect !== "function") {
    const kinds = "a MongoClient of mongodb (mongoose's is mongoose.connection.getClient())";
    throw new TypeError(`Mongo: option "client" must be ${kinds}, but is ${described(client)}`);
  }
}

/** In place of settings of the client with which a read would return something else than was stored. */
const asStored = {
  readPreference: "primary", // a secondary may not have the last write yet,
  readConcern: { level: "local" }, // and neither has a majority
  promoteValues: true,
  raw: false,
};

/**
 * The collection.
 *
 * @throws {TypeError} for a name that the driver refuses.
 */
export function collection(client: Client, database: string | undefined, name: string): Collection {
  try {
    const db = client.db(database);
    const found: Collection = db.collection(name, asStored);
    if (found.writeConcern?.w !== 0) return found;
    return db.collection(name, { ...asStored, writeConcern: { w: 1 } }); // or nobody hears of errors
  } catch (error) {
    throw refused(error);
  }
}

/** An error of the driver about options, without the URL that it may hold. */
export function refused(error: unknown, url = ""): TypeError {
  const { message } = error as Error;
  const why = redact(url === "" ? message : message.replaceAll(url, "url"));
  return new TypeError(`Mongo: the driver refuses these options: ${why}`);
}

/**
 * How long a client of ours waits for a server, a connection and an answer: half of what an
 * operation has, to leave time for another try. What the URL says goes first.
 */
export function bounds(url: string, timeout: number): Record<string, number> {
  const half = Math.ceil(timeout / 2);
  const short = Math.min(5_000, half);
  const all = {
    serverSelectionTimeoutMS: short,
    connectTimeoutMS: short,
    socketTimeoutMS: half,
  };
  const given = url.toLowerCase();
  return Object.fromEntries(
    Object.entries(all).filter(([name]) => !given.includes(`${name.toLowerCase()}=`)),
  );
}

/** A server as a client saw it. */
interface ServerDescription {
  readonly type: string;
  readonly error: Error | null;
}

/** What is used of a client of ours. */
interface OwnClient extends Client, EventEmitter {
  close(): Promise<void>;
}

/** The client of ours, which is replaced when it finds no server. */
export class Own {
  readonly #create: () => OwnClient;
  #report: ((error: unknown) => void) | undefined;
  client: OwnClient;

  constructor(create: () => OwnClient) {
    this.#create = create;
    this.client = create();
  }

  /** Reports when it loses a server. */
  watch(report: (error: unknown) => void): void {
    if (this.#report === undefined) listen(this.client, report);
    this.#report = report;
  }

  /**
   * The driver's monitor waits for ever for an answer where it wrote to a connection that was just
   * about to close, as all of them are when a server ends; then only another client finds it.
   */
  replace(client: OwnClient): void {
    if (this.client !== client) return;
    this.client = this.#create();
    if (this.#report !== undefined) listen(this.client, this.#report);
    client.removeAllListeners("serverDescriptionChanged");
    client.close().catch(() => {});
  }
}

function listen(client: EventEmitter, report: (error: unknown) => void): void {
  client.on("error", report);
  client.on("serverDescriptionChanged", (change: Record<string, ServerDescription>) => {
    const { previousDescription: before, newDescription: after } = change;
    if (after!.error && before!.type !== "Unknown") report(after!.error);
  });
}

/** Lets work be done with the collection, by another client of ours where one has found no server. */
export function runner(
  collection: () => Collection,
  own: Own | undefined,
): <T>(work: (collection: Collection) => Promise<T>) => Promise<T> {
  return async (work) => {
    const client = own?.client;
    try {
      return await work(collection());
    } catch (error) {
      const lost = (error as Error).name === "MongoServerSelectionError";
      if (lost && client !== undefined) own!.replace(client);
      throw error;
    }
  };
}

/**
 * Connects the client, if nobody has, and prepares the collection. Returns whether the server deletes
 * what has expired.
 */
export async function open(
  client: Client,
  collection: Collection,
  { report, expiring, plan }: Pick<Opening, "report" | "expiring" | "plan">,
): Promise<boolean> {
  const begin = plan === undefined
    ? () => prepare(collection, report)
    : async () => plan(await inspect(collection));
  try {
    await begin();
  } catch (error) {
    if ((error as Error).name !== "MongoTopologyClosedError") throw error;
    // The driver connects by itself, but after a failure never again.
    await client.connect();
    await begin();
  }
  return plan === undefined && expiring && await expireByIndex(collection);
}

/** Looks what the collection is like. */
async function inspect(collection: Collection): Promise<Plan> {
  const unique = await isUnique(collection);
  const exists = unique ||
    await collection.findOne({}, { projection: { _id: 1 } }) !== null;
  const changes = unique ? [] : ['create a unique index on "key"'];
  if (exists && !unique && await collection.findOne(numbered, {}) !== null) {
    changes.unshift("convert keys that are numbers to text");
  }
  return { exists, unique, changes };
}

/** Finds keys that are numbers: upstream stored them so when a bot gave them so. */
const numbered = { key: { $type: "number" } };

/** Lets the server delete what has expired, if it can: what only speaks MongoDB's protocol may not. */
async function expireByIndex(collection: Collection): Promise<boolean> {
  try {
    await collection.createIndex({ expires: 1 }, { expireAfterSeconds: 0, name: "expires" });
    return true;
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return false;
  }
}

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

/**
 * Gives the collection a unique index on `key`, which upstream's have not. Where that cannot be, the
 * store works all the same, only slower, and says why.
 */
async function prepare(collection: Collection, report: (error: unknown) => void): Promise<void> {
  try {
    if (await isUnique(collection)) return;
    await makeKeysText(collection);
    for (let attempt = 1;; attempt++) {
      try {
        await collection.createIndex({ key: 1 }, { unique: true, name: "key_unique" });
        return;
      } catch (error) {
        // Others may write while duplicates are removed.
        if (!isDuplicate(error) || attempt === 5) throw error;
        await removeDuplicates(collection);
      }
    }
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const why = `The collection ${collection.namespace} has no unique index on "key"`;
    report(
      new Error(`${why}, so each operation scans all of it: ${reason(error)}`, { cause: error }),
    );
  }
}

async function isUnique(collection: Collection): Promise<boolean> {
  try {
    const indexes = await collection.listIndexes().toArray();
    return indexes.some(({ key, unique, collation, partialFilterExpression }) =>
      unique && Object.keys(key).join() === "key" && !collation && !partialFilterExpression
    );
  } catch (error) {
    // There is no collection, or this may not be asked.
    if (isRefusal(error)) return false;
    throw error;
  }
}

/** Keys are text now. */
async function makeKeysText(collection: Collection): Promise<void> {
  for await (const { _id, key } of collection.find(numbered, { projection: { key: 1 } })) {
    await collection.updateOne({ _id }, { $set: { key: String(key) } });
  }
}

/**
 * Of several documents with one key, the first in the order of the collection stays: upstream, which
 * could insert more in a race, read and updated that one alone, so that the others are old.
 */
async function removeDuplicates(collection: Collection): Promise<void> {
  const repeated = collection.aggregate([
    { $match: { key: { $type: "string" } } },
    { $group: { _id: "$key", count: { $sum: 1 } } },
    { $match: { count: { $gt: 1 } } },
  ], { allowDiskUse: true });
  for await (const { _id: key } of repeated) {
    const [, ...others] = await collection.find({ key }, { projection: { _id: 1 } }).toArray();
    await collection.deleteMany({ _id: { $in: others.map(({ _id }) => _id) } });
  }
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

interface DriverError extends Error {
  readonly code?: unknown;
  readonly errorLabels?: readonly string[];
  /** What a bulk write wraps, or what the server answered. */
  readonly errorResponse?: { readonly name?: string };
}

function isDuplicate(error: unknown): boolean {
  const { code, message } = error as DriverError;
  return code === 11000 || /E11000|duplicate key|UNIQUE constraint/i.test(message); // FerretDB
}

/** Whether the server will not do it, for whatever reason, but talks to us. */
function isRefusal(error: unknown): boolean {
  const { name, code, message } = error as DriverError;
  if (name !== "MongoServerError" || code === 18 || /bad auth/i.test(message)) return false;
  return isDuplicate(error) || !transient(error);
}

const passingNames = new Set([
  "MongoNetworkError",
  "MongoNetworkTimeoutError",
  "MongoPoolClearedError",
  "PoolClearedOnNetworkError",
  "MongoWaitQueueTimeoutError",
  "MongoServerSelectionError",
  // What else was asked of a client that could not connect; a closed client says something else.
  "MongoTopologyClosedError",
  "MongoPoolClosedError",
  "MongoClientClosedError",
]);

/** What passes, by the server's number; `docs/errors.md` has the reasons, and what does not pass. */
const passingCodes = new Set([
  ...[6, 7, 89, 202, 9001], // network
  ...[91, 189, 10058, 10107, 11600, 11602, 13435, 13436], // shutting down, no longer primary
  ...[63, 70, 133, 150, 13388], // the state of a cluster that the server does not know yet
  ...[24, 43, 46, 50, 64, 112, 117, 134, 262, 11000, 11601], // locks, conflicts, limits of time
  ...[145, 149, 216, 237, 303, 355, 398, 46841, 56846, 91331, 10045600], // failover, maintenance
  ...[175, 239, 246, 249, 250, 272, 314, 319, 342, 363, 371, 406, 412, 453], // data is moved or busy
  ...[261, 264, 365, 391, 402, 407, 433, 449, 450, 462, 16500], // log in again, limits of load
]);

/** What the driver or the server says of errors that pass. */
const passingLabels = ["RetryableWriteError", "RetryableError", "TransientTransactionError"];

/** Whether the same command may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { name, code, message, errorResponse, errorLabels } = error as DriverError;
  // The driver has tried for a while when it says that, and this does not pass.
  if (/certificate|altnames|secure TLS connection|SSL routines/i.test(message)) return false;
  return passingNames.has(name) || passingNames.has(errorResponse?.name ?? "") ||
    passingCodes.has(Number(code)) || disconnected(error) ||
    passingLabels.some((label) => errorLabels?.includes(label));
}

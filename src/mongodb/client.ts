/**
 * What is the same for the clients of the mongodb driver, of whichever version: their types, the
 * upgrade of a collection, and what errors mean.
 *
 * @module
 */

import type { EventEmitter } from "node:events";
import { redact } from "../errors.ts";
import { described } from "../validation.ts";

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

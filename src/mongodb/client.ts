/**
 * The interfaces of the mongodb driver 5 to 7, and the client of a store: one that was passed in, or the
 * store's own.
 *
 * @module
 */

import type { EventEmitter } from "node:events";
import type { MaybePromise } from "../backend.ts";
import { refusedOptions } from "../errors.ts";
import { described } from "../validation.ts";

/** The part of a `MongoClient` that is used. */
export interface Client {
  connect(): Promise<unknown>;
  db(name?: string): Database;
}

interface Database {
  // deno-lint-ignore no-explicit-any
  collection(name: string, options?: any): any;
}

/** A document of the collection. Documents of 2.0.0-beta have no `expires`. */
export interface Document {
  _id: unknown;
  key: string;
  session: unknown;
  /** The version of the session, if it has one. */
  version?: number;
  expires?: Date;
  /** The token of the last holder of its lease. */
  lease?: string;
  /** The end of the lease. */
  until?: Date;
  /** When the session expires, if the lease has moved `expires`. */
  ends?: Date;
  /** What holders have noted. */
  note?: string;
}

type Cursor<T> = AsyncIterable<T> & { toArray(): Promise<T[]> };

/** The part of a collection that is used. */
export interface Collection {
  readonly namespace: string;
  readonly writeConcern?: { readonly w?: unknown };
  findOne(filter: object, options: object): Promise<Document | null>;
  find(filter: object, options: object): Cursor<Document>;
  updateOne(filter: object, update: object, options?: object): Promise<{ matchedCount: number }>;
  insertMany(documents: object[], options: object): Promise<unknown>;
  findOneAndUpdate(filter: object, update: object, options: object): Promise<Document | null>;
  bulkWrite(operations: object[], options: object): Promise<{
    matchedCount: number;
    deletedCount: number;
  }>;
  deleteMany(filter: object, options?: object): Promise<{ deletedCount: number }>;
  updateMany(filter: object, update: object, options: object): Promise<unknown>;
  aggregate<T = { _id: string }>(pipeline: object[], options: object): Cursor<T>;
  listIndexes(): Cursor<{ key: object; unique?: boolean } & Record<string, unknown>>;
  createIndex(keys: object, options: object): Promise<unknown>;
}

/**
 * Checks a client by duck typing because a user may have another installed version of the driver.
 *
 * @throws {TypeError} if the client is not supported.
 */
export function checkClient(client: Client): void {
  if (typeof client.db !== "function" || typeof client.connect !== "function") {
    const supported = "a MongoClient of mongodb (mongoose's is mongoose.connection.getClient())";
    throw new TypeError(
      `Mongo: option "client" must be ${supported}, but is ${described(client)}`,
    );
  }
}

/** Overrides settings of the client that would change what a read returns. */
const collectionOptions = {
  readPreference: "primary", // a secondary may not have the last write yet
  // With "majority", a write that only the primary has acknowledged (w: 1) would not be read. The driver
  // leaves a primary that refuses a write, so that "local" is never read from a former one that knows it.
  readConcern: { level: "local" },
  promoteValues: true,
  raw: false,
};

/**
 * Opens a collection.
 *
 * @throws {TypeError} if the driver refuses the name.
 */
export function collectionOf(
  client: Client,
  database: string | undefined,
  name: string,
): Collection {
  try {
    const db = client.db(database);
    const collection: Collection = db.collection(name, collectionOptions);
    if (collection.writeConcern?.w !== 0) return collection;
    // With `w: 0` the server would not report errors.
    return db.collection(name, { ...collectionOptions, writeConcern: { w: 1 } });
  } catch (error) {
    throw refusedOptions("Mongo", "mongodb", error);
  }
}

/** How a store gets at its client. */
export interface ClientSource {
  readonly client: Client;
  /** Starts to report lost servers. */
  watch(report: (error: unknown) => void): void;
  /** Replaces a client, if possible, that has found no server. */
  replace(client: Client): void;
  close(): MaybePromise<void>;
}

/** A client that was passed in. It stays open, and the application listens to its events. */
export class ExistingClient implements ClientSource {
  readonly client: Client;

  constructor(client: Client) {
    this.client = client;
  }

  watch(): void {}
  replace(): void {}
  close(): void {}
}

/** The part of the store's own `MongoClient` that is used. */
interface ManagedMongoClient extends Client, EventEmitter {
  close(): Promise<void>;
}

/** The store's own client, and its replacements. */
export class ManagedClient implements ClientSource {
  readonly #create: () => ManagedMongoClient;
  #report: ((error: unknown) => void) | undefined;
  client: ManagedMongoClient;

  constructor(create: () => ManagedMongoClient) {
    this.#create = create;
    this.client = create();
  }

  watch(report: (error: unknown) => void): void {
    if (this.#report === undefined) addListeners(this.client, report);
    this.#report = report;
  }

  /**
   * After a write to a connection that the server was just closing, the driver's monitor waits for an
   * answer for ever. When a server stops, this may happen to all connections. Only a new client finds
   * the server again.
   */
  replace(client: ManagedMongoClient): void {
    if (this.client !== client) return;
    this.client = this.#create();
    if (this.#report !== undefined) addListeners(this.client, this.#report);
    client.removeAllListeners("serverDescriptionChanged");
    client.close().catch(() => {});
  }

  close(): Promise<void> {
    return this.client.close();
  }
}

/** A server as the client sees it. */
interface ServerDescription {
  readonly type: string;
  readonly error: Error | null;
}

function addListeners(client: EventEmitter, report: (error: unknown) => void): void {
  client.on("error", report);
  client.on("serverDescriptionChanged", (change: Record<string, ServerDescription>) => {
    const { previousDescription: before, newDescription: after } = change;
    if (after!.error && before!.type !== "Unknown") report(after!.error);
  });
}

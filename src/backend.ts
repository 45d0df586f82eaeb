/**
 * The contract between the store and a database. Every method works on arrays, so that batches need
 * no second path.
 *
 * @module
 */

import type { Buffer } from "node:buffer";

/**
 * How the format stores a kind of value, in words; `undefined` if the value does not change.
 *
 * @param kind the kind, such as "a Map", "NaN" or "class".
 */
export type StoredAs = (kind: string) => string | undefined;

/** A value, or the promise of one: embedded databases are synchronous. */
export type MaybePromise<T> = T | Promise<T>;

/** Whether the result is still to come. */
export function isPromise<T>(result: MaybePromise<T>): result is Promise<T> {
  return typeof (result as Promise<T> | undefined)?.then === "function";
}

/** Maps a result, now or later. */
export function after<T, Result>(
  result: MaybePromise<T>,
  map: (result: T) => MaybePromise<Result>,
): MaybePromise<Result> {
  return isPromise(result) ? result.then(map) : map(result);
}

/** One stored session. */
export interface Entry<Encoded> {
  /** The session key, as the caller of the store gave it (without the backend's prefix). */
  readonly key: string;
  /** The session in the form that the backend stores. */
  readonly value: Encoded;
  /** When the session expires, in ms since the epoch; never if absent. */
  readonly expires?: number;
}

/** How a database stores values with a header: see `codec/header.ts`. */
export interface Packing<Encoded> {
  /** Splits a stored value. Without a header the body is a session in the database's own format. */
  split(stored: Encoded): { readonly header: string; readonly body: Encoded | Uint8Array };
  /** Joins a header, which may be empty, and a body: a session, text or bytes. */
  join(header: string, body: Encoded | string | Uint8Array): Encoded;
  /** The text that was joined. */
  text(body: Encoded | Uint8Array): string;
  /** The bytes that were joined. */
  bytes(body: Encoded | Uint8Array): Buffer;
  /** A session in the database's own format as bytes, for encryption. */
  serialize(session: Encoded): Uint8Array;
  /** The opposite of `serialize`. */
  deserialize(bytes: Buffer): Encoded;
}

/** A stored value to replace. */
export interface Replacement<Encoded> {
  /** The session key. */
  readonly key: string;
  /** The value as it was read. */
  readonly before: Encoded;
  /** The value to store instead. */
  readonly after: Encoded;
}

/** How sessions become stored values and back. */
export interface Codec<Encoded> {
  /**
   * Synchronous because later changes by the caller must not reach the stored value.
   *
   * @throws {TypeError} if the session cannot be stored, for example because it is circular.
   */
  encode(session: unknown): Encoded;
  /**
   * Returns a new copy each time; `undefined` for an empty value. Throws if the value is not a
   * session. Throws a `StoreError` if it is one that this store cannot read.
   */
  decode(value: Encoded, key: string): unknown;
  /** Whether both decode to the same session. */
  equal(a: Encoded, b: Encoded): boolean;
  /** About how many bytes the value has on the wire. Used to limit batches. */
  size(value: Encoded): number;
  /** The value as it is in the database, for `onCorrupt`. The value itself without this method. */
  stored?(value: Encoded): unknown;
  /** How a value that the format does not have is stored. */
  readonly storedAs?: StoredAs;
}

/** Limits of one batch. */
export interface Limits {
  /** The most keys of one call of `read`, `write`, `replace` or `remove`. */
  readonly keys: number;
  /** About the most bytes of one call of `write`. A larger entry travels alone. */
  readonly bytes: number;
}

/** Limits that suit most databases: the cost per session is nearly constant from 64 keys on. */
export const defaultLimits: Limits = { keys: 128, bytes: 1_000_000 };

/** Some of the stored entries, without their values, in an order that the backend chooses. */
export interface Page {
  /** The entries, in an order that the backend chooses. */
  readonly entries: Pick<Entry<never>, "key" | "expires">[];
  /** The cursor of the next page; absent on the last page. */
  readonly next?: string;
}

/** The state of a schema, and the changes that `open` would make. */
export interface Plan {
  /** Whether the table or collection exists. */
  readonly exists: boolean;
  /** Whether keys are unique. */
  readonly unique: boolean;
  /** The changes that `open` would make, as statements or in words; empty if the schema is current. */
  readonly changes: readonly string[];
}

/** A claim of the lease on a key: the right to change its session, which one holder at a time has. */
export interface Claim {
  /** The session key. */
  readonly key: string;
  /** Identifies the claim and its holder: up to 255 printable ASCII characters. */
  readonly token: string;
  /** How long the lease lasts, in ms of the database's clock. */
  readonly length: number;
  /** Whether to return what was noted. */
  readonly noted?: boolean | undefined;
}

/** The lease on a key after a claim. */
export interface Claimed<Encoded> {
  /** The session key. */
  readonly key: string;
  /** The token of the claim if it was granted, otherwise that of the current holder. */
  readonly token: string;
  /** What is stored under the key, if the claim was granted and there is a session. */
  readonly entry?: Entry<Encoded> | undefined;
  /** The text that a settlement has noted, if the claim was granted and asks for it. */
  readonly note?: string | undefined;
}

/** What a holder does with its lease: renews it for `length` ms, or releases it if that is 0. */
export interface Settlement<Encoded> extends Claim {
  /** The entry to store; `null` to delete the session; `undefined` to leave it as it is. */
  readonly change: Entry<Encoded> | null | undefined;
  /**
   * ASCII text to keep beside the session, also without a session, for a day or longer; `undefined` to
   * leave it as it is.
   */
  readonly note?: string | undefined;
  /**
   * Whether the holder knows of no session. A release without a change then removes what only the lease
   * needs, unless someone without a lease has stored a session meanwhile.
   */
  readonly absent?: boolean;
}

/** A settlement that changed nothing because the lease is lost. */
export interface Refusal {
  /** The session key. */
  readonly key: string;
  /** The token of the current holder, if there is one. */
  readonly token: string | undefined;
}

/** A lease that is held. */
export interface Held {
  /** The session key. */
  readonly key: string;
  /** The token of the claim. */
  readonly token: string;
  /** How long the lease still lasts, in ms. */
  readonly left: number;
}

/** Some of the leases that are held. */
export interface LeasePage {
  /** The leases, in an order that the backend chooses. */
  readonly leases: Held[];
  /** The cursor of the next page; absent on the last page. */
  readonly next?: string | undefined;
}

/**
 * Leases on keys, in the same place as the sessions, so that a write can depend on the lease. Time is
 * the database's clock. `open` has been called with `leasing` before.
 */
export interface Leases<Encoded> {
  /**
   * Grants each lease that is free, that has expired, or that has this very token: a repeated claim is
   * granted again. Returns an answer for each claim, in any order. A missing session stays missing
   * for all other methods.
   *
   * @param claims has no duplicate keys.
   */
  claim(claims: Claim[], signal: AbortSignal): MaybePromise<Claimed<Encoded>[]>;
  /**
   * Writes, and renews or releases, where the lease still has the token, even if it has expired. The
   * token stays after a release, so that a repeated settlement is applied again and does no harm.
   * Returns a refusal for each of the others. A release is never refused if it stores nothing, and
   * session and lease are missing.
   *
   * @param settlements has no duplicate keys.
   */
  settle(settlements: Settlement<Encoded>[], signal: AbortSignal): MaybePromise<Refusal[]>;
  /** About `size` of the leases that are held and have not expired, in the manner of `page`. */
  held(start: string | undefined, size: number, signal: AbortSignal): MaybePromise<LeasePage>;
  /**
   * Those of the leases on these keys that are held and have not expired, in any order. Changes nothing. It
   * is called often, so it should be one round trip and take no lock.
   *
   * @param keys has no duplicates.
   */
  find(keys: string[], signal: AbortSignal): MaybePromise<Held[]>;
}

/** The arguments of `open`. */
export interface Opening {
  /** Whether entries will have `expires`: the database should then find expired ones quickly. */
  readonly expiring: boolean;
  /** Whether there will be leases. `open` rejects if the database has no place for them. */
  readonly leasing: boolean;
  /** Aborts when the attempt has timed out; connections that it holds should be discarded. */
  readonly signal: AbortSignal;
  /** Reports errors in the background and errors that do not stop the store, to `onError`. */
  readonly report: (error: unknown) => void;
  /**
   * If given, `open` is a dry run: it changes nothing and passes the planned changes to this function.
   * A database without a schema does not call it. The data of an older version is read as it is: if
   * several entries have one key, the entry that the upgrade would keep comes last.
   */
  readonly plan?: (plan: Plan) => void;
}

/** A database. The store calls `open` before anything else, and retries after transient errors. */
export interface Backend<Encoded = string> {
  /** The database in traces: a value of OpenTelemetry's `db.system.name`, such as "postgresql". */
  readonly system: string;
  /**
   * The client, pool or database. Stores with the same handle and scope share one backend and keep
   * one order of operations per key.
   */
  readonly handle: object;
  /** The part of the database that the store uses: its table, collection or prefix. */
  readonly scope: string;
  /** Options, by name, that must be the same for all stores with the same handle and scope. */
  readonly shared?: Readonly<Record<string, unknown>>;
  /** The name of the table, collection or prefix. Encrypted sessions can be read only there. */
  readonly place: string;
  /** How sessions are stored. */
  readonly codec: Codec<Encoded>;
  /** How values with a header are stored. Absent for text. */
  readonly packing?: Packing<Encoded>;
  /** Whether the database is synchronous, so that reads gain nothing from a batch. */
  readonly embedded?: boolean;
  /** Leases on the keys; or the reason why there are none, in words. */
  readonly leases?: Leases<Encoded> | string;

  /**
   * Connects and prepares the schema: creates it, or upgrades the schema of `@telegraf/session`
   * 2.0.0-beta. Called again after a failure, and when a store is the first one that needs `expires` or
   * leases. Many processes may call it at the same time.
   *
   * @returns the limits of batches, which may depend on the server.
   */
  open(opening: Opening): MaybePromise<Limits>;
  /**
   * The stored entries that exist, in any order, with their `expires` if `open` got `expiring`, or if the
   * call asks for it.
   *
   * @param keys has no duplicates.
   * @param signal aborts when no caller waits for the answer any more: a connection that still hangs
   * in the call should be discarded. The other methods have the same signal.
   */
  read(keys: string[], signal: AbortSignal, expiring?: boolean): MaybePromise<Entry<Encoded>[]>;
  /**
   * Inserts or overwrites. Stores all entries or rejects. Repeating the call does no harm.
   *
   * @param entries has no duplicate keys.
   * @param fresh whether none of the keys existed a moment ago, so that inserting may be quicker.
   */
  write(entries: Entry<Encoded>[], signal: AbortSignal, fresh?: boolean): MaybePromise<void>;
  /**
   * Replaces each value that is still the one that was read. Its expiry and its lease stay as they are. A
   * value that has changed or is gone is left as it is, which is no error: the caller reads again.
   * Repeating the call does no harm.
   *
   * @param replacements has no duplicate keys.
   */
  replace(replacements: Replacement<Encoded>[], signal: AbortSignal): MaybePromise<void>;
  /** Sets `expires` of entries that still exist, whatever their current value is. */
  renew(keys: string[], expires: number, signal: AbortSignal): MaybePromise<void>;
  /** Deletes. A missing key is no error. */
  remove(keys: string[], signal: AbortSignal): MaybePromise<void>;
  /**
   * About `size` of all entries of the scope. A page may be empty although more pages follow. An entry
   * that exists all the time is returned at least once.
   *
   * @param start the cursor: `next` of the previous page; the first page without it.
   * @param prefix entries whose keys do not begin with it may be left out. The same for all pages.
   */
  page(
    start: string | undefined,
    size: number,
    signal: AbortSignal,
    prefix?: string,
  ): MaybePromise<Page>;
  /**
   * Deletes some entries that have expired by `now` (ms since the epoch) and have no lease, and returns
   * how many: 0 if none are left or another process is pruning. Absent if the database deletes them by itself.
   */
  prune?(now: number, signal: AbortSignal): MaybePromise<number>;
  /**
   * Closes what this backend opened. A client that was passed in stays open; only listeners of the
   * store are removed. Called once, when the last store with its handle and scope is closed.
   */
  close(): MaybePromise<void>;
  /**
   * Whether the same call may succeed in a moment, for example after a lost connection, a failover, a
   * deadlock or a lock timeout. False for authentication, permission, syntax, and values that are too
   * large.
   */
  transient(error: unknown): boolean;
}

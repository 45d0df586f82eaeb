/**
 * The contract between the store and a database: what a database must do, on arrays, so that
 * batches need no second path. Types only.
 *
 * @module
 */

import type { Fate } from "./losses.ts";

/** A value, or the promise of one: embedded databases answer synchronously. */
export type MaybePromise<T> = T | Promise<T>;

/** One stored session. */
export interface Entry<Encoded> {
  /** The session key, as the caller of the store gave it (without the backend's prefix). */
  readonly key: string;
  /** The session in the form that this backend stores. */
  readonly value: Encoded;
  /** When the session expires, in ms since the epoch; never when absent. */
  readonly expires?: number;
}

/** How sessions become stored values and back. */
export interface Codec<Encoded> {
  /**
   * Synchronous: what the caller changes later must not reach the stored value.
   *
   * @throws {TypeError} when the session cannot be stored (circular, say).
   */
  encode(session: unknown): Encoded;
  /** Gives a fresh copy each time; a stored nothing is `undefined`. Throws on what is not a session. */
  decode(value: Encoded): unknown;
  /** Whether both decode to the same session. */
  equal(a: Encoded, b: Encoded): boolean;
  /** About how many bytes the value takes on the wire: bounds batches. */
  size(value: Encoded): number;
  /** What becomes of values that the format does not have. */
  readonly fate?: Fate;
}

/** Bounds of one batch. */
export interface Limits {
  /** The most keys that one call of `read`, `write` or `remove` is given. */
  readonly keys: number;
  /** About how many bytes one call of `write` is given; a larger entry travels alone. */
  readonly bytes: number;
}

/** Some of the stored entries, without their values, in an order of the backend's own. */
export interface Page {
  readonly entries: Pick<Entry<never>, "key" | "expires">[];
  /** Where the next page begins; absent on the last one. */
  readonly next?: string;
}

/** What a schema is like, and what `open` would make of it. */
export interface Plan {
  /** Whether the table or collection is there. */
  readonly exists: boolean;
  /** Whether no key can be there twice. */
  readonly unique: boolean;
  /** The changes that `open` would make, as statements or in words; none when all is as it should be. */
  readonly changes: readonly string[];
}

/** What `open` is given. */
export interface Opening {
  /** Whether entries will have `expires`: then the database should find expired ones quickly. */
  readonly expiring: boolean;
  /** Aborts when the attempt has taken too long; what it holds should be given up. */
  readonly signal: AbortSignal;
  /** Reports what happens in the background, or does not stop the store: goes to `onError`. */
  readonly report: (error: unknown) => void;
  /**
   * When given, `open` changes nothing, and tells instead what it would; a database that has no schema
   * tells nothing. What an older version made is read as it is: of several entries with one key, the
   * one that the upgrade would keep comes last.
   */
  readonly plan?: (plan: Plan) => void;
}

/** A database. The store calls `open` before anything else, and retries what is transient. */
export interface Backend<Encoded = string> {
  /**
   * What stores on the same data share: the client, pool or database. Two stores of one handle
   * and scope keep one order of operations per key.
   */
  readonly handle: object;
  /** The part of the database that this store uses: its table, collection or prefix. */
  readonly scope: string;
  /** Options, by name, in which all stores of one handle and scope must agree. */
  readonly shared?: Readonly<Record<string, unknown>>;
  /** How sessions are stored. */
  readonly codec: Codec<Encoded>;
  /** Whether it answers at once: reads need not wait for others to go together with. */
  readonly embedded?: boolean;
  /** Bounds of one batch; may change in `open`, when the server has told its own. */
  readonly limits: Limits;

  /**
   * Connects and prepares the schema: creates it, or upgrades what `@telegraf/session` 2.0.0-beta
   * made. Called again after a failure, and when entries shall expire only later. Safe from many
   * processes at the same time.
   */
  open(opening: Opening): MaybePromise<void>;
  /**
   * The stored entries that exist, in any order, with their `expires` if `open` was told `expiring`.
   *
   * @param keys no key twice.
   * @param signal aborts when nobody waits for the answer any more: a connection that still
   * hangs in the call should be given up. The same holds for `write` and `remove`.
   */
  read(keys: string[], signal: AbortSignal): MaybePromise<Entry<Encoded>[]>;
  /**
   * Inserts or overwrites. All entries, or an error; repeating the call does no harm.
   *
   * @param entries no key twice.
   * @param fresh whether none of the keys was there a moment ago: to insert may be quicker then.
   */
  write(entries: Entry<Encoded>[], signal: AbortSignal, fresh?: boolean): MaybePromise<void>;
  /** Sets `expires` of entries that are still there, whatever their value is by now. */
  renew(keys: string[], expires: number, signal: AbortSignal): MaybePromise<void>;
  /** Deletes; a missing key is no error. */
  remove(keys: string[], signal: AbortSignal): MaybePromise<void>;
  /**
   * About `size` of all entries of the scope, and of nothing else; maybe none though more follow. An
   * entry that is there all the time comes at least once.
   *
   * @param start `next` of the page before; the first page without it.
   */
  page(start: string | undefined, size: number, signal: AbortSignal): MaybePromise<Page>;
  /**
   * Deletes some entries that have expired by `now` (ms since the epoch), and says how many: 0 when
   * none are left, or another process is at it. Absent where the database does that by itself.
   */
  prune?(now: number, signal: AbortSignal): MaybePromise<number>;
  /**
   * Closes what this backend opened, never what the caller passed in: there it only stops listening.
   * Called once, when the last store of its handle and scope is closed.
   */
  close(): MaybePromise<void>;
  /**
   * Whether the same call may succeed in a moment: connection lost, failover, deadlock, lock wait.
   * Not: authentication, permission, syntax, values that are too large.
   */
  transient(error: unknown): boolean;
}

/**
 * The interfaces of `Deno.openKv` and of `@deno/kv`, and opening a database.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "../abort.ts";
import { described } from "../validation.ts";

/** A key: its first part is the store's prefix. */
export type Key = readonly (string | number)[];

/** What the database has under a key: value and versionstamp are `null` if there is nothing. */
export interface KvEntry {
  readonly key: readonly unknown[];
  readonly value: unknown;
  readonly versionstamp: string | null;
}

/** The part of an atomic operation that is used. */
export interface Atomic {
  check(check: { key: Key; versionstamp: string | null }): unknown;
  set(key: Key, value: Uint8Array, options?: { expireIn?: number }): unknown;
  delete(key: Key): unknown;
  commit(): Promise<{ readonly ok: boolean }>;
}

/** The part of a database that is used. Reads are strongly consistent by default. */
export interface Kv {
  getMany(keys: readonly Key[]): Promise<KvEntry[]>;
  list(
    selector: { prefix: Key; start: Key } | { prefix: Key },
    options: { limit: number },
  ): AsyncIterable<KvEntry>;
  atomic(): Atomic;
  close(): void;
}

/** The properties by which a database is recognized. */
export interface KvDatabase {
  getMany: (...args: never[]) => unknown;
  list: (...args: never[]) => unknown;
  atomic: (...args: never[]) => unknown;
}

/** What is used of the package `@deno/kv`. */
export interface Driver {
  openKv(path: string, options: Record<string, unknown>): Promise<unknown>;
}

/** The global object of Deno. */
declare const self: { Deno?: { openKv?: (path?: string) => Promise<unknown> } };

/** Deno, if the program runs on it. */
function deno() {
  return typeof self === "undefined" ? undefined : self.Deno;
}

/** Whether the program runs on Deno, which has a database for each program. */
export function isDeno(): boolean {
  return deno() !== undefined;
}

/**
 * Checks a database by duck typing because a user may have another installed version of the driver.
 *
 * @throws {TypeError} if the database is not supported.
 */
export function checkKv(kv: KvDatabase): Kv {
  const fits = (["getMany", "list", "atomic"] as const).every((it) => typeof kv[it] === "function");
  if (fits) return kv as unknown as Kv;
  const kinds = "a database that openKv() of Deno or of @deno/kv has opened";
  throw new TypeError(`DenoKV: option "kv" must be ${kinds}, but is ${described(kv)}`);
}

/** How long a request of `@deno/kv` may take, in ms. It sets no limit itself. */
const requestTimeout = 5_000;

const options = {
  // All values are bytes. V8's own format is not needed: Bun does not have it. Values of the application beside
  // the sessions may be decoded, and are not used.
  encodeV8(): never {
    throw new TypeError("the values of sessions are bytes");
  },
  decodeV8: (): undefined => undefined,
  fetcher: (url: string, init: RequestInit) =>
    fetch(url, { ...init, signal: AbortSignal.timeout(requestTimeout) }),
};

/**
 * Opens a database with Deno, or with `@deno/kv`.
 *
 * @param where a path or URL. Deno has a default.
 * @param load imports `@deno/kv`.
 */
export async function open(where: string | undefined, load: () => Promise<Driver>): Promise<Kv> {
  const runtime = deno();
  if (runtime === undefined) return await (await load()).openKv(where!, options) as Kv;
  if (runtime.openKv === undefined) {
    throw new Error(
      'Deno has no openKv: run it with --unstable-kv, or write "unstable": ["kv"] in deno.json',
    );
  }
  return await runtime.openKv(where) as Kv;
}

/** The database of a store, and the calls on it. */
export class Database {
  readonly #open: () => Promise<Kv>;
  readonly #isOwn: boolean;
  /** Changes that nobody waits for any more. The driver goes on with them. */
  readonly #abandoned = new Set<Promise<unknown>>();
  #kv: Kv | undefined;
  #isClosed = false;

  /** @param existing a database that was passed in. It stays open. */
  constructor(existing: Kv | undefined, open: () => Promise<Kv>) {
    this.#kv = existing;
    this.#isOwn = existing === undefined;
    this.#open = open;
  }

  async open(): Promise<void> {
    if (this.#kv !== undefined) return;
    const kv = await this.#open();
    // An attempt that has timed out may succeed after a later one, or after `close`.
    if (this.#kv !== undefined || this.#isClosed) kv.close();
    else this.#kv = kv;
  }

  /** The open database. */
  get kv(): Kv {
    return this.#kv!;
  }

  /**
   * Does work that changes something. It waits until abandoned changes have ended: a driver repeats a call until
   * the server answers, and cannot cancel it, so that an old change could overtake a new one.
   */
  async change<T>(signal: AbortSignal, work: (kv: Kv) => Promise<T>): Promise<T> {
    if (this.#abandoned.size > 0) {
      await Promise.allSettled(this.#abandoned);
      signal.throwIfAborted();
    }
    const call = work(this.kv);
    setAbortHandler(signal, () => {
      const ended = call.catch(() => {}).finally(() => this.#abandoned.delete(ended));
      this.#abandoned.add(ended);
    });
    try {
      return await call;
    } finally {
      clearAbortHandler(signal);
    }
  }

  close(): void {
    this.#isClosed = true;
    if (this.#isOwn) this.#kv?.close();
  }
}

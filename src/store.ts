/**
 * The store that Telegraf sees, the same for all databases: checks, codec, expiry, errors, closing.
 * Opening and retries are in `connection.ts`, the order of operations is in `queue.ts`.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { performance } from "node:perf_hooks";
import { clearTimeout, setImmediate, setTimeout } from "node:timers";
import type { Backend, MaybePromise } from "./backend.ts";
import { Connection, within } from "./connection.ts";
import {
  ClosedError,
  DecodeError,
  EncodeError,
  type Operation,
  reason,
  StoreError,
  TimeoutError,
} from "./errors.ts";
import { Losses } from "./losses.ts";
import { checkOptions, type Rules, type StoreOptions } from "./options.ts";
import { originOf, setOrigin } from "./origin.ts";
import { type Content, expired, type Waiter } from "./queue.ts";

/**
 * A store for Telegraf's `session({ store })`, of which Telegraf calls `get`, `set` and `delete`.
 *
 * Keys are strings of 1 to 512 bytes in UTF-8, without NUL, compared byte by byte. Every operation
 * ends within the store's `timeout`; what fails rejects with a `StoreError`.
 *
 * @typeParam Session what the bot keeps per chat.
 */
export interface Store<Session> extends AsyncDisposable {
  /** The session of the key, a copy of its own for each call; `undefined` when there is none. */
  get(key: string): Promise<Session | undefined>;
  /**
   * Stores the session as it is at the call; resolves when the database has it. `null` and
   * `undefined` delete. Of several calls for one key the last wins. What `get` returned is not
   * written again when nothing changed it.
   */
  set(key: string, session: Session): Promise<void>;
  /** Deletes the session; a missing one is no error. */
  delete(key: string): Promise<void>;
  /** Whether there is a session. */
  has(key: string): Promise<boolean>;
  /**
   * The keys of all sessions, page by page, in no order; sessions that are stored or deleted
   * meanwhile may be among them or not. In Redis a key may come twice while its table of keys is
   * resized.
   */
  keys(): AsyncIterableIterator<string>;
  /** All sessions with their keys, as `keys()`. */
  entries(): AsyncIterableIterator<[key: string, session: Session]>;
  /** How many sessions there are; counted one by one, as `keys()` lists them. */
  size(): Promise<number>;
  /** Deletes all sessions of this store: of its table, collection or prefix. */
  clear(): Promise<void>;
  /**
   * Deletes sessions that have expired, and returns how many; 0 where the database does that by
   * itself. A store with a `ttl` does it every `pruneInterval`.
   */
  prune(): Promise<number>;
  /** Whether the database answers a read, and how long that takes. Never rejects. */
  health(): Promise<Health>;
  /** Opens the store now instead of with its first operation; rejects with the cause. */
  ready(): Promise<void>;
  /**
   * Waits for what is under way, then closes what the store opened, never what was passed in.
   * Operations that begin later reject with a `ClosedError`. May be called twice.
   */
  close(): Promise<void>;
}

/** What `health()` finds. */
export type Health =
  /** The database answered, after so many ms. */
  | { ok: true; latency: number }
  /** It did not: the error is what an operation would have rejected with. */
  | { ok: false; latency: number; error: Error };

/**
 * Makes a store; with or without `new`.
 *
 * @typeParam Options the options; with `void` for a factory that may be called without any.
 */
export interface StoreFactory<Options> {
  /** A store for sessions of any type, as `session({ store })` wants it. */
  // deno-lint-ignore no-explicit-any
  (options: Options): Store<any>;
  /** A store for sessions of the given type. */
  <Session>(options: Options): Store<Session>;
  /** A store for sessions of any type. */
  // deno-lint-ignore no-explicit-any
  new (options: Options): Store<any>;
  /** A store for sessions of the given type. */
  new <Session>(options: Options): Store<Session>;
}

/** What makes a factory: its name, the rules of its options, and the backend that they ask for. */
export interface FactoryDefinition<Options, Encoded> {
  readonly name: string;
  readonly rules: Rules<Options>;
  /** Options that hand over a client, pool or database, with those that have no effect then. */
  readonly existing?: Readonly<Record<string, readonly string[]>>;
  /** Makes the backend; opens nothing. */
  backend(options: Options): Backend<Encoded>;
}

// deno-lint-ignore no-explicit-any
const definitions = new WeakMap<object, FactoryDefinition<any, unknown>>();

/**
 * The backend of the store that a factory would make, for the command line: it moves stored values
 * as they are.
 */
export function backendOf<Options>(
  factory: StoreFactory<Options>,
  options: Options,
): Backend<unknown> {
  const { name, rules, existing, backend } = definitions.get(factory)!;
  checkOptions(name, options, rules, existing);
  return backend(options);
}

/** Makes the factory of a backend. */
export function storeFactory<Options extends StoreOptions, Encoded>(
  definition: FactoryDefinition<Options, Encoded>,
): StoreFactory<Options | void> {
  const { name, rules, existing, backend } = definition;
  // A plain function because it is called with and without `new`.
  function factory(options: Options = {} as Options): Store<unknown> {
    checkOptions(name, options, rules, existing);
    return createStore(backend(options), options);
  }
  // For `session({ store: Redis })`. Not in the type, so that the compiler refuses that as well.
  const value = () => {
    throw new TypeError(`${name} must be called: write session({ store: ${name}({ … }) })`);
  };
  Object.defineProperties(factory, {
    name: { value: name },
    get: { value },
    set: { value },
    delete: { value },
  });
  definitions.set(factory, definition);
  return factory as unknown as StoreFactory<Options | void>;
}

/** Makes a store of a backend. */
export function createStore<Session, Encoded>(
  backend: Backend<Encoded>,
  options: StoreOptions = {},
): Store<Session> {
  return new BackendStore(backend, options);
}

class BackendStore<Session, Encoded> implements Store<Session> {
  readonly #backend: Backend<Encoded>;
  readonly #connection: Connection<Encoded>;
  readonly #timeout: number;
  readonly #ttl: number | undefined;
  readonly #pruneInterval: number;
  readonly #onCorrupt: StoreOptions["onCorrupt"];
  readonly #report: (error: unknown) => void;
  readonly #onInitError: (error: unknown) => void;
  readonly #losses: Losses | undefined;
  /** The trouble that `onInitError` was told last: many operations fail for one reason. */
  #told: unknown = expired;
  #active = 0;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;
  #pruneTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(backend: Backend<Encoded>, options: StoreOptions) {
    this.#backend = backend;
    this.#timeout = options.timeout ?? 10_000;
    this.#ttl = options.ttl;
    this.#pruneInterval = options.pruneInterval ?? 3_600_000;
    this.#onCorrupt = options.onCorrupt;
    this.#report = quiet(options.onError);
    this.#onInitError = quiet(options.onInitError);
    const { fate } = backend.codec;
    if (options.onError && fate) this.#losses = new Losses(fate, this.#report);
    this.#connection = Connection.of(backend, this.#timeout);
    this.#connection.reporters.add(this.#report);
    if (this.#ttl !== undefined) this.#connection.expire();
  }

  get(key: string): Promise<Session | undefined> {
    const connection = this.#connection;
    let version: number;
    const read = (name: string, waiter: Waiter<Content<Encoded>>) => {
      version = connection.queue.version(name);
      connection.queue.read(name, waiter);
    };
    const finish = (content: Content<Encoded>) => {
      if (content === undefined || !isAlive(content)) return undefined;
      const session = this.#decode(content.key, content.value);
      setOrigin(session, { connection, content, version });
      return session;
    };
    return this.#operate("read", key, read, finish, () => this.get(key));
  }

  set(key: string, session: Session): Promise<void> {
    if (session === undefined || session === null) return this.delete(key);
    return this.#operate<void>("write", key, (name, waiter) => this.#set(name, session, waiter));
  }

  delete(key: string): Promise<void> {
    const { queue } = this.#connection;
    return this.#operate<void>(
      "delete",
      key,
      (name, waiter) => queue.write(name, undefined, waiter),
    );
  }

  has(key: string): Promise<boolean> {
    const { queue } = this.#connection;
    const read = (name: string, waiter: Waiter<Content<Encoded>>) => queue.read(name, waiter);
    return this.#operate("read", key, read, isAlive);
  }

  async *keys(): AsyncIterableIterator<string> {
    for await (const page of this.#pages()) yield* page;
  }

  async *entries(): AsyncIterableIterator<[string, Session]> {
    for await (const page of this.#pages()) {
      const sessions = await Promise.all(page.map((key) => this.get(key)));
      for (const [i, session] of sessions.entries()) {
        if (session !== undefined) yield [page[i]!, session];
      }
    }
  }

  async size(): Promise<number> {
    let size = 0;
    for await (const page of this.#pages()) size += page.length;
    return size;
  }

  async clear(): Promise<void> {
    await Promise.all(this.#connection.queue.writing().map((key) => this.delete(key)));
    for await (const page of this.#pages(() => true)) {
      await Promise.all(page.map((key) => this.delete(key)));
    }
  }

  async prune(): Promise<number> {
    let total = 0;
    for (let some = -1; some !== 0; total += some) {
      some = await this.#whole("prune", (signal) => this.#connection.prune(signal));
    }
    return total;
  }

  async health(): Promise<Health> {
    const start = performance.now();
    const latency = () => performance.now() - start;
    try {
      // A key like any other: that its session is missing is an answer.
      await this.#whole("read", (signal) => this.#connection.once(["health"], signal));
      return { ok: true, latency: latency() };
    } catch (error) {
      return { ok: false, latency: latency(), error: error as Error };
    }
  }

  ready(): Promise<void> {
    return this.#whole("open", (signal) => this.#connection.attempt(() => {}, signal));
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #decode(key: string, value: Encoded): Session | undefined {
    let session: unknown;
    try {
      session = this.#backend.codec.decode(value);
    } catch (cause) {
      if (typeof this.#onCorrupt === "function") session = this.#onCorrupt(value, key);
      else if (this.#onCorrupt !== "discard") {
        const why = `the stored value cannot be decoded: ${reason(cause)}`;
        throw new DecodeError(why, { operation: "read", key, cause });
      }
    }
    return (session ?? undefined) as Session | undefined;
  }

  /** Encodes before anything else, so that later changes of the session do not get in. */
  #set(key: string, session: Session, waiter: Waiter<void>): void {
    const { codec } = this.#backend;
    const { queue } = this.#connection;
    let value: Encoded;
    try {
      value = codec.encode(session);
    } catch (cause) {
      const why = `the session cannot be encoded: ${reason(cause)}`;
      throw new EncodeError(why, { operation: "write", key, cause });
    }
    this.#losses?.look(session);
    const expires = this.#ttl === undefined ? undefined : Date.now() + this.#ttl;
    const last = originOf<Encoded>(session, this.#connection);
    const content = last?.content;
    const unchanged = content?.key === key && last!.version === queue.version(key) &&
      codec.equal(content.value, value);
    if (unchanged) {
      // It costs at most one write per tenth of its life to keep a session that is only read.
      const fresh = content.expires === undefined || expires === undefined
        ? content.expires === expires
        : Math.abs(expires - content.expires) < this.#ttl! / 10;
      if (fresh) return queue.written(key, waiter);
      if (expires !== undefined) {
        // Rounded up by at most 1 %, so that what is renewed at once is renewed by one statement.
        const step = Math.ceil(this.#ttl! / 100);
        const renewed = { key, value, expires: Math.ceil(expires / step) * step };
        setOrigin(session, { ...last!, content: renewed });
        return queue.renew(renewed, waiter);
      }
    }
    queue.write(key, { key, value, expires }, waiter);
  }

  /** The keys of all sessions that count. */
  async *#pages(counts = isAlive): AsyncGenerator<string[]> {
    let start: string | undefined;
    do {
      const open = (signal: AbortSignal) => this.#connection.page(start, signal);
      const { entries, next } = await this.#whole("read", open);
      yield entries.filter(counts).map(({ key }) => key);
      start = next;
      // An embedded database answers at once: others shall have their turn between pages.
      await new Promise((resolve) => setImmediate(resolve));
    } while (start !== undefined);
  }

  /**
   * Does the work for a key, and makes of its result what the caller gets. One promise is all that
   * an operation costs, for most of what it takes is that.
   *
   * @param again does it once more, whenever the promise is awaited after it was rejected.
   */
  #operate<Result, T = Result>(
    operation: Operation,
    key: string,
    work: (key: string, waiter: Waiter<Result>) => void,
    finish?: (result: Result) => T,
    again?: () => Promise<T>,
  ): Promise<T> {
    let resolve!: (result: T) => void, fail!: (error: unknown) => void;
    const promise = new Promise<T>((yes, no) => {
      resolve = yes;
      fail = no;
    });
    const reject = (error: unknown) => {
      if (again !== undefined) repeatable(promise, again);
      fail(error);
    };
    let name: string;
    try {
      name = checkKey(key);
      this.#begin(operation, name);
    } catch (error) {
      reject(error);
      return promise;
    }
    const waiter: Waiter<Result> = {
      deadline: performance.now() + this.#timeout,
      resolve: (result) => {
        try {
          resolve(finish === undefined ? result as unknown as T : finish(result));
          this.#end();
        } catch (error) {
          waiter.reject(error);
        }
      },
      reject: (error) => {
        reject(this.#failure(error, { operation, key: name }));
        this.#end();
      },
    };
    try {
      work(name, waiter);
    } catch (error) {
      waiter.reject(error);
    }
    return promise;
  }

  /** Does what concerns no single key, within the timeout. */
  async #whole<T>(
    operation: Operation,
    work: (signal: AbortSignal) => MaybePromise<T>,
  ): Promise<T> {
    this.#begin(operation);
    try {
      return await within(this.#timeout, work);
    } catch (error) {
      throw this.#failure(error, { operation });
    } finally {
      this.#end();
    }
  }

  #begin(operation: Operation, key?: string): void {
    if (this.#closing !== undefined) {
      throw new ClosedError("the store is closed", { operation, key });
    }
    this.#active++;
    if (this.#pruneTimer === undefined) this.#pruneLater();
  }

  /** Prunes now and then, at random, so that many processes do not do it at once. */
  #pruneLater(): void {
    if (this.#ttl === undefined || this.#pruneInterval === 0) return;
    this.#pruneTimer = setTimeout(async () => {
      try {
        await this.prune();
      } catch (error) {
        if (!(error instanceof ClosedError)) this.#report(error);
      }
      if (this.#closing === undefined) this.#pruneLater();
    }, this.#pruneInterval * (0.5 + Math.random()));
    this.#pruneTimer.unref();
  }

  #end(): void {
    if (--this.#active === 0) this.#idle?.();
  }

  #failure(error: unknown, options: { operation: Operation; key?: string }): StoreError {
    if (error instanceof StoreError) return error;
    const { opened, trouble } = this.#connection;
    let failure: StoreError;
    if (error === expired) {
      const met = trouble === undefined ? "" : `; last error: ${reason(trouble)}`;
      const why = `timed out after ${this.#timeout} ms${met}`;
      failure = new TimeoutError(why, { ...options, cause: trouble });
    } else {
      failure = new StoreError(reason(error), { ...options, cause: error });
    }
    if (!opened && this.#told !== trouble) {
      this.#told = trouble;
      this.#onInitError(failure);
    }
    return failure;
  }

  async #close(): Promise<void> {
    clearTimeout(this.#pruneTimer);
    if (this.#active > 0) await new Promise<void>((resolve) => this.#idle = resolve);
    try {
      await within(this.#timeout, () => this.#connection.leave(this.#report));
    } catch (error) {
      throw this.#failure(error, { operation: "close" });
    }
  }
}

/**
 * Telegraf keeps the promise of `get` until it is fulfilled, so a rejected one would fail every
 * later update of the chat. This one is done again whenever it is awaited after its rejection:
 * `await` calls `then` of a promise whose `constructor` is not `Promise`, and takes the native path
 * else. Guarded by "works again after a failing read" in `tests/telegraf.test.ts`.
 */
function repeatable<T>(promise: Promise<T>, again: () => Promise<T>): void {
  promise.catch(() => {
    Object.defineProperties(promise, {
      constructor: { value: undefined },
      then: { value: (...on: Parameters<Promise<T>["then"]>) => again().then(...on) },
    });
  });
}

/** Whether there is content that has not expired. */
export function isAlive(content: { readonly expires?: number } | undefined): boolean {
  return content !== undefined && (content.expires ?? Infinity) > Date.now();
}

/** Checks a key, before any I/O. Numbers are taken as their text. */
export function checkKey(key: unknown): string {
  if (typeof key === "number" || typeof key === "bigint") key = String(key);
  if (typeof key !== "string") {
    throw new TypeError(
      `A session key must be a string, but is ${key === null ? key : typeof key}`,
    );
  }
  const bytes = Buffer.byteLength(key);
  if (bytes === 0 || bytes > 512) {
    throw new RangeError(`A session key must have 1 to 512 bytes in UTF-8, but has ${bytes}`);
  }
  if (key.includes("\0") || /\p{Surrogate}/u.test(key)) {
    throw new RangeError("A session key must be valid Unicode without NUL");
  }
  return key;
}

/** A callback of the caller that cannot do harm: what it throws or rejects with is dropped. */
function quiet(callback: ((error: unknown) => unknown) | undefined): (error: unknown) => void {
  return async (error) => {
    try {
      await callback?.(error);
    } catch {
      // Nobody is left to tell.
    }
  };
}

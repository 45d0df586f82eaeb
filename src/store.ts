/**
 * The store that Telegraf sees, the same for all databases: opening and closing, retries, deadlines,
 * errors. What it does with each operation is in `queue.ts`.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { clearTimeout, setTimeout } from "node:timers";
import type { Backend, Entry, Limits, MaybePromise } from "./backend.ts";
import {
  ClosedError,
  DecodeError,
  EncodeError,
  type Operation,
  reason,
  StoreError,
  TimeoutError,
} from "./errors.ts";
import { checkOptions, type Rules, type StoreOptions } from "./options.ts";
import { type Carrier, expired, Queue } from "./queue.ts";

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
  /** Opens the store now instead of with its first operation; rejects with the cause. */
  ready(): Promise<void>;
  /**
   * Waits for what is under way, then closes what the store opened, never what was passed in.
   * Operations that begin later reject with a `ClosedError`. May be called twice.
   */
  close(): Promise<void>;
}

/** Makes a store; with or without `new`. */
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

/** Makes the factory of a backend. */
export function storeFactory<Options extends StoreOptions, Encoded>(
  definition: FactoryDefinition<Options, Encoded>,
): StoreFactory<Options> {
  // A plain function, for it is called with and without `new`.
  function factory(options: Options): Store<unknown> {
    checkOptions(definition.name, options, definition.rules, definition.existing);
    return createStore(definition.backend(options), options);
  }
  Object.defineProperty(factory, "name", { value: definition.name });
  return factory as unknown as StoreFactory<Options>;
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
  readonly #report: (error: unknown) => void;
  readonly #onInitError: (error: unknown) => void;
  /** The trouble that `onInitError` was told last: many operations fail for one reason. */
  #told: unknown = expired;
  #active = 0;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  constructor(backend: Backend<Encoded>, options: StoreOptions) {
    this.#backend = backend;
    this.#timeout = options.timeout ?? 10_000;
    this.#report = quiet(options.onError);
    this.#onInitError = quiet(options.onInitError);
    this.#connection = Connection.of(backend, this.#timeout);
    this.#connection.reporters.add(this.#report);
  }

  get(key: string): Promise<Session | undefined> {
    return rereadable(() => this.#operate("read", key, (name) => this.#get(name)));
  }

  set(key: string, session: Session): Promise<void> {
    if (session === undefined || session === null) return this.delete(key);
    return this.#operate("write", key, (name) => this.#set(name, session));
  }

  delete(key: string): Promise<void> {
    const { queue } = this.#connection;
    return this.#operate("delete", key, (name) => queue.write(name, undefined, this.#timeout));
  }

  async ready(): Promise<void> {
    this.#begin("open");
    try {
      await within(this.#timeout, (signal) => this.#connection.attempt(() => {}, signal));
    } catch (error) {
      throw this.#failure(error, { operation: "open" });
    } finally {
      this.#end();
    }
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #get(key: string): Promise<Session | undefined> {
    const { queue, seen } = this.#connection;
    const version = queue.version(key);
    const content = await queue.read(key, this.#timeout);
    if (content === undefined || (content.expires ?? Infinity) <= Date.now()) return undefined;
    let session: unknown;
    try {
      session = this.#backend.codec.decode(content.value);
    } catch (cause) {
      const why = `the stored value cannot be decoded: ${reason(cause)}`;
      throw new DecodeError(why, { operation: "read", key, cause });
    }
    if (typeof session === "object" && session !== null) {
      seen.set(session, { key, version, value: content.value });
    }
    return (session ?? undefined) as Session | undefined;
  }

  /** Encodes before anything else, so that later changes of the session do not get in. */
  #set(key: string, session: Session): Promise<void> {
    const { codec } = this.#backend;
    const { queue, seen } = this.#connection;
    let value: Encoded;
    try {
      value = codec.encode(session);
    } catch (cause) {
      const why = `the session cannot be encoded: ${reason(cause)}`;
      throw new EncodeError(why, { operation: "write", key, cause });
    }
    const last = seen.get(session as object);
    const unchanged = last?.key === key && last.version === queue.version(key) &&
      codec.equal(last.value, value);
    if (unchanged) return queue.written(key, this.#timeout);
    return queue.write(key, { value }, this.#timeout);
  }

  async #operate<T>(
    operation: Operation,
    key: string,
    work: (key: string) => MaybePromise<T>,
  ): Promise<T> {
    const name = checkKey(key);
    this.#begin(operation, name);
    try {
      return await work(name);
    } catch (error) {
      throw this.#failure(error, { operation, key: name });
    } finally {
      this.#end();
    }
  }

  #begin(operation: Operation, key?: string): void {
    if (this.#closing !== undefined) {
      throw new ClosedError("the store is closed", { operation, key });
    }
    this.#active++;
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
      const why = `no success within ${this.#timeout} ms${met}`;
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
    if (this.#active > 0) await new Promise<void>((resolve) => this.#idle = resolve);
    this.#connection.reporters.delete(this.#report);
    try {
      await within(this.#timeout, async () => {
        await this.#connection.opening?.catch(() => {});
        await this.#backend.close();
      });
    } catch (error) {
      throw this.#failure(error, { operation: "close" });
    }
  }
}

/** What stores on the same data have in common: whether it is open, and the order of its keys. */
class Connection<Encoded> implements Carrier<Encoded> {
  // deno-lint-ignore no-explicit-any
  static readonly #shared = new WeakMap<object, Map<string, Connection<any>>>();

  /** The connection of all stores with the backend's handle and scope. */
  static of<Encoded>(backend: Backend<Encoded>, timeout: number): Connection<Encoded> {
    let scopes = Connection.#shared.get(backend.handle);
    if (scopes === undefined) Connection.#shared.set(backend.handle, scopes = new Map());
    let connection = scopes.get(backend.scope);
    if (connection === undefined) {
      scopes.set(backend.scope, connection = new Connection(backend, timeout));
    }
    return connection;
  }

  readonly queue: Queue<Encoded> = new Queue(this);
  /** What `get` returned, as long as the caller holds it: a `set` of the same is not written. */
  readonly seen = new WeakMap<object, { key: string; version: number; value: Encoded }>();
  readonly reporters = new Set<(error: unknown) => void>();
  readonly #backend: Backend<Encoded>;
  readonly #timeout: number;
  opened = false;
  /** The attempt to open that is under way. */
  opening: Promise<void> | undefined;
  /** The last error since something succeeded. */
  trouble: unknown;

  private constructor(backend: Backend<Encoded>, timeout: number) {
    this.#backend = backend;
    this.#timeout = timeout;
  }

  get limits(): Limits {
    return this.#backend.limits;
  }

  size(value: Encoded): number {
    return this.#backend.codec.size(value);
  }

  read(keys: string[], signal: AbortSignal): Promise<Entry<Encoded>[]> {
    return this.attempt(() => this.#backend.read(keys, signal), signal);
  }

  write(entries: Entry<Encoded>[], signal: AbortSignal): Promise<void> {
    return this.attempt(() => this.#backend.write(entries, signal), signal);
  }

  remove(keys: string[], signal: AbortSignal): Promise<void> {
    return this.attempt(() => this.#backend.remove(keys, signal), signal);
  }

  /** Opens if need be and does the work, again and again while errors are transient. */
  async attempt<T>(work: () => MaybePromise<T>, signal: AbortSignal): Promise<T> {
    for (let failures = 0;; failures++) {
      try {
        if (!this.opened) await this.#open();
        const result = await work();
        this.trouble = undefined;
        return result;
      } catch (error) {
        if (error !== expired) this.trouble = error;
        if (error !== expired && !this.#backend.transient(error)) throw error;
        await pause(failures, signal);
        if (signal.aborted) throw error;
      }
    }
  }

  /** Shared by all who need it; a failure is forgotten, so that the next operation tries again. */
  #open(): Promise<void> {
    const report = (error: unknown) => this.reporters.forEach((reporter) => reporter(error));
    return this.opening ??= within(this.#timeout, async (signal) => {
      await this.#backend.open({ signal, report });
      if (!signal.aborted) this.opened = true;
    }).finally(() => this.opening = undefined);
  }
}

/**
 * Telegraf keeps the promise of `get` until it is fulfilled, so a rejected one would fail every
 * later update of the chat. This one reads again whenever it is awaited after a rejection: `await`
 * calls `then` of a promise whose `constructor` is not `Promise`, and takes the native path else.
 * Guarded by "works again after a failing read" in `tests/telegraf.test.ts`.
 */
function rereadable<T>(read: () => Promise<T>): Promise<T> {
  const promise = read();
  promise.catch(() => {
    Object.defineProperties(promise, {
      constructor: { value: undefined },
      then: { value: (...on: Parameters<Promise<T>["then"]>) => read().then(...on) },
    });
  });
  return promise;
}

/** Checks a key, before any I/O. Numbers are taken as their text. */
function checkKey(key: unknown): string {
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

/** Rejects with `expired` if the work takes longer than `timeout` ms. */
async function within<T>(
  timeout: number,
  work: (signal: AbortSignal) => MaybePromise<T>,
): Promise<T> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      controller.abort();
      reject(expired);
    }, timeout);
  });
  try {
    return await Promise.race([work(controller.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits before the next attempt: from 10 ms, doubled each time up to 500, ± 50 %. */
function pause(failures: number, signal: AbortSignal): Promise<void> {
  const delay = Math.min(500, 10 * 2 ** failures) * (0.5 + Math.random());
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, delay);
    signal.addEventListener("abort", end);
  });
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

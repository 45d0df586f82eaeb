/**
 * The store that Telegraf sees, the same for all databases: it checks keys, encodes and decodes
 * sessions, handles expiry, wraps errors and closes. Opening and retries are in `shared.ts`, the order
 * of operations is in `queue.ts`.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import { given } from "../address.ts";
import type { Backend, Codec, MaybePromise, Replacement } from "../backend.ts";
import { Losses } from "../codec/losses.ts";
import {
  ClosedError,
  DecodeError,
  encodeError,
  LeaseError,
  type Operation,
  reason,
  StoreError,
  TimeoutError,
} from "../errors.ts";
import type { Exclusive } from "../lease/exclusive.ts";
import {
  type Changed,
  defaultSessionKey,
  type ExclusiveOptions,
  exclusiveRules,
  leaseDefaults,
  type MoveOptions,
  moveRules,
  type UpdateContext,
  type UpdateOptions,
  updateRules,
} from "../lease/options.ts";
import { debugByEnvironment, defaults, type StoreOptions } from "../options.ts";
import { checkOptions } from "../validation.ts";
import { type Clock, systemClock, type Timer } from "./clock.ts";
import { timedOut, withTimeout } from "./deadline.ts";
import { checkKey, checkPrefix, type Expiring, isAlive, type PrefixOptions } from "./entry.ts";
import type { Waiter } from "./lane.ts";
import type { LateChanges } from "./late.ts";
import { originOf, setOrigin } from "./origin.ts";
import type { Content } from "./queue.ts";
import { type Member, SharedBackend } from "./shared.ts";
import {
  currentOperation,
  isTraced,
  newCall,
  operations,
  type OperationTrace,
  operationTrace,
  traceOperation,
} from "./tracing.ts";

/**
 * A store for Telegraf's `session({ store })`. Telegraf calls `get`, `set` and `delete`.
 *
 * Keys are strings of 1 to 512 bytes in UTF-8, without NUL, compared byte by byte. Every operation
 * ends within the store's `timeout`. An operation that fails rejects with a `StoreError`.
 *
 * @typeParam Session what the bot keeps per chat.
 */
export interface Store<Session> extends AsyncDisposable {
  /** The session of the key, as a new copy for each call; `undefined` if there is none. */
  get(key: string): Promise<Session | undefined>;
  /**
   * Stores the session as it is at the moment of the call, and resolves when the database has it.
   * `null` and `undefined` delete. Of several calls with one key the last one wins. A session that
   * `get` returned and that has not changed is not written again.
   */
  set(key: string, session: Session): Promise<void>;
  /** Deletes the session. A missing session is no error. */
  delete(key: string): Promise<void>;
  /** Whether there is a session. */
  has(key: string): Promise<boolean>;
  /**
   * The keys of all sessions, or of those with a prefix, page by page, in no particular order. Sessions
   * that are stored or deleted during the iteration may or may not be included. Redis may return a key
   * twice while it resizes its hash table.
   *
   * @throws {TypeError} if an option is unknown or has the wrong type, with the first page.
   * @throws {RangeError} if no key can begin with the prefix.
   */
  keys(options?: PrefixOptions): AsyncIterableIterator<string>;
  /** The sessions with their keys, in the manner of `keys()`. */
  entries(options?: PrefixOptions): AsyncIterableIterator<[key: string, session: Session]>;
  /** How many sessions there are. Counts them one by one, in the manner of `keys()`. */
  size(options?: PrefixOptions): Promise<number>;
  /**
   * Deletes all sessions of this store, which are those of its table, collection or prefix; or those
   * whose keys begin with a prefix.
   */
  clear(options?: PrefixOptions): Promise<void>;
  /**
   * Deletes expired sessions and returns how many it deleted. Returns 0 for a database that deletes
   * them by itself. A store with a `ttl` calls this every `pruneInterval`.
   */
  prune(): Promise<number>;
  /**
   * Encrypts all sessions with the newest key that another key encrypted, or none, and resolves with their
   * number. Updates go on meanwhile, and none of their changes is overwritten. All processes must know the
   * newest key first.
   *
   * @throws {TypeError} if the store has no option `encrypt`.
   * @throws {StoreError} if sessions could not be read or stored: the first error, when the others are done.
   */
  rotate(): Promise<number>;
  /**
   * Changes a session while no other process, update or call does, and resolves with the session when
   * the database has it. All of them must use `exclusive()` or `update()`.
   *
   * @param change gets the session, or `undefined` if there is none. It changes it, or returns another
   * one; `null` deletes it. It may be asynchronous. If it throws, nothing is stored.
   * @throws {LeaseError} if another holds the session for longer than `wait`, or if the lease was lost
   * before the session was stored. In an update of the same session, change the session directly.
   */
  update(
    key: string,
    change: (session: Session | undefined) => Changed<Session> | Promise<Changed<Session>>,
    options?: UpdateOptions,
  ): Promise<Session | undefined>;
  /**
   * Gives a session another key, and resolves with whether there was one. Its expiry stays the same. The
   * new key is written before the old one is deleted, so that a crash loses nothing.
   *
   * While it is moved, no `exclusive()` and no `update()` of any process has one of the two sessions.
   * Calls of this process that began before are done before. A database that cannot hold leases keeps
   * this order within one process.
   *
   * @throws {RangeError} if both keys are the same, or if one is invalid.
   * @throws {StoreError} if the new key has a session, unless `overwrite` is true.
   * @throws {LeaseError} if another holds one of the sessions for longer than `wait`, or if the calling
   * update does.
   */
  move(oldKey: string, newKey: string, options?: MoveOptions): Promise<boolean>;
  /**
   * Telegraf middleware: one update of a session at a time, in all processes. Put it before `session()`:
   * `bot.use(store.exclusive(), session({ store }))`. While the update runs, `ctx.state.lease` has its
   * `key`, and a `signal` that aborts when the lease is lost. The update ends when its session is stored.
   *
   * @throws {TypeError} if the database cannot hold leases, or if an option is unknown or has the wrong
   * type. A middleware that cannot have the lease, or has lost it, rejects with a `LeaseError`.
   * @throws {RangeError} if an option is out of range.
   */
  exclusive<Context extends UpdateContext>(
    options?: ExclusiveOptions<Context>,
  ): (ctx: Context, next: () => Promise<void>) => Promise<void>;
  /** Whether the database answers a read, and how long the answer takes. Never rejects. */
  health(): Promise<Health>;
  /** Opens the store now instead of with its first operation. Rejects with the cause. */
  ready(): Promise<void>;
  /**
   * Waits for operations in progress, then closes what the store opened. A client, pool or database
   * that was passed in stays open. Later operations reject with a `ClosedError`. May be called twice.
   */
  close(): Promise<void>;
}

/** What `health()` finds. */
export type Health =
  /** The database answered; `latency` in ms. */
  | { ok: true; latency: number }
  /** The database did not answer. `error` is what any operation would have rejected with. */
  | { ok: false; latency: number; error: Error };

/** Makes a store on a backend. The options have been checked. */
export function makeStore<Session, Encoded>(
  backend: Backend<Encoded>,
  options: StoreOptions = {},
  clock: Clock = systemClock,
): Store<Session> {
  return new BackendStore(backend, options, clock);
}

class BackendStore<Session, Encoded> implements Store<Session> {
  readonly #backend: Backend<Encoded>;
  readonly #codec: Codec<Encoded>;
  readonly #shared: SharedBackend<Encoded>;
  readonly #member: Member;
  readonly #clock: Clock;
  readonly #timeout: number;
  readonly #ttl: number | undefined;
  readonly #pruneInterval: number;
  readonly #encrypts: boolean;
  readonly #tracesKeys: boolean;
  readonly #onCorrupt: StoreOptions["onCorrupt"];
  readonly #report: (error: unknown) => void;
  readonly #onInitError: (error: unknown) => void;
  readonly #losses: Losses | undefined;
  /** Only with `debug`. Programs without it never load it. */
  readonly #late: Promise<LateChanges<Encoded>> | undefined;
  /** The last error passed to `onInitError`, so that it is reported once and not per operation. */
  #reportedInitError: unknown = nothing;
  /** Loaded when it is needed. */
  #exclusive: Exclusive<Encoded> | undefined;
  #loading: Promise<Exclusive<Encoded>> | undefined;
  #active = 0;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;
  #pruneTimer: Timer | undefined;

  constructor(backend: Backend<Encoded>, options: StoreOptions, clock: Clock) {
    this.#backend = backend;
    this.#codec = backend.codec;
    this.#clock = clock;
    this.#timeout = options.timeout ?? defaults.timeout;
    this.#ttl = options.ttl;
    this.#pruneInterval = options.pruneInterval ?? defaults.pruneInterval;
    this.#encrypts = options.encrypt !== undefined;
    this.#tracesKeys = options.traceKeys ?? false;
    this.#onCorrupt = options.onCorrupt;
    this.#report = quiet(options.onError);
    this.#onInitError = quiet(options.onInitError);
    const { storedAs } = backend.codec;
    if (options.onError && storedAs) this.#losses = new Losses(storedAs, this.#report);
    if (options.debug ?? debugByEnvironment()) this.#late = this.#loadLate(options.onError);
    const { cache = false } = options;
    this.#member = {
      timeout: this.#timeout,
      expiring: this.#ttl !== undefined,
      report: this.#report,
      cache: cache === true ? {} : cache || undefined,
    };
    this.#shared = SharedBackend.join(backend, this.#member, clock);
  }

  get(key: string): Promise<Session | undefined> {
    this.#late?.then((late) => late.check(key), this.#report);
    if (!isTraced(operations)) return this.#get(key, () => this.get(key));
    const promise = this.#trace("get", key, () => this.#get(key));
    repeatable(promise, () => this.get(key));
    return promise;
  }

  #get(
    key: string,
    again?: () => Promise<Session | undefined>,
  ): Promise<Session | undefined> {
    const shared = this.#shared;
    const { epoch } = shared;
    let version: number;
    const read = (key: string, waiter: Waiter<Content<Encoded>>) => {
      const turn = this.#exclusive?.turnToRead(key);
      if (turn !== undefined) return waiter.resolve(turn.content);
      // Taken before the read because a write that begins during the read must count as a change.
      version = shared.queue.version(key);
      shared.queue.read(key, waiter);
    };
    const finish = (content: Content<Encoded>) => {
      // Others may have changed the session between this read and the new lease of all sessions.
      if (epoch !== shared.epoch) return this.#get(key);
      shared.ownership?.noteRead(key);
      if (content === undefined || !this.#isAlive(content)) return undefined;
      const session = this.#decode(content.key, content.value);
      setOrigin(session, { shared, content, version, epoch });
      return session;
    };
    return this.#keyed("read", key, read, finish, again);
  }

  set(key: string, session: Session): Promise<void> {
    return this.#trace("set", key, () => this.#set(key, session));
  }

  #set(key: string, session: Session): Promise<void> {
    if (session === undefined || session === null) return this.#delete(key);
    return this.#keyed<void>("write", key, (key, waiter) => this.#write(key, session, waiter));
  }

  delete(key: string): Promise<void> {
    return this.#trace("delete", key, () => this.#delete(key));
  }

  /** @param isChecked whether to refuse it if the session may have been read too early. */
  #delete(key: string, isChecked = true): Promise<void> {
    const { queue } = this.#shared;
    this.#late?.then((late) => late.forget(key), this.#report);
    return this.#keyed<void>("delete", key, (key, waiter) => {
      const turn = this.#exclusive?.turnToWrite(key);
      if (turn === undefined) {
        if (isChecked) this.#shared.ownership?.check(key, undefined);
        return queue.write(key, undefined, waiter);
      }
      if (turn.content !== undefined) turn.write(null);
      waiter.resolve();
    });
  }

  has(key: string): Promise<boolean> {
    const { queue } = this.#shared;
    const read = (key: string, waiter: Waiter<Content<Encoded>>) => {
      const turn = this.#exclusive?.turn(key);
      if (turn === undefined) queue.read(key, waiter);
      else waiter.resolve(turn.content);
    };
    return this.#trace("has", key, () => this.#keyed("read", key, read, this.#isAlive));
  }

  async *keys(options: PrefixOptions = {}): AsyncIterableIterator<string> {
    for await (const page of this.#pages(checkPrefix("keys()", options))) yield* page;
  }

  async *entries(options: PrefixOptions = {}): AsyncIterableIterator<[string, Session]> {
    for await (const page of this.#pages(checkPrefix("entries()", options))) {
      const sessions = await Promise.all(page.map((key) => this.#get(key)));
      for (const [i, session] of sessions.entries()) {
        if (session !== undefined) yield [page[i]!, session];
      }
    }
  }

  async size(options: PrefixOptions = {}): Promise<number> {
    const prefix = checkPrefix("size()", options);
    return await this.#trace("size", undefined, async () => {
      let size = 0;
      for await (const page of this.#pages(prefix)) size += page.length;
      return size;
    });
  }

  async clear(options: PrefixOptions = {}): Promise<void> {
    const prefix = checkPrefix("clear()", options);
    await this.#trace("clear", undefined, async () => {
      const pending = this.#shared.queue.writing().filter((key) => key.startsWith(prefix));
      await Promise.all(pending.map((key) => this.#delete(key, false)));
      for await (const page of this.#pages(prefix, () => true)) {
        await Promise.all(page.map((key) => this.#delete(key, false)));
      }
    });
  }

  async update(
    key: string,
    change: (session: Session | undefined) => Changed<Session> | Promise<Changed<Session>>,
    options: UpdateOptions = {},
  ): Promise<Session | undefined> {
    checkOptions("update()", options, updateRules);
    if (typeof change !== "function") {
      throw new TypeError(
        "update(): the second argument must be a function that changes the session",
      );
    }
    this.#checkLeases("update()");
    const exclusive = await this.#loadExclusive();
    this.#checkOpen("lock", key);
    const times = { ...leaseDefaults, ...given(options) };
    const update = async () => {
      this.#late?.then((late) => late.check(key), this.#report);
      const before = await this.#get(key);
      const result = await change(before);
      const after = (result === undefined ? before : result) as Session;
      await this.#set(key, after);
      // The caller may do with the result what it wants.
      this.#late?.then((late) => late.forget(key), this.#report);
      return after ?? undefined;
    };
    return await this.#trace("update", key, () => exclusive.update(key, times, update));
  }

  async move(oldKey: string, newKey: string, options: MoveOptions = {}): Promise<boolean> {
    checkOptions("move()", options, moveRules);
    const [from, to] = [checkKey(oldKey), checkKey(newKey)];
    if (from === to) throw new RangeError(`move(): both keys are ${JSON.stringify(from)}`);
    const { overwrite = false, ...others } = options;
    const move = () => this.#move(from, to, overwrite);
    return await this.#trace("move", from, () => this.#moveAlone(from, to, others, move));
  }

  /** Moves a session while no other process, update or call has one of the two. */
  async #moveAlone(
    from: string,
    to: string,
    options: UpdateOptions,
    move: () => Promise<boolean>,
  ): Promise<boolean> {
    if (typeof this.#shared.leases === "string") return await move();
    const exclusive = await this.#loadExclusive();
    this.#checkOpen("lock", from);
    const times = { ...leaseDefaults, ...given(options) };
    // In the same order everywhere, so that two moves do not wait for each other.
    const [first, second] = from < to ? [from, to] : [to, from];
    try {
      return await exclusive.update(first, times, () => exclusive.update(second, times, move));
    } catch (error) {
      const { leaseError } = this.#shared;
      if (leaseError === undefined || (error as StoreError).cause !== leaseError) throw error;
      return await move(); // the server is too old for leases, or its user may not add them
    }
  }

  exclusive<Context extends UpdateContext>(
    options: ExclusiveOptions<Context> = {},
  ): (ctx: Context, next: () => Promise<void>) => Promise<void> {
    checkOptions("exclusive()", options, exclusiveRules);
    this.#checkLeases("exclusive()");
    const { getSessionKey = defaultSessionKey, once = false, ...others } = options;
    const times = { ...leaseDefaults, ...given(others) };
    this.#loadExclusive().catch(() => {}); // an update gets the error
    return async (ctx, next) => {
      const found = getSessionKey(ctx);
      const key = typeof found === "string" ? found : await found;
      if (!key) return await next();
      const exclusive = await this.#loadExclusive();
      this.#checkOpen("lock", key);
      const update = once ? ctx.update.update_id : undefined;
      const run = () => exclusive.middleware(ctx, next, key, { ...times, update });
      await this.#trace("exclusive", key, run);
    };
  }

  async prune(): Promise<number> {
    return await this.#trace("prune", undefined, async () => {
      let total = 0;
      let deleted: number;
      do {
        deleted = await this.#storeWide("prune", (signal) => this.#shared.prune(signal));
        total += deleted;
      } while (deleted > 0);
      return total;
    });
  }

  async rotate(): Promise<number> {
    if (!this.#encrypts) throw new TypeError('rotate(): the store has no option "encrypt"');
    return await this.#trace("rotate", undefined, () => this.#rotate());
  }

  async #rotate(): Promise<number> {
    const { rewrite, rotated } = await import("../transform/rewrite.ts");
    const errors: StoreError[] = [];
    const refuse = (key: string, error: unknown) => {
      errors.push(error instanceof StoreError ? error : decodeError(key, error));
    };
    const shared = this.#shared as SharedBackend<unknown>;
    const database = {
      read: (keys: string[]) => this.#storeWide("read", (signal) => shared.readAll(keys, signal)),
      replace: (all: Replacement<unknown>[]) =>
        this.#storeWide("write", (signal) => shared.replace(all, signal)),
    };
    let total = 0;
    for await (const keys of this.#pages("", () => true)) {
      total += (await rewrite(database, keys, rotated, refuse)).size;
    }
    if (errors.length > 0) throw errors[0];
    return total;
  }

  async health(): Promise<Health> {
    const start = this.#clock.now();
    const latency = () => this.#clock.now() - start;
    try {
      // Any key will do: a missing session is an answer too.
      const read = (signal: AbortSignal) => this.#shared.readWithoutRetry(["health"], signal);
      await this.#trace("health", undefined, () => this.#storeWide("read", read));
      return { ok: true, latency: latency() };
    } catch (error) {
      return { ok: false, latency: latency(), error: error as Error };
    }
  }

  ready(): Promise<void> {
    const open = (signal: AbortSignal) => this.#shared.run(() => {}, signal);
    return this.#trace("ready", undefined, () => this.#storeWide("open", open));
  }

  close(): Promise<void> {
    return this.#closing ??= this.#trace("close", undefined, () => this.#close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #decode(key: string, value: Encoded): Session | undefined {
    let session: unknown;
    try {
      session = this.#codec.decode(value, key);
    } catch (cause) {
      if (cause instanceof StoreError) throw cause; // other options can read it
      if (typeof this.#onCorrupt === "function") {
        session = this.#onCorrupt(this.#codec.stored?.(value) ?? value, key);
      } else if (this.#onCorrupt !== "discard") {
        throw decodeError(key, cause);
      }
    }
    return (session ?? undefined) as Session | undefined;
  }

  readonly #isAlive = (content: Expiring | undefined) => isAlive(content, this.#clock.date());

  #checkLeases(caller: string): void {
    const { leases } = this.#shared;
    if (typeof leases !== "string") return;
    throw new TypeError(`${caller}: this store cannot hold leases: ${leases}`);
  }

  /**
   * Loads what leases need. Programs without leases never load it. All updates await the same promise, so
   * that they go on in the order of their calls: on Bun, several `import()` do not.
   */
  #loadExclusive(): Promise<Exclusive<Encoded>> {
    return this.#loading ??= import("../lease/exclusive.ts").then(({ Exclusive }) =>
      this.#exclusive = new Exclusive({
        shared: this.#shared,
        clock: this.#clock,
        timeout: this.#timeout,
        fail: (error, options) => this.#fail(error, options),
        report: this.#report,
      })
    );
  }

  async #loadLate(onError: StoreOptions["onError"]): Promise<LateChanges<Encoded>> {
    const { LateChanges, warnOnce } = await import("./late.ts");
    return new LateChanges(this.#codec, this.#clock, onError ? this.#report : warnOnce);
  }

  /** Encodes first, so that later changes of the session are not stored. */
  #write(key: string, session: Session, waiter: Waiter<void>): void {
    const { queue } = this.#shared;
    let value: Encoded;
    try {
      value = this.#codec.encode(session);
    } catch (cause) {
      throw encodeError(key, cause);
    }
    this.#losses?.inspect(session);
    this.#late?.then((late) => late.watch(key, session, value), this.#report);
    const expires = this.#ttl === undefined ? undefined : this.#clock.date() + this.#ttl;
    const turn = this.#exclusive?.turnToWrite(key);
    if (turn !== undefined) {
      const { content } = turn;
      if (!turn.isRead) this.#checkFresh(key, session, content);
      const unchanged = content !== undefined && this.#codec.equal(content.value, value) &&
        this.#isFresh(content.expires, expires);
      if (!unchanged) {
        const changed = { key, value, expires };
        turn.write(changed);
        const [shared, version] = [this.#shared, queue.version(key)];
        setOrigin(session, { shared, content: changed, version, epoch: shared.epoch });
      }
      return waiter.resolve();
    }
    const origin = originOf<Encoded>(session, this.#shared);
    this.#shared.ownership?.check(key, origin?.epoch);
    const content = origin?.content;
    const unchanged = content?.key === key && origin!.version === queue.version(key) &&
      this.#codec.equal(content.value, value);
    if (unchanged) {
      if (this.#isFresh(content.expires, expires)) return queue.written(key, waiter);
      if (expires !== undefined) {
        // Rounded up by at most 1 %, so that one statement renews all sessions of a batch.
        const step = Math.ceil(this.#ttl! / 100);
        const renewed = { key, value, expires: Math.ceil(expires / step) * step };
        setOrigin(session, { ...origin!, content: renewed });
        return queue.renew(renewed, waiter);
      }
    }
    queue.write(key, { key, value, expires }, waiter);
  }

  /**
   * Checks a session that an update writes without having read it. Telegraf before 4.12.2 gives an update
   * the session of an earlier one, and other processes may have changed it since then.
   *
   * @throws {LeaseError} if they have.
   */
  #checkFresh(key: string, session: Session, stored: Content<Encoded>): void {
    const known = originOf<Encoded>(session, this.#shared)?.content;
    if (known === undefined) return; // the session is not from an earlier update
    if (stored !== undefined && this.#codec.equal(known.value, stored.value)) return;
    const why = "session() has not read it in this update, and another process has changed it; " +
      "several processes need Telegraf 4.12.2 or newer";
    throw new LeaseError(why, { operation: "write", key });
  }

  /** A session that is only read costs at most one write per tenth of its ttl. */
  #isFresh(stored: number | undefined, expires: number | undefined): boolean {
    return stored === undefined || expires === undefined
      ? stored === expires
      : Math.abs(expires - stored) < this.#ttl! / 10;
  }

  /** Moves a session. Begins again if one of the keys is written meanwhile without a lease. */
  async #move(from: string, to: string, overwrite: boolean): Promise<boolean> {
    const { queue } = this.#shared;
    const keys = [from, to];
    const versions = () => [this.#shared.epoch, ...keys.map((key) => queue.version(key))].join();
    for (let moved = false;;) {
      for (const key of keys) {
        await this.#keyed<void>("write", key, (key, waiter) => queue.written(key, waiter));
        await this.#exclusive?.turn(key)?.earlier;
      }
      if (keys.some((key) => queue.isWriting(key))) continue;
      const before = versions();
      // Not by the queue, which would share a read that began before there were leases.
      const read = (signal: AbortSignal) => this.#shared.read(keys, signal, true);
      const found = (await this.#storeWide("read", read, from)).filter(this.#isAlive);
      const entries = new Map(found.map((entry) => [entry.key, entry]));
      if (versions() !== before) continue;
      const entry = entries.get(from);
      if (entry === undefined) return moved;
      this.#decode(from, entry.value); // stored under the new key, it could not be read any more
      if (entries.has(to) && !overwrite && !moved) {
        const why = `the session of "${from}" cannot be moved there because there is another one`;
        throw new StoreError(why, { operation: "write", key: to });
      }
      this.#checkHeld(keys);
      const copy = { ...entry, key: to };
      const written = this.#keyed<void>("write", to, (key, waiter) => {
        queue.write(key, copy, waiter);
      });
      const version = queue.version(from); // after the write because both keys may have one version
      await written;
      this.#exclusive?.turn(to)?.replace(copy);
      moved = true;
      this.#checkHeld(keys);
      if (queue.version(from) !== version) continue;
      const turn = this.#exclusive?.turn(from);
      if (turn !== undefined) {
        turn.write(null); // stored with the release, because the lease may be in the session's row
        return true;
      }
      await this.#keyed<void>("delete", from, (key, waiter) => {
        queue.write(key, undefined, waiter);
      });
      return true;
    }
  }

  /** @throws {LeaseError} if the caller has lost the lease of one of the keys. */
  #checkHeld(keys: string[]): void {
    for (const key of keys) {
      const { lost } = this.#exclusive?.turn(key) ?? {};
      if (lost !== undefined) throw lost;
    }
  }

  /** The keys of sessions that begin with a prefix and that `include` accepts, page by page. */
  async *#pages(prefix: string, include = this.#isAlive): AsyncGenerator<string[]> {
    let start: string | undefined;
    do {
      const readPage = (signal: AbortSignal) => this.#shared.page(start, signal, undefined, prefix);
      const { entries, next } = await this.#storeWide("read", readPage);
      const found = entries.filter((entry) => entry.key.startsWith(prefix) && include(entry));
      yield found.map(({ key }) => key);
      start = next;
      // An embedded database is synchronous: other work gets its turn between pages.
      await new Promise((resolve) => setImmediate(resolve));
    } while (start !== undefined);
  }

  /**
   * Runs an operation on one key and maps its result. Allocates exactly one promise because promises
   * dominate the cost of an operation.
   *
   * @param again repeats the operation each time the promise is awaited after a rejection.
   */
  #keyed<Result, T = Result>(
    operation: Operation,
    rawKey: string,
    work: (key: string, waiter: Waiter<Result>) => void,
    finish?: (result: Result) => T | Promise<T>,
    again?: () => Promise<T>,
  ): Promise<T> {
    let resolve!: (result: T | Promise<T>) => void, rejectPromise!: (error: unknown) => void;
    const promise = new Promise<T>((onResult, onError) => {
      resolve = onResult;
      rejectPromise = onError;
    });
    const reject = (error: unknown) => {
      if (again !== undefined) repeatable(promise, again);
      rejectPromise(error);
    };
    let key: string;
    try {
      key = checkKey(rawKey);
      this.#begin(operation, key);
    } catch (error) {
      reject(error);
      return promise;
    }
    const now = this.#clock.now();
    const waiter: Waiter<Result> = {
      deadline: now + this.#timeout,
      call: newCall(now, currentOperation()),
      resolve: (result) => {
        try {
          resolve(finish === undefined ? result as unknown as T : finish(result));
          this.#end();
        } catch (error) {
          waiter.reject(error);
        }
      },
      reject: (error) => {
        reject(this.#fail(error, { operation, key }));
        this.#end();
      },
    };
    try {
      work(key, waiter);
    } catch (error) {
      waiter.reject(error);
    }
    return promise;
  }

  /** Runs a call, and publishes it if somebody subscribes. */
  #trace<T>(
    operation: OperationTrace["operation"],
    key: string | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    if (!isTraced(operations)) return work();
    const { system, place } = this.#backend;
    const database = { system, place, showsKeys: this.#tracesKeys };
    return traceOperation(operationTrace(database, operation, key), work);
  }

  /** Runs an operation that the queue does not run, within the timeout. */
  async #storeWide<T>(
    operation: Operation,
    work: (signal: AbortSignal) => MaybePromise<T>,
    key?: string,
  ): Promise<T> {
    this.#begin(operation, key);
    try {
      return await withTimeout(this.#timeout, this.#clock, work);
    } catch (error) {
      throw this.#fail(error, key === undefined ? { operation } : { operation, key });
    } finally {
      this.#end();
    }
  }

  #begin(operation: Operation, key?: string): void {
    this.#checkOpen(operation, key);
    this.#active++;
    if (this.#pruneTimer === undefined) this.#schedulePrune();
  }

  /** While the store waits for its last updates, they may still use it. */
  #checkOpen(operation: Operation, key?: string): void {
    if (this.#closing === undefined || key !== undefined && this.#exclusive?.turn(key)) return;
    throw this.#closedError(operation, key);
  }

  #closedError(operation: Operation, key?: string): ClosedError {
    return new ClosedError("the store is closed", { operation, key });
  }

  /** Prunes at random intervals, so that many processes do not prune at the same time. */
  #schedulePrune(): void {
    if (this.#ttl === undefined || this.#pruneInterval === 0) return;
    this.#pruneTimer = this.#clock.setTimeout(async () => {
      try {
        await this.prune();
      } catch (error) {
        if (!(error instanceof ClosedError)) this.#report(error);
      }
      if (this.#closing === undefined) this.#schedulePrune();
    }, this.#pruneInterval * (0.5 + Math.random()));
    this.#pruneTimer.unref();
  }

  #end(): void {
    if (--this.#active === 0) this.#idle?.();
  }

  /** The error that the caller gets. Tells `onInitError` if the store is not open. */
  #fail(error: unknown, options: { operation: Operation; key?: string }): StoreError {
    const failure = this.#toStoreError(error, options);
    if (failure !== error) this.#reportInitError(failure);
    return failure;
  }

  #toStoreError(error: unknown, options: { operation: Operation; key?: string }): StoreError {
    if (error instanceof StoreError) return error;
    if (error !== timedOut) return new StoreError(reason(error), { ...options, cause: error });
    const { lastError } = this.#shared;
    const detail = lastError === undefined ? "" : `; last error: ${reason(lastError)}`;
    const why = `timed out after ${this.#timeout} ms${detail}`;
    return new TimeoutError(why, { ...options, cause: lastError });
  }

  #reportInitError(failure: StoreError): void {
    const { opened, lastError } = this.#shared;
    if (opened || this.#reportedInitError === lastError) return;
    this.#reportedInitError = lastError;
    this.#onInitError(failure);
  }

  async #close(): Promise<void> {
    this.#clock.clearTimeout(this.#pruneTimer);
    await this.#late?.then((late) => late.close(), this.#report);
    await this.#exclusive?.close(this.#closedError("write"));
    if (this.#active > 0) await new Promise<void>((resolve) => this.#idle = resolve);
    try {
      const leave = () => this.#shared.leave(this.#member);
      await withTimeout(this.#timeout, this.#clock, leave);
    } catch (error) {
      throw this.#fail(error, { operation: "close" });
    }
  }
}

function decodeError(key: string, cause: unknown): DecodeError {
  const why = `the stored value cannot be decoded: ${reason(cause)}`;
  return new DecodeError(why, { operation: "read", key, cause });
}

/** Stands for "no error has been reported yet": any value may be an error. */
const nothing = Symbol("nothing");

/**
 * Makes a rejected promise repeat its operation each time it is awaited. Telegraf keeps the promise
 * of `get` until it is fulfilled, so one rejected promise would fail every later update of the chat.
 * `await` calls `then` of a promise only if its `constructor` is not `Promise`; otherwise it takes
 * the native path. Guarded by "works again after a failing read" in `tests/core/telegraf.test.ts`.
 */
function repeatable<T>(promise: Promise<T>, again: () => Promise<T>): void {
  promise.catch(() => {
    Object.defineProperties(promise, {
      constructor: { value: undefined },
      then: { value: (...on: Parameters<Promise<T>["then"]>) => again().then(...on) },
    });
  });
}

/** Wraps a callback of the user so that an error it throws or rejects with is ignored. */
function quiet(callback: ((error: unknown) => unknown) | undefined): (error: unknown) => void {
  return async (error) => {
    try {
      await callback?.(error);
    } catch {
      // There is no one left to report it to.
    }
  };
}

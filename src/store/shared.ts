/**
 * A backend that several stores on the same data share. It is opened once, calls that fail for a
 * transient reason are retried, and one queue keeps the order of operations:
 *
 * `store → queue (order, batches) → shared backend (opening, retries) → backend (database)`
 *
 * @module
 */

import {
  type Backend,
  type Entry,
  isPromise,
  type Leases,
  type Limits,
  type MaybePromise,
  type Opening,
  type Page,
  type Plan,
  type Replacement,
} from "../backend.ts";
import type { Ownership } from "../cache/ownership.ts";
import { reason } from "../errors.ts";
import type { CacheOptions } from "../options.ts";
import type { Clock } from "./clock.ts";
import { backOff, timedOut, withTimeout } from "./deadline.ts";
import { batchesOf, type Jobs } from "./lane.ts";
import { type Executor, Queue } from "./queue.ts";
import { batches, type BatchTrace, isTraced, type Item, traceBatch } from "./tracing.ts";

/** A store on a shared backend, or the command line. */
export interface Member {
  /** How long opening may take, in ms. The first member decides. */
  readonly timeout: number;
  /** Whether the member needs to know when entries expire. */
  readonly expiring: boolean;
  /** Gets errors that happen in the background. */
  readonly report: (error: unknown) => void;
  /** If given, sessions are kept in memory, and all members use them. */
  readonly cache?: CacheOptions | undefined;
  /** If given, opening is a dry run that passes the planned changes to this function. */
  readonly plan?: (plan: Plan) => void;
}

/** What a database has to be prepared for. */
type Needs = Pick<Opening, "expiring" | "leasing">;

/** The limits of batches that begin before `open` has returned the real limits: safe everywhere. */
const initialLimits: Limits = { keys: 32, bytes: 250_000 };

/** A backend, its queue, and all stores that use them. */
export class SharedBackend<Encoded> implements Executor<Encoded> {
  // deno-lint-ignore no-explicit-any
  static readonly #all = new WeakMap<object, Map<string, SharedBackend<any>>>();

  /** The shared backend for a handle and scope, if there is one. */
  static of<Encoded>(
    { handle, scope }: Pick<Backend<Encoded>, "handle" | "scope">,
  ): SharedBackend<Encoded> | undefined {
    return SharedBackend.#all.get(handle)?.get(scope);
  }

  /**
   * Registers a store. The backend of the first store on a handle and scope does the work for all.
   *
   * @throws {TypeError} if the stores differ in an option that must be the same.
   */
  static join<Encoded>(
    backend: Backend<Encoded>,
    member: Member,
    clock: Clock,
  ): SharedBackend<Encoded> {
    const { handle, scope } = backend;
    const shared = SharedBackend.of<Encoded>(backend) ?? new SharedBackend(backend, member, clock);
    shared.#checkOptions(backend.shared);
    if (member.cache !== undefined) shared.#useCache(member.cache);
    const scopes = SharedBackend.#all.get(handle) ?? new Map();
    SharedBackend.#all.set(handle, scopes.set(scope, shared));
    shared.#members.add(member);
    if (member.expiring) shared.#require({ expiring: true });
    return shared;
  }

  readonly queue: Queue<Encoded>;
  readonly #backend: Backend<Encoded>;
  readonly #clock: Clock;
  readonly #timeout: number;
  readonly #plan: Member["plan"];
  readonly #members = new Set<Member>();
  #state: "idle" | "opening" | "open" | "closing" | "closed" = "idle";
  /** The attempt to open that is in progress. */
  #opening: Promise<void> | undefined;
  /** Whether the database is open and the last call succeeded: `run` takes the fast path. */
  #healthy = false;
  /** What the database is prepared for, or has to be. */
  #needs: Needs = { expiring: false, leasing: false };
  /** The option `cache` of the first store that has it. */
  #cache: CacheOptions | undefined;
  /** The lease of all sessions, for that option. Its code is loaded with the first operation. */
  ownership: Ownership<Encoded> | undefined;
  /** Why the database could not be prepared for leases. */
  leaseError: unknown;
  /** The last error since a call succeeded. */
  lastError: unknown;
  limits: Limits = initialLimits;

  private constructor(backend: Backend<Encoded>, { timeout, plan }: Member, clock: Clock) {
    this.#backend = backend;
    this.#clock = clock;
    this.#timeout = timeout;
    this.#plan = plan;
    this.queue = new Queue(this, clock);
  }

  get opened(): boolean {
    return this.#state === "open";
  }

  get embedded(): boolean {
    return this.#backend.embedded ?? false;
  }

  size(value: Encoded): number {
    return this.#backend.codec.size(value);
  }

  read(
    keys: string[],
    signal: AbortSignal,
    expiring?: boolean,
    jobs?: Jobs,
  ): MaybePromise<Entry<Encoded>[]> {
    const work = () => this.#backend.read(keys, signal, expiring);
    return this.#batch("read", keys, work, signal, jobs);
  }

  write(
    entries: Entry<Encoded>[],
    signal: AbortSignal,
    fresh?: boolean,
    jobs?: Jobs,
  ): MaybePromise<void> {
    const work = () => this.#backend.write(entries, signal, fresh);
    return this.#batch("write", entries, work, signal, jobs);
  }

  renew(keys: string[], expires: number, signal: AbortSignal, jobs?: Jobs): MaybePromise<void> {
    const work = () => this.#backend.renew(keys, expires, signal);
    return this.#batch("renew", keys, work, signal, jobs);
  }

  remove(keys: string[], signal: AbortSignal, jobs?: Jobs): MaybePromise<void> {
    return this.#batch("remove", keys, () => this.#backend.remove(keys, signal), signal, jobs);
  }

  /** Reads entries, in batches within the limits. */
  async readAll(keys: string[], signal: AbortSignal): Promise<Entry<Encoded>[]> {
    const found: Entry<Encoded>[] = [];
    for (const batch of batchesOf(keys, () => 0, this.limits)) {
      found.push(...await this.read(batch, signal));
    }
    return found;
  }

  /** Replaces values, in batches within the limits. */
  async replace(replacements: Replacement<Encoded>[], signal: AbortSignal): Promise<void> {
    const sizeOf = ({ before, after }: Replacement<Encoded>) =>
      this.size(before) + this.size(after);
    for (const batch of batchesOf(replacements, sizeOf, this.limits)) {
      const work = () => this.#backend.replace(batch, signal);
      await this.#batch("replace", batch, work, signal);
    }
  }

  page(
    start: string | undefined,
    signal: AbortSignal,
    size = 128,
    prefix?: string,
  ): MaybePromise<Page> {
    const work = () => this.#backend.page(start, size, signal, prefix);
    return this.#batch("page", [], work, signal);
  }

  prune(signal: AbortSignal): MaybePromise<number> {
    const work = () => this.#backend.prune?.(this.#clock.date(), signal) ?? 0;
    return this.#batch("prune", [], work, signal);
  }

  /** Changes when the lease of all sessions was lost. */
  get epoch(): number {
    return this.ownership?.epoch ?? 0;
  }

  /** Whether this process is, or will be, the only one with the sessions. */
  get isCaching(): boolean {
    return this.#cache !== undefined;
  }

  /** Leases on the keys, or the reason why there are none. */
  get leases(): Leases<Encoded> | string {
    return this.#backend.leases ?? "its backend has none";
  }

  /** Does work on leases. Prepares the database for them if necessary. */
  runLeased<T>(
    operation: "claim" | "settle",
    items: readonly Item[],
    work: () => MaybePromise<T>,
    signal: AbortSignal,
    jobs: Jobs,
  ): MaybePromise<T> {
    this.#require({ leasing: true });
    const leased = () => {
      if (!this.#needs.leasing) throw this.leaseError;
      return work();
    };
    return this.#batch(operation, items, leased, signal, jobs);
  }

  async readWithoutRetry(keys: string[], signal: AbortSignal): Promise<void> {
    while (!this.opened) await this.#open();
    const work = () => this.#backend.read(keys, signal);
    await (isTraced(batches) ? this.#trace("read", keys, work, signal) : work());
  }

  /** Unregisters a store. The last one removes the shared backend and closes the database. */
  async leave(member: Member): Promise<void> {
    this.#members.delete(member);
    if (this.#members.size > 0) return;
    this.#state = "closing";
    this.#healthy = false;
    this.queue.stop();
    const { handle, scope } = this.#backend;
    SharedBackend.#all.get(handle)!.delete(scope);
    await this.#opening?.catch(() => {});
    await this.ownership?.release();
    await this.#backend.close();
    this.#state = "closed";
  }

  /** Runs a batch. */
  #batch<T>(
    operation: BatchTrace["operation"],
    items: readonly Item[],
    work: () => MaybePromise<T>,
    signal: AbortSignal,
    jobs?: Jobs,
  ): MaybePromise<T> {
    if (!isTraced(batches)) return this.run(work, signal);
    let attempts = 0;
    const counted = (message: BatchTrace) => {
      message.retries = attempts++;
      return work();
    };
    const run = (message: BatchTrace) => this.run(() => counted(message), signal);
    return this.#trace(operation, items, run, signal, jobs);
  }

  /** Does work on the database, and publishes it. */
  #trace<T>(
    operation: BatchTrace["operation"],
    items: readonly Item[],
    work: (message: BatchTrace) => MaybePromise<T>,
    signal: AbortSignal,
    jobs: Jobs = [],
  ): MaybePromise<T> {
    const calls = jobs.flatMap(({ waiters }) => waiters.flatMap(({ call }) => call ?? []));
    const now = this.#clock.now();
    return traceBatch(this.#backend, operation, items, calls, now, signal, work);
  }

  /** Opens the database if necessary and does the work. Retries while errors are transient. */
  run<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    const owns = !this.isCaching || this.ownership?.isCertain === true;
    if (!this.#healthy || !owns) return this.#runWithRetries(work, signal);
    // The fast path adds nothing to the work because every operation would pay for it.
    const failed = async (error: unknown) => {
      await this.#backOffOrThrow(error, 0, signal);
      return this.#runWithRetries(work, signal, 1);
    };
    try {
      const result = work();
      return isPromise(result) ? result.then(undefined, failed) : result;
    } catch (error) {
      return failed(error);
    }
  }

  async #runWithRetries<T>(
    work: () => MaybePromise<T>,
    signal: AbortSignal,
    failures = 0,
  ): Promise<T> {
    for (;; failures++) {
      try {
        while (!this.opened) await this.#open();
        if (this.isCaching) await this.#own(signal);
        const result = await work();
        this.lastError = undefined;
        this.#healthy = this.opened;
        return result;
      } catch (error) {
        await this.#backOffOrThrow(error, failures, signal);
      }
    }
  }

  /** Waits before the next attempt. Rethrows if the error is permanent or the signal has aborted. */
  async #backOffOrThrow(error: unknown, failures: number, signal: AbortSignal): Promise<void> {
    // An error after the abort is a consequence of the abort, so it is not recorded. `timedOut` comes
    // from an attempt to open that took too long, which may be repeated.
    if (error !== timedOut && !signal.aborted) {
      this.lastError = error;
      this.#healthy = false;
    }
    if (!this.#mayPass(error)) throw error;
    await backOff(failures, this.#clock, signal);
    if (signal.aborted) throw error;
  }

  /** Whether the same work may succeed in a moment. */
  #mayPass(error: unknown): boolean {
    return error === timedOut || error === this.ownership?.rival || this.#backend.transient(error);
  }

  /** Takes or renews the lease of all sessions, unless it is certain. */
  async #own(signal: AbortSignal): Promise<void> {
    try {
      if (!this.#needs.leasing) throw this.leaseError;
      const ownership = this.ownership ?? await this.#loadOwnership();
      while (!ownership.isCertain) {
        this.#checkOpen(); // an operation that was given up must not claim it after its release
        await ownership.hold();
        if (signal.aborted) throw timedOut; // the lease was lost, and this change was given up
      }
    } catch (error) {
      if (this.#mayPass(error)) throw error;
      throw new Error(`the option "cache" needs a lease: ${reason(error)}`, { cause: error });
    }
  }

  async #loadOwnership(): Promise<Ownership<Encoded>> {
    const { Ownership } = await import("../cache/ownership.ts");
    return this.ownership ??= new Ownership({
      leases: this.#backend.leases as Leases<Encoded>,
      queue: this.queue,
      clock: this.#clock,
      call: (operation, items, most, work) =>
        withTimeout(Math.min(this.#timeout, most), this.#clock, (signal) => {
          const call = () => work(signal);
          return isTraced(batches) ? this.#trace(operation, items, call, signal) : call();
        }),
      sizeOf: (value) => this.size(value),
      report: this.#report,
    }, this.#cache!);
  }

  /** One attempt serves all callers. A failure is forgotten, so the next operation tries again. */
  #open(): Promise<void> {
    return this.#opening ??= this.#tryToOpen().finally(() => this.#opening = undefined);
  }

  async #tryToOpen(): Promise<void> {
    const needs = this.#needs;
    try {
      await this.#openFor(needs);
    } catch (error) {
      if (!needs.leasing || error === timedOut || this.#backend.transient(error)) throw error;
      // Everything else works without leases.
      this.leaseError = error;
      this.#needs = { ...needs, leasing: false };
      await this.#openFor(this.#needs);
    }
  }

  async #openFor(needs: Needs): Promise<void> {
    this.#checkOpen(); // the release of a lease that was granted during `close` must not connect again
    const opening = { ...needs, report: this.#report, plan: this.#plan };
    this.#state = "opening";
    try {
      await withTimeout(this.#timeout, this.#clock, async (signal) => {
        const open = () => this.#backend.open({ ...opening, signal });
        const traced = () => this.#trace("open", [], open, signal);
        const limits = await (isTraced(batches) ? traced() : open());
        if (signal.aborted || this.#state !== "opening") return;
        this.limits = limits;
        // Not open yet if a store needs more than it did when this attempt began.
        if (needs === this.#needs) this.#state = "open";
      });
    } finally {
      if (this.#state === "opening") this.#state = "idle";
    }
  }

  #checkOpen(): void {
    if (this.#state === "closing" || this.#state === "closed") {
      throw new Error("the store is closed");
    }
  }

  readonly #report: Opening["report"] = (error) => {
    for (const { report } of this.#members) report(error);
  };

  #checkOptions(options: Backend["shared"] = {}): void {
    const { shared = {} } = this.#backend;
    for (const option of Object.keys({ ...shared, ...options })) {
      const [value, other] = [options[option], shared[option]];
      if (value === other) continue;
      const differ = typeof value === "boolean" && typeof other === "boolean"
        ? `is ${value}, but another store on the same data has ${other}`
        : "is not the same as that of another store on the same data"; // it may be a secret
      throw new TypeError(`option "${option}" ${differ}; use the same value for both`);
    }
  }

  #useCache(options: CacheOptions): void {
    if (typeof this.leases === "string") {
      throw new TypeError(`option "cache": this store cannot hold leases: ${this.leases}`);
    }
    const before = this.#cache ?? options;
    for (const name of ["entries", "bytes", "age"] as const) {
      if (options[name] !== before[name]) {
        throw new TypeError(
          'option "cache" is not the same as that of another store on the same data',
        );
      }
    }
    this.#cache = options;
    this.#healthy = false;
    this.#require({ leasing: true });
  }

  /** Opens the database again if it was prepared for less. */
  #require(more: Partial<Needs>): void {
    const needs = { ...this.#needs, ...more };
    if (needs.expiring === this.#needs.expiring && needs.leasing === this.#needs.leasing) return;
    this.#needs = needs;
    this.#healthy = false;
    if (this.#state === "open") this.#state = "idle";
  }
}

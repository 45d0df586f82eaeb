/**
 * The order of operations on each key, and their batches. Three rules keep every update of a bot.
 * Without the first or the second rule `tests/suites/telegraf.ts` counts lost updates. Without the third
 * rule `tests/suites/conformance/order.ts` finds a session that changed after its `set()`.
 *
 * 1. Writes of one key take effect in the order of their calls. A newer write replaces one that has
 *    not started, and both end together.
 * 2. A read during a pending write answers with the value that was written last.
 * 3. A write stores the value as it was at the call: the store encodes it before it gets here.
 *
 * All operations of one tick travel in one batch. One batch of reads and one batch of writes may be
 * in progress at the same time, while the next ones fill. A key is never in both.
 *
 * @module
 */

import { after, type Entry, type Limits, type MaybePromise } from "../backend.ts";
import type { Clock } from "./clock.ts";
import { DeadlineTimer } from "./deadline.ts";
import { byKey, type Job, type Jobs, Lane, type Waiter } from "./lane.ts";

/** The entry that is stored under a key, if any. */
export type Content<Encoded> = Entry<Encoded> | undefined;

/** Runs batches on the database. Opens it and retries until the signal aborts. */
export interface Executor<Encoded> {
  readonly limits: Limits;
  /** While it is false, a failing batch says nothing about its entries. */
  readonly opened: boolean;
  /** Whether the database is synchronous, so that reads gain nothing from a batch. */
  readonly embedded: boolean;
  size(value: Encoded): number;
  read(
    keys: string[],
    signal: AbortSignal,
    expiring?: boolean,
    jobs?: Jobs,
  ): MaybePromise<Entry<Encoded>[]>;
  write(
    entries: Entry<Encoded>[],
    signal: AbortSignal,
    fresh?: boolean,
    jobs?: Jobs,
  ): MaybePromise<void>;
  renew(keys: string[], expires: number, signal: AbortSignal, jobs?: Jobs): MaybePromise<void>;
  remove(keys: string[], signal: AbortSignal, jobs?: Jobs): MaybePromise<void>;
}

/** What the queue needs to know about claims and settlements. */
export interface LeaseActivity {
  /** Whether a claim or settlement of the key is in progress. */
  isRunning(key: string): boolean;
  /** Whether a settlement of the key waits or is in progress. */
  isSettling(key: string): boolean;
  /** Starts what has waited for a write. */
  schedule(): void;
  /** Stops its timer. */
  stop(): void;
}

/** What this process knows about stored sessions, while no other process can change them. */
export interface Known<Encoded> {
  /** What is stored under the key; `undefined` if that is not known. */
  get(key: string): { readonly content: Content<Encoded> } | undefined;
  put(key: string, content: Content<Encoded>): void;
  delete(key: string): void;
  keys(): Iterable<string>;
}

interface WriteJob<Encoded> extends Job<void> {
  content: Content<Encoded>;
  /** Whether the value is already stored, so that only its expiry has to be written. */
  renewal?: boolean;
}

/** The operations on all keys of a database: one lane for reads and one for writes. */
export class Queue<Encoded> {
  readonly #executor: Executor<Encoded>;
  readonly #reads: Lane<Content<Encoded>, Job<Content<Encoded>>, Entry<Encoded>[]>;
  readonly #writes: Lane<void, WriteJob<Encoded>, void>;
  /** Counts the writes per hash of their key, so that idle keys use no memory. */
  readonly #versions = new Uint32Array(4096);
  readonly #deadlines: DeadlineTimer;
  /** With the option `cache`: the sessions in memory. */
  cache: Known<Encoded> | undefined;
  /** What leases tell the queue about a key, if there are leases. */
  #leases: LeaseActivity | undefined;

  constructor(executor: Executor<Encoded>, clock: Clock) {
    this.#executor = executor;
    this.#deadlines = new DeadlineTimer(
      clock,
      (now) => this.#rejectOverdue(now),
      () => this.size === 0,
    );
    this.#reads = new Lane({
      executor,
      get eager() {
        return executor.embedded;
      },
      execute: (jobs, signal) => this.#executeReads(jobs, signal),
      results: byKey,
      onBatchEnd: () => this.#writes.schedule(), // for writes that waited for a read of their key
    });
    this.#writes = new Lane({
      executor,
      size: ({ content, renewal }) =>
        content === undefined || renewal ? 0 : executor.size(content.value),
      // Reads cannot starve a write: while it waits, `read` answers from it and adds no job.
      ready: (key) => this.#reads.get(key) === undefined && !this.#leases?.isRunning(key),
      execute: (jobs, signal) => {
        const { cache } = this;
        const stored = this.#executeWrites(jobs, signal);
        return cache === undefined ? stored : this.#keepStored(stored, jobs, cache);
      },
      onBatchEnd: () => this.#leases?.schedule(), // for leases that waited for a write of their key
      onReject: (key) => this.countWrite(key),
    });
  }

  /** Reads the content of the key. All callers share a read that is in progress. */
  read(key: string, waiter: Waiter<Content<Encoded>>): void {
    const write = this.#writes.get(key);
    if (write !== undefined) return waiter.resolve(write.content);
    const cached = this.cache?.get(key);
    if (cached !== undefined) return waiter.resolve(cached.content);
    const read = this.#reads.get(key);
    if (read !== undefined) read.waiters.push(waiter);
    else this.#reads.add({ key, waiters: [waiter] });
    this.#deadlines.add(waiter.deadline);
  }

  /** Stores the content of the key, or deletes it. Resolves when the database has done so. */
  write(key: string, content: Content<Encoded>, waiter: Waiter<void>): void {
    this.countWrite(key);
    const write = this.#writes.waiting.get(key);
    if (write !== undefined) {
      write.content = content;
      write.renewal = false;
      write.waiters.push(waiter);
    } else this.#writes.add({ key, waiters: [waiter], content });
    this.#deadlines.add(waiter.deadline);
  }

  /** Moves the expiry of what is stored. A write that changes the value at the same time wins. */
  renew(content: Required<Entry<Encoded>>, waiter: Waiter<void>): void {
    const { key, expires } = content;
    const write = this.#writes.waiting.get(key);
    if (write !== undefined) {
      if (write.content !== undefined) write.content = { ...write.content, expires };
      write.waiters.push(waiter);
    } else this.#writes.add({ key, waiters: [waiter], content, renewal: true });
    this.#deadlines.add(waiter.deadline);
  }

  /** Resolves when the last write of the key is stored: immediately if none is pending. */
  written(key: string, waiter: Waiter<void>): void {
    const write = this.#writes.get(key);
    if (write === undefined) return waiter.resolve();
    write.waiters.push(waiter);
    this.#deadlines.add(waiter.deadline);
  }

  /** A number that every write of the key changes (and, rarely, a write of another key). */
  version(key: string): number {
    return this.#versions[this.#slot(key)]!;
  }

  /** Changes the version of a key. Also called for writes that do not go through this queue. */
  countWrite(key: string): void {
    this.#versions[this.#slot(key)]!++;
    this.cache?.delete(key);
  }

  /** Rejects all pending writes. What the database has of those in progress is unknown. */
  rejectWrites(error: unknown): void {
    this.#writes.rejectOverdue(Infinity, error);
  }

  /** Whether the key has a pending write. */
  isWriting(key: string): boolean {
    return this.#writes.get(key) !== undefined;
  }

  /**
   * From now on a write waits while a claim or settlement of its key is in progress.
   *
   * @returns the function to call when they have ended.
   */
  attach(leases: LeaseActivity): () => void {
    this.#leases = leases;
    return () => this.#writes.schedule();
  }

  /** The keys with a pending write. */
  writing(): string[] {
    return this.#writes.keys();
  }

  /** How many keys have a pending read or write. */
  get size(): number {
    return this.#reads.size + this.#writes.size;
  }

  /** Stops the timer. Called when nothing is pending and nothing will be. */
  stop(): void {
    this.#deadlines.stop();
    this.#leases?.stop();
  }

  #slot(key: string): number {
    let hash = 0;
    for (let i = 0; i < key.length; i++) hash = Math.imul(hash, 31) + key.charCodeAt(i) | 0;
    return hash & (this.#versions.length - 1);
  }

  #executeReads(
    jobs: Job<Content<Encoded>>[],
    signal: AbortSignal,
  ): MaybePromise<Entry<Encoded>[]> {
    const { cache } = this;
    const keys = keysOf(jobs);
    if (cache === undefined) return this.#executor.read(keys, signal, undefined, jobs);
    const versions = keys.map((key) => this.#leases?.isSettling(key) ? -1 : this.version(key));
    // With the expiry also if this store has no `ttl`: the database forgets the session then.
    return after(this.#executor.read(keys, signal, true, jobs), (entries) => {
      const found = byKey(entries, jobs);
      for (const [i, key] of keys.entries()) {
        // Otherwise it was written meanwhile, or before this read by a settlement that had not ended.
        if (this.version(key) === versions[i]) cache.put(key, found[i]);
      }
      return entries;
    });
  }

  /** Keeps what has been stored, unless a newer write waits or the write was given up. */
  #keepStored(
    stored: MaybePromise<void>,
    jobs: WriteJob<Encoded>[],
    cache: Known<Encoded>,
  ): MaybePromise<void> {
    return after(stored, () => {
      for (const job of jobs) {
        if (this.#writes.get(job.key) === job) cache.put(job.key, job.content);
      }
    });
  }

  #executeWrites(jobs: WriteJob<Encoded>[], signal: AbortSignal): MaybePromise<void> {
    const writes: WriteJob<Encoded>[] = [];
    const renewals: WriteJob<Encoded>[] = [];
    const removals: WriteJob<Encoded>[] = [];
    for (const job of jobs) {
      if (job.content === undefined) removals.push(job);
      else if (job.renewal) renewals.push(job);
      else writes.push(job);
    }
    if (writes.length === jobs.length) return this.#write(writes, signal);
    return this.#executeMixed(writes, renewals, removals, signal);
  }

  #write(jobs: WriteJob<Encoded>[], signal: AbortSignal): MaybePromise<void> {
    return this.#executor.write(jobs.map(({ content }) => content!), signal, undefined, jobs);
  }

  async #executeMixed(
    writes: WriteJob<Encoded>[],
    renewals: WriteJob<Encoded>[],
    removals: WriteJob<Encoded>[],
    signal: AbortSignal,
  ): Promise<void> {
    if (writes.length > 0) await this.#write(writes, signal);
    for (const expires of new Set(renewals.map(({ content }) => content!.expires!))) {
      const jobs = renewals.filter(({ content }) => content!.expires === expires);
      await this.#executor.renew(keysOf(jobs), expires, signal, jobs);
    }
    if (removals.length > 0) await this.#executor.remove(keysOf(removals), signal, removals);
  }

  #rejectOverdue(now: number): number {
    const next = Math.min(this.#reads.rejectOverdue(now), this.#writes.rejectOverdue(now));
    this.#writes.schedule(); // for writes that waited for an abandoned read of their key
    this.#leases?.schedule(); // for leases that waited for a write that was given up
    return next;
  }
}

const keysOf = (jobs: readonly Job<never>[]) => jobs.map(({ key }) => key);

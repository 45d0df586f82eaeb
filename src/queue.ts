/**
 * The order of operations on each key, and their batches. Three rules keep every update of a bot.
 * Without the first or second `tests/telegraf.ts` counts lost ones, without the third
 * `tests/conformance.ts` finds a session that was changed after its `set()`.
 *
 * 1. Writes of one key take effect in the order of their calls. A newer one replaces one that has
 *    not started, and both end together.
 * 2. A read during a pending write answers with what was written last.
 * 3. What is written is what the value was at the call: the store encodes it before it gets here.
 *
 * What is asked for in one tick travels in one batch. One batch of reads and one of writes is under
 * way at a time, while the next fills; a key is never read and written at once.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { clearTimeout, setTimeout } from "node:timers";
import type { Entry, Limits, MaybePromise } from "./backend.ts";

// Not imported: that evaluates all that is in it, which takes 5 ms of a start.
// deno-lint-ignore no-process-global
const { nextTick } = process;

/** What is stored under a key. */
export type Content<Encoded> = Entry<Encoded> | undefined;

/** Carries batches to the database; opens and retries as long as the signal has not aborted. */
export interface Carrier<Encoded> {
  readonly limits: Limits;
  /** Until it is, what fails a batch is no fault of its entries. */
  readonly opened: boolean;
  /** Whether it answers at once, so that reads gain nothing by going together. */
  readonly embedded: boolean;
  size(value: Encoded): number;
  read(keys: string[], signal: AbortSignal): MaybePromise<Entry<Encoded>[]>;
  write(entries: Entry<Encoded>[], signal: AbortSignal): MaybePromise<void>;
  renew(keys: string[], expires: number, signal: AbortSignal): MaybePromise<void>;
  remove(keys: string[], signal: AbortSignal): MaybePromise<void>;
}

/** What a caller whose time is up is rejected with. */
export const expired = Symbol("expired");

/** Who waits for an operation: one of the two is called, once. */
export interface Waiter<T> {
  /**
   * Until when, in ms of `performance.now()`, because the clock of the machine may be set meanwhile;
   * then `reject` is called with `expired`.
   */
  readonly deadline: number;
  resolve(result: T): void;
  reject(error: unknown): void;
}

/** A read or write of one key, and all who wait for it. */
interface Job<T> {
  readonly key: string;
  readonly waiters: Waiter<T>[];
}

interface WriteJob<Encoded> extends Job<void> {
  content: Content<Encoded>;
  /** Whether the database has the value and needs to know but when it expires. */
  renewal?: boolean;
}

export class Queue<Encoded> {
  readonly #carrier: Carrier<Encoded>;
  readonly #reads: Lane<Content<Encoded>, Job<Content<Encoded>>, Entry<Encoded>[]>;
  readonly #writes: Lane<void, WriteJob<Encoded>, void>;
  /** Counts the writes by a hash of their key, so that idle keys cost no memory. */
  readonly #versions = new Uint32Array(4096);
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the first deadline may pass, and when the timer goes off. */
  #due = Infinity;
  #alarm = Infinity;

  constructor(carrier: Carrier<Encoded>) {
    this.#carrier = carrier;
    this.#reads = new Lane({
      carrier,
      get eager() {
        return carrier.embedded;
      },
      carry(jobs, signal) {
        return carrier.read(jobs.map(({ key }) => key), signal);
      },
      results(entries, jobs) {
        if (jobs.length === 1) return entries;
        const found = new Map(entries.map((entry) => [entry.key, entry]));
        return jobs.map(({ key }) => found.get(key));
      },
      ended: () => this.#writes.schedule(), // those that waited for a read
    });
    this.#writes = new Lane({
      carrier,
      size: ({ content, renewal }) =>
        content === undefined || renewal ? 0 : carrier.size(content.value),
      ready: (key) => this.#reads.get(key) === undefined,
      carry: (jobs, signal) => this.#carryWrites(jobs, signal),
      rejected: (key) => this.#touch(key),
    });
  }

  /** What is stored under the key; all who ask while a read is under way share it. */
  read(key: string, waiter: Waiter<Content<Encoded>>): void {
    const write = this.#writes.get(key);
    if (write !== undefined) return waiter.resolve(write.content);
    const read = this.#reads.get(key);
    if (read !== undefined) read.waiters.push(waiter);
    else this.#reads.add({ key, waiters: [waiter] });
    this.#expireAt(waiter.deadline);
  }

  /** Stores the entry of the key, or deletes it; resolves when the database has done so. */
  write(key: string, content: Content<Encoded>, waiter: Waiter<void>): void {
    this.#touch(key);
    const write = this.#writes.waiting.get(key);
    if (write !== undefined) {
      write.content = content;
      write.renewal = false;
      write.waiters.push(waiter);
    } else this.#writes.add({ key, waiters: [waiter], content });
    this.#expireAt(waiter.deadline);
  }

  /** Lets what is stored live longer, and leaves its value to whoever changes it meanwhile. */
  renew(content: Required<Entry<Encoded>>, waiter: Waiter<void>): void {
    const { key, expires } = content;
    const write = this.#writes.waiting.get(key);
    if (write !== undefined) {
      if (write.content !== undefined) write.content = { ...write.content, expires };
      write.waiters.push(waiter);
    } else this.#writes.add({ key, waiters: [waiter], content, renewal: true });
    this.#expireAt(waiter.deadline);
  }

  /** Resolves when the last write of the key has reached the database: at once, if none pends. */
  written(key: string, waiter: Waiter<void>): void {
    const write = this.#writes.get(key);
    if (write === undefined) return waiter.resolve();
    write.waiters.push(waiter);
    this.#expireAt(waiter.deadline);
  }

  /** A number that every write of the key changes (and, rarely, a write of another key). */
  version(key: string): number {
    return this.#versions[this.#slot(key)]!;
  }

  /** The keys that are being written. */
  writing(): string[] {
    return this.#writes.keys();
  }

  /** How many keys are being read or written. */
  get size(): number {
    return this.#reads.size + this.#writes.size;
  }

  /** Stops the timer, when nobody waits nor ever will. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  #touch(key: string): void {
    this.#versions[this.#slot(key)]!++;
  }

  #slot(key: string): number {
    let hash = 0;
    for (let i = 0; i < key.length; i++) hash = Math.imul(hash, 31) + key.charCodeAt(i) | 0;
    return hash & (this.#versions.length - 1);
  }

  #carryWrites(jobs: WriteJob<Encoded>[], signal: AbortSignal): MaybePromise<void> {
    const entries: Entry<Encoded>[] = [];
    const renewals: Required<Entry<Encoded>>[] = [];
    const removed: string[] = [];
    for (const { key, content, renewal } of jobs) {
      if (content === undefined) removed.push(key);
      else if (renewal) renewals.push(content as Required<Entry<Encoded>>);
      else entries.push(content);
    }
    if (entries.length === jobs.length) return this.#carrier.write(entries, signal);
    return this.#carryMixed(entries, renewals, removed, signal);
  }

  async #carryMixed(
    entries: Entry<Encoded>[],
    renewals: Required<Entry<Encoded>>[],
    removed: string[],
    signal: AbortSignal,
  ): Promise<void> {
    if (entries.length > 0) await this.#carrier.write(entries, signal);
    for (const expires of new Set(renewals.map((renewal) => renewal.expires))) {
      const keys = renewals.filter((renewal) => renewal.expires === expires).map(({ key }) => key);
      await this.#carrier.renew(keys, expires, signal);
    }
    if (removed.length > 0) await this.#carrier.remove(removed, signal);
  }

  /**
   * One timer for all who wait, which goes on every 100 ms while anybody does: to set and clear it
   * whenever somebody begins or ends to wait costs more.
   */
  #expireAt(deadline: number): void {
    if (deadline < this.#due) this.#due = deadline;
    if (this.#due >= this.#alarm) return;
    clearTimeout(this.#timer);
    const now = performance.now();
    this.#alarm = Math.min(this.#due, now + 100);
    this.#timer = setTimeout(() => this.#expire(), Math.max(1, this.#alarm - now));
  }

  #expire(): void {
    this.#alarm = Infinity;
    const now = performance.now();
    let due = this.size > 0 ? this.#due : Infinity;
    if (due <= now) {
      due = Math.min(this.#reads.expire(now), this.#writes.expire(now));
      this.#writes.schedule(); // those that waited for a read which has been given up
    }
    this.#due = Infinity;
    if (due < Infinity) this.#expireAt(due);
  }
}

interface LaneOptions<T, J extends Job<T>, Carried> {
  readonly carrier: Pick<Carrier<unknown>, "limits" | "opened">;
  /** Whether jobs do not wait for others of their tick. */
  readonly eager?: boolean;
  /** About how many bytes the job adds to its batch. */
  size?(job: J): number;
  /** Whether the key's job may go into the next batch. */
  ready?(key: string): boolean;
  /** Carries out the jobs. */
  carry(jobs: J[], signal: AbortSignal): MaybePromise<Carried>;
  /** What each job gets of what was carried out; nothing without it. */
  results?(carried: Carried, jobs: J[]): T[];
  /** Called when somebody who waited for the key got an error. */
  rejected?(key: string): void;
  /** Called after each batch. */
  ended?(): void;
}

/** Jobs of one kind: at most one per key waits and one is carried out, in one batch at a time. */
class Lane<T, J extends Job<T>, Carried> {
  waiting = new Map<string, J>();
  readonly #options: LaneOptions<T, J, Carried>;
  readonly #flush = () => this.#carry();
  #running = new Map<string, J>();
  #scheduled = false;
  /** The batch under way. */
  #batch: J[] | undefined;
  /** Of all batches until one is given up. */
  #controller = new AbortController();

  constructor(options: LaneOptions<T, J, Carried>) {
    this.#options = options;
  }

  get size(): number {
    return this.waiting.size + this.#running.size;
  }

  keys(): string[] {
    return [...this.waiting.keys(), ...this.#running.keys()];
  }

  /** The newest job of the key. */
  get(key: string): J | undefined {
    return this.waiting.get(key) ?? this.#running.get(key);
  }

  add(job: J): void {
    this.waiting.set(job.key, job);
    this.schedule();
  }

  schedule(): void {
    if (this.#scheduled || this.#batch !== undefined || this.waiting.size === 0) return;
    this.#scheduled = true;
    if (this.#options.eager) this.#carry();
    // After the microtasks: updates that took a few more awaits to get here join the batch.
    else nextTick(this.#flush);
  }

  /** Rejects those whose time is up, and gives up the batch for which nobody waits any more. */
  expire(now: number): number {
    let next = Infinity;
    let waited = false;
    for (const job of [...this.waiting.values(), ...this.#running.values()]) {
      // Waiters may have different timeouts, so the expired ones need not come first.
      for (const waiter of job.waiters.splice(0)) {
        if (waiter.deadline > now) {
          job.waiters.push(waiter);
          next = Math.min(next, waiter.deadline);
        } else {
          waiter.reject(expired);
          this.#options.rejected?.(job.key);
        }
      }
      if (job.waiters.length > 0) waited ||= this.#running.get(job.key) === job;
      else if (this.waiting.get(job.key) === job) this.waiting.delete(job.key);
    }
    if (!waited && this.#batch !== undefined) this.#abandon(this.#batch);
    return next;
  }

  #carry(): void {
    this.#scheduled = false;
    const jobs = this.#take();
    if (jobs.length === 0) return;
    this.#batch = jobs;
    const { signal } = this.#controller;
    const done = (carried: Carried) => {
      this.#resolve(jobs, carried);
      this.#end(jobs);
    };
    const failed = async (error: unknown) => {
      if (jobs.length > 1 && this.#options.carrier.opened && !signal.aborted) {
        await this.#carryApart(jobs, signal);
      } else this.#reject(jobs, error);
      this.#end(jobs);
    };
    let carried: MaybePromise<Carried>;
    try {
      carried = this.#options.carry(jobs, signal);
    } catch (error) {
      failed(error);
      return;
    }
    if (isPromise(carried)) carried.then(done, failed);
    else done(carried);
  }

  /** A batch that fails is tried again one by one, so that one bad entry fails alone. */
  async #carryApart(jobs: J[], signal: AbortSignal): Promise<void> {
    for (const job of jobs) {
      try {
        this.#resolve([job], await this.#options.carry([job], signal));
      } catch (error) {
        this.#reject([job], error);
      }
    }
  }

  /** What still comes of the batch comes too late for everybody. */
  #abandon(batch: J[]): void {
    this.#running.clear();
    this.#controller.abort();
    this.#controller = new AbortController();
    this.#end(batch);
  }

  #end(batch: J[]): void {
    if (this.#batch !== batch) return; // given up
    this.#batch = undefined;
    this.schedule();
    this.#options.ended?.();
  }

  #take(): J[] {
    const { ready, size, carrier: { limits } } = this.#options;
    const jobs: J[] = [];
    let bytes = 0;
    for (const [key, job] of this.waiting) {
      if (ready?.(key) === false) continue;
      bytes += size?.(job) ?? 0;
      if (jobs.length > 0 && (jobs.length >= limits.keys || bytes > limits.bytes)) break;
      jobs.push(job);
    }
    // A map that goes on grows and shrinks by new tables, to each of which the one before refers:
    // garbage would keep garbage until the next full collection, which costs more than all else.
    if (jobs.length === this.waiting.size) {
      this.#running = this.waiting;
      this.waiting = new Map();
    } else {
      this.#running = new Map(jobs.map((job) => [job.key, job]));
      for (const { key } of jobs) this.waiting.delete(key);
    }
    return jobs;
  }

  #resolve(jobs: J[], carried: Carried): void {
    const results = this.#options.results?.(carried, jobs);
    for (let i = 0; i < jobs.length; i++) {
      this.#settle(jobs[i]!);
      for (const waiter of jobs[i]!.waiters) waiter.resolve(results?.[i] as T);
    }
  }

  #reject(jobs: J[], error: unknown): void {
    for (const job of jobs) {
      this.#settle(job);
      for (const waiter of job.waiters) waiter.reject(error);
      this.#options.rejected?.(job.key);
    }
  }

  /** Nobody joins the job any more; one that has replaced it stays. */
  #settle(job: J): void {
    if (this.#running.get(job.key) === job) this.#running.delete(job.key);
  }
}

/** Whether the result is still to come. */
export function isPromise<T>(result: MaybePromise<T>): result is Promise<T> {
  return typeof (result as Promise<T> | undefined)?.then === "function";
}

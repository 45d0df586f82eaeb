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

import { nextTick } from "node:process";
import { clearTimeout, setTimeout } from "node:timers";
import type { Entry, Limits } from "./backend.ts";

/** What is stored under a key: the value and its expiry, or nothing. */
export type Content<Encoded> = Omit<Entry<Encoded>, "key"> | undefined;

/** Carries batches to the database; opens and retries as long as the signal has not aborted. */
export interface Carrier<Encoded> {
  readonly limits: Limits;
  /** Until it is, what fails a batch is no fault of its entries. */
  readonly opened: boolean;
  size(value: Encoded): number;
  read(keys: string[], signal: AbortSignal): Promise<Entry<Encoded>[]>;
  write(entries: Entry<Encoded>[], signal: AbortSignal): Promise<void>;
  renew(keys: string[], expires: number, signal: AbortSignal): Promise<void>;
  remove(keys: string[], signal: AbortSignal): Promise<void>;
}

/** What a caller whose time is up is rejected with. */
export const expired = Symbol("expired");

/** Who waits for an operation: one of the two is called, once. */
export interface Waiter<T> {
  /** Until when, in ms since the epoch; then `reject` is called with `expired`. */
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
  readonly #reads: Lane<Content<Encoded>, Job<Content<Encoded>>>;
  readonly #writes: Lane<void, WriteJob<Encoded>>;
  /** Counts the writes by a hash of their key, so that idle keys cost no memory. */
  readonly #versions = new Uint32Array(4096);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #due = Infinity;
  #idle = true;

  constructor(carrier: Carrier<Encoded>) {
    this.#carrier = carrier;
    const ended = () => this.#ended();
    this.#reads = new Lane({
      carrier,
      carry: (jobs, signal) => this.#carryReads(jobs, signal),
      ended,
    });
    this.#writes = new Lane({
      carrier,
      size: ({ content, renewal }) =>
        content === undefined || renewal ? 0 : carrier.size(content.value),
      ready: (key) => this.#reads.get(key) === undefined,
      carry: (jobs, signal) => this.#carryWrites(jobs, signal),
      rejected: (key) => this.#touch(key),
      ended,
    });
  }

  /** What is stored under the key; all who ask while a read is under way share it. */
  read(key: string, waiter: Waiter<Content<Encoded>>): void {
    const write = this.#writes.get(key);
    if (write !== undefined) return waiter.resolve(write.content);
    this.#wait(this.#reads.get(key) ?? this.#reads.add({ key, waiters: [] }), waiter);
  }

  /** Stores the content, or deletes; resolves when the database has done so. */
  write(key: string, content: Content<Encoded>, waiter: Waiter<void>): void {
    this.#touch(key);
    const write = this.#writes.waiting.get(key) ??
      this.#writes.add({ key, waiters: [], content });
    write.content = content;
    write.renewal = false;
    this.#wait(write, waiter);
  }

  /** Lets what is stored live longer, and leaves its value to whoever changes it meanwhile. */
  renew(
    key: string,
    content: Required<Omit<Entry<Encoded>, "key">>,
    waiter: Waiter<void>,
  ): void {
    const write = this.#writes.waiting.get(key) ??
      this.#writes.add({ key, waiters: [], content, renewal: true });
    if (write.content !== undefined) write.content = { ...write.content, expires: content.expires };
    this.#wait(write, waiter);
  }

  /** Resolves when the last write of the key has reached the database: at once, if none pends. */
  written(key: string, waiter: Waiter<void>): void {
    const write = this.#writes.get(key);
    if (write === undefined) waiter.resolve();
    else this.#wait(write, waiter);
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

  #touch(key: string): void {
    this.#versions[this.#slot(key)]!++;
  }

  #slot(key: string): number {
    let hash = 0;
    for (let i = 0; i < key.length; i++) hash = Math.imul(hash, 31) + key.charCodeAt(i) | 0;
    return hash & (this.#versions.length - 1);
  }

  async #carryReads(
    jobs: Job<Content<Encoded>>[],
    signal: AbortSignal,
  ): Promise<Content<Encoded>[]> {
    const entries = await this.#carrier.read(jobs.map((job) => job.key), signal);
    if (jobs.length === 1) return [entries[0]];
    const found = new Map(entries.map((entry) => [entry.key, entry]));
    return jobs.map((job) => found.get(job.key));
  }

  async #carryWrites(jobs: WriteJob<Encoded>[], signal: AbortSignal): Promise<void[]> {
    const entries: Entry<Encoded>[] = [];
    const renewed = new Map<number, string[]>();
    const removed: string[] = [];
    for (const { key, content, renewal } of jobs) {
      if (content === undefined) removed.push(key);
      else if (renewal) {
        renewed.set(content.expires!, [...renewed.get(content.expires!) ?? [], key]);
      } else entries.push({ key, ...content });
    }
    if (entries.length > 0) await this.#carrier.write(entries, signal);
    for (const [expires, keys] of renewed) await this.#carrier.renew(keys, expires, signal);
    if (removed.length > 0) await this.#carrier.remove(removed, signal);
    return [];
  }

  #wait<T>(job: Job<T>, waiter: Waiter<T>): void {
    job.waiters.push(waiter);
    this.#expireAt(waiter.deadline);
  }

  /** One timer for all who wait; it keeps the process alive only while somebody does. */
  #expireAt(deadline: number): void {
    if (this.#idle) {
      this.#idle = false;
      this.#timer?.ref();
    }
    if (deadline >= this.#due) return;
    this.#due = deadline;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#expire(), Math.max(1, deadline - Date.now()));
  }

  #expire(): void {
    this.#due = Infinity;
    this.#timer = undefined;
    const now = Date.now();
    const next = Math.min(this.#reads.expire(now), this.#writes.expire(now));
    this.#ended();
    if (next < Infinity) this.#expireAt(next);
  }

  #ended(): void {
    this.#writes.schedule(); // those that waited for a read
    if (this.size > 0) return;
    // Left to run out: to set and clear one for each operation costs more.
    this.#idle = true;
    this.#timer?.unref();
  }
}

interface LaneOptions<T, J extends Job<T>> {
  readonly carrier: Pick<Carrier<unknown>, "limits" | "opened">;
  /** About how many bytes the job adds to its batch. */
  size?(job: J): number;
  /** Whether the key's job may go into the next batch. */
  ready?(key: string): boolean;
  /** Carries out the jobs; the results in their order. */
  carry(jobs: J[], signal: AbortSignal): Promise<T[]>;
  /** Called when somebody who waited for the key got an error. */
  rejected?(key: string): void;
  /** Called after each batch. */
  ended(): void;
}

/** Jobs of one kind: at most one per key waits and one is carried out, in one batch at a time. */
class Lane<T, J extends Job<T>> {
  waiting = new Map<string, J>();
  readonly #options: LaneOptions<T, J>;
  #running = new Map<string, J>();
  #scheduled = false;
  /** The batch under way. */
  #batch: J[] | undefined;
  /** Of all batches until one is given up. */
  #controller = new AbortController();

  constructor(options: LaneOptions<T, J>) {
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

  add(job: J): J {
    this.waiting.set(job.key, job);
    this.schedule();
    return job;
  }

  schedule(): void {
    if (this.#scheduled || this.#batch !== undefined || this.waiting.size === 0) return;
    this.#scheduled = true;
    // After the microtasks: updates that took a few more awaits to get here join the batch.
    nextTick(() => this.#flush());
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
    if (!waited && this.#batch !== undefined) this.#abandon();
    return next;
  }

  async #flush(): Promise<void> {
    this.#scheduled = false;
    const jobs = this.#take();
    if (jobs.length === 0) return;
    this.#batch = jobs;
    await this.#run(jobs, this.#controller.signal);
    if (this.#batch === jobs) this.#end();
  }

  /** What still comes of the batch comes too late for everybody. */
  #abandon(): void {
    this.#running.clear();
    this.#controller.abort();
    this.#controller = new AbortController();
    this.#end();
  }

  #end(): void {
    this.#batch = undefined;
    this.schedule();
    this.#options.ended();
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

  /** A batch that fails is tried again one by one, so that one bad entry fails alone. */
  async #run(jobs: J[], signal: AbortSignal): Promise<void> {
    try {
      const results = await this.#options.carry(jobs, signal);
      jobs.forEach((job, i) => {
        for (const waiter of this.#settle(job)) waiter.resolve(results[i]!);
      });
    } catch (error) {
      if (jobs.length > 1 && this.#options.carrier.opened && !signal.aborted) {
        for (const job of jobs) await this.#run([job], signal);
        return;
      }
      for (const job of jobs) {
        for (const waiter of this.#settle(job)) waiter.reject(error);
        this.#options.rejected?.(job.key);
      }
    }
  }

  /** Ends the job at once, so that nobody joins it any more; not one that has replaced it. */
  #settle(job: J): Waiter<T>[] {
    if (this.#running.get(job.key) === job) this.#running.delete(job.key);
    return job.waiters.splice(0);
  }
}

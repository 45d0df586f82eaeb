/**
 * A lane: jobs of one kind, in batches, one batch at a time.
 *
 * @module
 */

import { isPromise, type Limits, type MaybePromise } from "../backend.ts";
import { timedOut } from "./deadline.ts";
import type { Call } from "./tracing.ts";

// Not imported because the import evaluates all exports of node:process: 5 ms of the start-up time.
// deno-lint-ignore no-process-global
const { nextTick } = process;

/** A caller that waits for an operation. One of the two functions is called, once. */
export interface Waiter<T> {
  /**
   * In ms of the clock's `now()`. At the deadline `reject` is called with `timedOut`.
   */
  readonly deadline: number;
  /** What traces of the batch say about the caller. Only if batches are traced. */
  readonly call?: Call | undefined;
  resolve(result: T): void;
  reject(error: unknown): void;
}

/** A read or write of one key, and all callers that wait for it. */
export interface Job<T> {
  readonly key: string;
  readonly waiters: Waiter<T>[];
}

/** The jobs of a batch, for its trace. */
export type Jobs = readonly Job<never>[];

interface LaneOptions<T, J extends Job<T>, Outcome> {
  readonly executor: { readonly limits: Limits; readonly opened: boolean };
  /** Whether a job starts immediately instead of waiting for other jobs of its tick. */
  readonly eager?: boolean;
  /** About how many bytes the job adds to its batch. */
  size?(job: J): number;
  /** Whether the key's job may join the next batch. */
  ready?(key: string): boolean;
  execute(jobs: J[], signal: AbortSignal): MaybePromise<Outcome>;
  /** The result of each job; `undefined` for each without this function. */
  results?(outcome: Outcome, jobs: J[]): T[];
  /** Called when a caller that waited for the key got an error. */
  onReject?(key: string): void;
  onBatchEnd?(): void;
}

/**
 * Jobs of one kind. Per key at most one job waits and one is in progress. At most one batch is in
 * progress.
 */
export class Lane<T, J extends Job<T>, Outcome> {
  waiting = new Map<string, J>();
  readonly #options: LaneOptions<T, J, Outcome>;
  readonly #dispatchBatch = () => this.#dispatch();
  /** The jobs in progress that a new caller may still join. */
  #running = new Map<string, J>();
  #scheduled = false;
  /** The batch in progress. */
  #batch: J[] | undefined;
  /** Serves all batches until one of them is abandoned. */
  #controller = new AbortController();

  constructor(options: LaneOptions<T, J, Outcome>) {
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

  /** Whether a job of the key is in progress. */
  isRunning(key: string): boolean {
    return this.#running.has(key);
  }

  add(job: J): void {
    this.waiting.set(job.key, job);
    this.schedule();
  }

  schedule(): void {
    if (this.#scheduled || this.#batch !== undefined || this.waiting.size === 0) return;
    this.#scheduled = true;
    if (this.#options.eager) this.#dispatch();
    // After the microtasks: updates that need a few more awaits to get here join the batch.
    else nextTick(this.#dispatchBatch);
  }

  /**
   * Rejects callers whose deadline has passed. Abandons the batch in progress if no caller waits for
   * it any more.
   *
   * @param now in ms of the clock's `now()`; infinite for all callers.
   * @returns the next deadline.
   */
  rejectOverdue(now: number, error: unknown = timedOut): number {
    let next = Infinity;
    let batchIsAwaited = false;
    for (const job of [...this.waiting.values(), ...this.#running.values()]) {
      // Stores may have different timeouts, so the callers are not in the order of their deadlines.
      for (const waiter of job.waiters.splice(0)) {
        if (waiter.deadline > now) {
          job.waiters.push(waiter);
          next = Math.min(next, waiter.deadline);
        } else {
          waiter.reject(error);
          this.#options.onReject?.(job.key);
        }
      }
      if (job.waiters.length > 0) batchIsAwaited ||= this.#running.get(job.key) === job;
      else if (this.waiting.get(job.key) === job) this.waiting.delete(job.key);
    }
    if (!batchIsAwaited && this.#batch !== undefined) this.#abandon(this.#batch);
    return next;
  }

  #dispatch(): void {
    this.#scheduled = false;
    const jobs = this.#takeBatch();
    if (jobs.length === 0) return;
    this.#batch = jobs;
    const { signal } = this.#controller;
    const succeeded = (outcome: Outcome) => {
      this.#resolve(jobs, outcome);
      this.#end(jobs);
    };
    const failed = async (error: unknown) => {
      // One bad entry may be the reason, unless the database could not be opened or all timed out.
      const mayBeOneEntry = jobs.length > 1 && this.#options.executor.opened && !signal.aborted;
      if (mayBeOneEntry) await this.#executeOneByOne(jobs, signal);
      else this.#reject(jobs, error);
      this.#end(jobs);
    };
    let outcome: MaybePromise<Outcome>;
    try {
      outcome = this.#options.execute(jobs, signal);
    } catch (error) {
      failed(error);
      return;
    }
    if (isPromise(outcome)) outcome.then(succeeded, failed);
    else succeeded(outcome);
  }

  /** So that one bad entry fails alone. */
  async #executeOneByOne(jobs: J[], signal: AbortSignal): Promise<void> {
    for (const job of jobs) {
      try {
        this.#resolve([job], await this.#options.execute([job], signal));
      } catch (error) {
        this.#reject([job], error);
      }
    }
  }

  /** Stops waiting for the batch: no caller needs it any more, and late results are ignored. */
  #abandon(batch: J[]): void {
    this.#running.clear();
    this.#controller.abort();
    this.#controller = new AbortController();
    this.#end(batch);
  }

  #end(batch: J[]): void {
    if (this.#batch !== batch) return; // it was abandoned, and another one has taken its place
    this.#batch = undefined;
    this.schedule();
    this.#options.onBatchEnd?.();
  }

  #takeBatch(): J[] {
    const { ready, size, executor: { limits } } = this.#options;
    const jobs: J[] = [];
    let bytes = 0;
    for (const [key, job] of this.waiting) {
      if (ready?.(key) === false) continue;
      bytes += size?.(job) ?? 0;
      if (jobs.length > 0 && (jobs.length >= limits.keys || bytes > limits.bytes)) break;
      jobs.push(job);
    }
    // The map is replaced instead of emptied. A map that lives long grows and shrinks by new tables
    // that keep the old ones reachable, so its garbage would survive until a full collection.
    if (jobs.length === this.waiting.size) {
      this.#running = this.waiting;
      this.waiting = new Map();
    } else {
      this.#running = new Map(jobs.map((job) => [job.key, job]));
      for (const { key } of jobs) this.waiting.delete(key);
    }
    return jobs;
  }

  #resolve(jobs: J[], outcome: Outcome): void {
    const results = this.#options.results?.(outcome, jobs);
    for (let i = 0; i < jobs.length; i++) {
      this.#settle(jobs[i]!);
      for (const waiter of jobs[i]!.waiters) waiter.resolve(results?.[i] as T);
    }
  }

  #reject(jobs: J[], error: unknown): void {
    for (const job of jobs) {
      this.#settle(job);
      for (const waiter of job.waiters) waiter.reject(error);
      this.#options.onReject?.(job.key);
    }
  }

  /** No new caller joins the job. A newer job of the same key stays. */
  #settle(job: J): void {
    if (this.#running.get(job.key) === job) this.#running.delete(job.key);
  }
}

/** The answer for each job, in their order; `undefined` where there is none. */
export function byKey<Answer extends { readonly key: string }>(
  answers: Answer[],
  jobs: readonly { readonly key: string }[],
): (Answer | undefined)[] {
  if (jobs.length === 1) return answers;
  const found = new Map(answers.map((answer) => [answer.key, answer]));
  return jobs.map(({ key }) => found.get(key));
}

/** Splits items into batches within the limits. A larger item is a batch of its own. */
export function* batchesOf<T>(
  items: readonly T[],
  sizeOf: (item: T) => number,
  limits: Limits,
): Generator<T[]> {
  let batch: T[] = [];
  let size = 0;
  for (const item of items) {
    const more = sizeOf(item);
    if (batch.length > 0 && (batch.length === limits.keys || size + more > limits.bytes)) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push(item);
    size += more;
  }
  if (batch.length > 0) yield batch;
}

/**
 * A backend that several stores on the same data share. It is opened once, calls that fail for a
 * transient reason are retried, and one queue keeps the order of operations:
 *
 * `store → queue (order, batches) → shared backend (opening, retries) → backend (database)`
 *
 * @module
 */

import type { Backend, Entry, Limits, MaybePromise, Page, Plan } from "../backend.ts";
import { backOff, timedOut, withTimeout } from "./deadline.ts";
import { isPromise } from "./lane.ts";
import { type Executor, Queue } from "./queue.ts";

/** A backend, its queue, and all stores that use them. */
export class SharedBackend<Encoded> implements Executor<Encoded> {
  // deno-lint-ignore no-explicit-any
  static readonly #all = new WeakMap<object, Map<string, SharedBackend<any>>>();

  /**
   * The shared backend of all stores on the same handle and scope. The backend of the first store
   * does the work.
   *
   * @throws {TypeError} if the stores differ in an option that must be the same.
   */
  static of<Encoded>(backend: Backend<Encoded>, timeout: number): SharedBackend<Encoded> {
    let scopes = SharedBackend.#all.get(backend.handle);
    if (scopes === undefined) SharedBackend.#all.set(backend.handle, scopes = new Map());
    let shared = scopes.get(backend.scope);
    if (shared === undefined) {
      scopes.set(backend.scope, shared = new SharedBackend(backend, timeout));
    }
    const { shared: agreed = {} } = shared.#backend;
    for (const [option, value] of Object.entries(backend.shared ?? {})) {
      if (agreed[option] === value) continue;
      throw new TypeError(
        `option "${option}" is ${value}, but another store on the same data has ${
          agreed[option]
        }; ` +
          "use the same value for both",
      );
    }
    return shared;
  }

  readonly queue: Queue<Encoded> = new Queue(this);
  /** One function per store that reports events in the background. */
  readonly reporters = new Set<(error: unknown) => void>();
  readonly #backend: Backend<Encoded>;
  readonly #timeout: number;
  readonly #report = (error: unknown) => this.reporters.forEach((reporter) => reporter(error));
  opened = false;
  /** Whether a store has a `ttl`. */
  #expiring = false;
  /** If set, opening is a dry run that passes the planned changes to this callback. */
  plan: ((plan: Plan) => void) | undefined;
  /** The attempt to open that is in progress. */
  opening: Promise<void> | undefined;
  /** The last error since a call succeeded. */
  lastError: unknown;

  private constructor(backend: Backend<Encoded>, timeout: number) {
    this.#backend = backend;
    this.#timeout = timeout;
  }

  /** Prepares the database for entries that expire. Opens it again if it was prepared without. */
  requireExpiry(): void {
    if (this.#expiring) return;
    this.#expiring = true;
    this.opened = false;
  }

  get limits(): Limits {
    return this.#backend.limits;
  }

  get embedded(): boolean {
    return this.#backend.embedded ?? false;
  }

  size(value: Encoded): number {
    return this.#backend.codec.size(value);
  }

  read(keys: string[], signal: AbortSignal): MaybePromise<Entry<Encoded>[]> {
    return this.run(() => this.#backend.read(keys, signal), signal);
  }

  write(entries: Entry<Encoded>[], signal: AbortSignal, fresh?: boolean): MaybePromise<void> {
    return this.run(() => this.#backend.write(entries, signal, fresh), signal);
  }

  renew(keys: string[], expires: number, signal: AbortSignal): MaybePromise<void> {
    return this.run(() => this.#backend.renew(keys, expires, signal), signal);
  }

  remove(keys: string[], signal: AbortSignal): MaybePromise<void> {
    return this.run(() => this.#backend.remove(keys, signal), signal);
  }

  page(start: string | undefined, signal: AbortSignal, size = 128): MaybePromise<Page> {
    return this.run(() => this.#backend.page(start, size, signal), signal);
  }

  prune(signal: AbortSignal): MaybePromise<number> {
    return this.run(() => this.#backend.prune?.(Date.now(), signal) ?? 0, signal);
  }

  async readWithoutRetry(keys: string[], signal: AbortSignal): Promise<void> {
    while (!this.opened) await this.#open();
    await this.#backend.read(keys, signal);
  }

  /** Unregisters a store. The last one removes the shared backend and closes the database. */
  async leave(reporter: (error: unknown) => void): Promise<void> {
    this.reporters.delete(reporter);
    if (this.reporters.size > 0) return;
    this.queue.stop();
    const { handle, scope } = this.#backend;
    SharedBackend.#all.get(handle)!.delete(scope);
    await this.opening?.catch(() => {});
    await this.#backend.close();
  }

  /** Opens the database if necessary and does the work. Retries while errors are transient. */
  run<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    if (!this.opened || this.lastError !== undefined) return this.#runWithRetries(work, signal);
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
        const result = await work();
        this.lastError = undefined;
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
    if (error !== timedOut && !signal.aborted) this.lastError = error;
    if (error !== timedOut && !this.#backend.transient(error)) throw error;
    await backOff(failures, signal);
    if (signal.aborted) throw error;
  }

  /** One attempt serves all callers. A failure is forgotten, so the next operation tries again. */
  #open(): Promise<void> {
    return this.opening ??= withTimeout(this.#timeout, async (signal) => {
      const { plan } = this;
      const expiring = this.#expiring;
      await this.#backend.open({ signal, report: this.#report, expiring, plan });
      if (!signal.aborted && expiring === this.#expiring) this.opened = true;
    }).finally(() => this.opening = undefined);
  }
}

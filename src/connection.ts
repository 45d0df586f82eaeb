/**
 * What stores on the same data share: opening the database once, and trying again what failed for
 * the moment. The queue's batches go through it.
 *
 * @module
 */

import { clearTimeout, setTimeout } from "node:timers";
import { onAbort } from "./abort.ts";
import type { Backend, Entry, Limits, MaybePromise, Page, Plan } from "./backend.ts";
import { type Carrier, expired, isPromise, Queue } from "./queue.ts";

/** What stores on the same data have in common: whether it is open, and the order of its keys. */
export class Connection<Encoded> implements Carrier<Encoded> {
  // deno-lint-ignore no-explicit-any
  static readonly #shared = new WeakMap<object, Map<string, Connection<any>>>();

  /** The connection of all stores with the backend's handle and scope, until they have left it. */
  static of<Encoded>(backend: Backend<Encoded>, timeout: number): Connection<Encoded> {
    let scopes = Connection.#shared.get(backend.handle);
    if (scopes === undefined) Connection.#shared.set(backend.handle, scopes = new Map());
    let connection = scopes.get(backend.scope);
    if (connection === undefined) {
      scopes.set(backend.scope, connection = new Connection(backend, timeout));
    }
    const { shared = {} } = connection.#backend;
    for (const [option, value] of Object.entries(backend.shared ?? {})) {
      if (shared[option] === value) continue;
      throw new TypeError(
        `option "${option}" is ${value}, but another store on the same data has ${shared[option]}; ` +
          "use the same value for both",
      );
    }
    return connection;
  }

  readonly queue: Queue<Encoded> = new Queue(this);
  /** Of each store: where it reports what happens in the background. */
  readonly reporters = new Set<(error: unknown) => void>();
  readonly #backend: Backend<Encoded>;
  readonly #timeout: number;
  readonly #report = (error: unknown) => this.reporters.forEach((reporter) => reporter(error));
  opened = false;
  /** Whether a store has a `ttl`. */
  #expiring = false;
  /** Told what `open` would do, when it must not do it. */
  plan: ((plan: Plan) => void) | undefined;
  /** The attempt to open that is under way. */
  opening: Promise<void> | undefined;
  /** The last error since something succeeded. */
  trouble: unknown;

  private constructor(backend: Backend<Encoded>, timeout: number) {
    this.#backend = backend;
    this.#timeout = timeout;
  }

  /** Prepares the database for entries that expire, by opening it again if that was done without. */
  expire(): void {
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
    return this.attempt(() => this.#backend.read(keys, signal), signal);
  }

  write(entries: Entry<Encoded>[], signal: AbortSignal, fresh?: boolean): MaybePromise<void> {
    return this.attempt(() => this.#backend.write(entries, signal, fresh), signal);
  }

  renew(keys: string[], expires: number, signal: AbortSignal): MaybePromise<void> {
    return this.attempt(() => this.#backend.renew(keys, expires, signal), signal);
  }

  page(start: string | undefined, signal: AbortSignal, size = 128): MaybePromise<Page> {
    return this.attempt(() => this.#backend.page(start, size, signal), signal);
  }

  prune(signal: AbortSignal): MaybePromise<number> {
    return this.attempt(() => this.#backend.prune?.(Date.now(), signal) ?? 0, signal);
  }

  /** A read without retries. */
  async once(keys: string[], signal: AbortSignal): Promise<void> {
    while (!this.opened) await this.#open();
    await this.#backend.read(keys, signal);
  }

  remove(keys: string[], signal: AbortSignal): MaybePromise<void> {
    return this.attempt(() => this.#backend.remove(keys, signal), signal);
  }

  /** Opens if need be and does the work, again and again while errors are transient. */
  attempt<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    if (!this.opened || this.trouble !== undefined) return this.#persist(work, signal);
    // All is well: nothing but the work, for this is what every operation pays.
    const failed = async (error: unknown) => {
      await this.#recover(error, 0, signal);
      return this.#persist(work, signal, 1);
    };
    try {
      const result = work();
      return isPromise(result) ? result.then(undefined, failed) : result;
    } catch (error) {
      return failed(error);
    }
  }

  async #persist<T>(work: () => MaybePromise<T>, signal: AbortSignal, failures = 0): Promise<T> {
    for (;; failures++) {
      try {
        while (!this.opened) await this.#open();
        const result = await work();
        this.trouble = undefined;
        return result;
      } catch (error) {
        await this.#recover(error, failures, signal);
      }
    }
  }

  /** Waits for a better moment; throws the error if there is none. */
  async #recover(error: unknown, failures: number, signal: AbortSignal): Promise<void> {
    // What fails after it was given up only says so.
    if (error !== expired && !signal.aborted) this.trouble = error;
    if (error !== expired && !this.#backend.transient(error)) throw error;
    await pause(failures, signal);
    if (signal.aborted) throw error;
  }

  /** Takes leave of a store; once the last one has left, nothing is kept of them. */
  async leave(reporter: (error: unknown) => void): Promise<void> {
    this.reporters.delete(reporter);
    if (this.reporters.size > 0) return;
    this.queue.stop();
    const { handle, scope } = this.#backend;
    Connection.#shared.get(handle)!.delete(scope);
    await this.opening?.catch(() => {});
    await this.#backend.close();
  }

  /** Shared by all who need it; a failure is forgotten, so that the next operation tries again. */
  #open(): Promise<void> {
    return this.opening ??= within(this.#timeout, async (signal) => {
      const { plan } = this;
      const expiring = this.#expiring;
      await this.#backend.open({ signal, report: this.#report, expiring, plan });
      if (!signal.aborted && expiring === this.#expiring) this.opened = true;
    }).finally(() => this.opening = undefined);
  }
}

/** Rejects with `expired` if the work takes longer than `timeout` ms. */
export async function within<T>(
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
      onAbort(signal, undefined);
      resolve();
    };
    const timer = setTimeout(end, delay);
    onAbort(signal, end);
  });
}

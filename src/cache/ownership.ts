/**
 * The lease of a whole table, collection or prefix. Its holder is the only process that uses the sessions,
 * so it may keep them in memory.
 *
 * The database does not compare this lease with each write, as it does with the lease of a session: the
 * holder goes by its own clocks, and stops early enough. So a holder that was stopped or cut off notices
 * it before it reads or writes anything.
 *
 * @module
 */

import type { Leases, MaybePromise, Refusal } from "../backend.ts";
import { LeaseError, type LeaseHolder } from "../errors.ts";
import { describeHolder, holderOf, newToken } from "../lease/token.ts";
import type { CacheOptions } from "../options.ts";
import type { Clock, Timer } from "../store/clock.ts";
import { ownersKey } from "../store/entry.ts";
import type { Queue } from "../store/queue.ts";
import type { Item } from "../store/tracing.ts";
import { CachedEntries } from "./entries.ts";

/**
 * How long the lease lasts unless it is renewed, in ms. A new process waits so long for one that has
 * died: less than the default of the option `timeout`.
 */
const length = 8_000;

/** How long after a renewal the holder relies on it, in ms. The rest is for requests on their way. */
const reliable = length * 2 / 3;

const never = { now: -Infinity, date: -Infinity };

const lost = 'the lease of all sessions was lost, which the option "cache" needs';

/** The parts of the shared backend that ownership uses. */
interface Parts<Encoded> {
  readonly leases: Leases<Encoded>;
  readonly queue: Queue<Encoded>;
  readonly clock: Clock;
  /** Calls the database. Rejects if it takes too long. */
  call<T>(
    operation: "claim" | "settle",
    items: readonly Item[],
    work: (signal: AbortSignal) => MaybePromise<T>,
  ): Promise<T>;
  sizeOf(value: Encoded): number;
  report(error: unknown): void;
}

/** The lease of the table. Each time it is lost and taken again, another epoch begins. */
export class Ownership<Encoded> {
  readonly #parts: Parts<Encoded>;
  readonly #clock: Clock;
  readonly #options: CacheOptions;
  #token: string;
  #isHeld = false;
  /** Until when this process relies on the lease, in ms of the clock's `now()` and of its `date()`. */
  #until = never;
  /** The claim or renewal in progress. */
  #attempt: Promise<void> | undefined;
  #timer: Timer | undefined;
  #isReleased = false;
  /** How often the lease was lost. */
  epoch = 0;
  /** The error of the last claim, if another process had the lease. */
  rival: LeaseError | undefined;
  /** The sessions that were in memory when the lease was lost, and were not read since. */
  #outdated = new Set<string>();

  constructor(parts: Parts<Encoded>, options: CacheOptions) {
    this.#parts = parts;
    this.#clock = parts.clock;
    this.#options = options;
    this.#token = newToken(parts.clock.date());
  }

  /**
   * Whether no other process can have the lease. One clock stands still while the machine is suspended,
   * and the other one may be set back, so both count.
   */
  get isCertain(): boolean {
    return this.#clock.now() < this.#until.now && this.#clock.date() < this.#until.date;
  }

  /**
   * Claims or renews the lease. Callers share one attempt.
   *
   * @throws {LeaseError} `rival`, if another process has it.
   */
  hold(): Promise<void> {
    return this.#attempt ??= this.#hold().finally(() => this.#attempt = undefined);
  }

  /** Releases the lease, for the next process. */
  async release(): Promise<void> {
    this.#isReleased = true;
    this.#clock.clearTimeout(this.#timer);
    await this.#attempt?.catch(() => {});
    this.#parts.queue.cache = undefined;
    if (this.#isHeld) await this.#settle(0).catch(() => {}); // it lapses soon
  }

  /**
   * Checks a session that is about to be stored or deleted.
   *
   * @param epoch the epoch in which it was read; `undefined` if it is not known.
   * @throws {LeaseError} if it was read before the lease was lost: another process may have changed it.
   */
  check(key: string, epoch: number | undefined): void {
    if (epoch === undefined ? !this.#outdated.has(key) : epoch === this.epoch) return;
    const why = `${lost}; it was read before, and another process may have changed it`;
    throw new LeaseError(why, { operation: "write", key });
  }

  /** Notes that a session has been read in this epoch. */
  noteRead(key: string): void {
    if (this.#outdated.size > 0) this.#outdated.delete(key);
  }

  async #hold(): Promise<void> {
    if (this.#isReleased) throw new Error("the store is closed");
    this.#clock.clearTimeout(this.#timer);
    const wasCertain = this.isCertain;
    const until = { now: this.#clock.now() + reliable, date: this.#clock.date() + reliable };
    let isRenewed: boolean;
    try {
      isRenewed = this.#isHeld && await this.#renew();
      if (!isRenewed) await this.#claim();
    } finally {
      if (this.#isHeld && !this.#isReleased) this.#renewLater();
    }
    this.#until = until;
    const { queue, sizeOf } = this.#parts;
    // After a claim, and after a renewal that came late, others may still change sessions under leases of
    // their own: `lease/guard.ts` tells them only now.
    if (!isRenewed || !wasCertain) queue.cache = undefined;
    else {
      queue.cache ??= new CachedEntries(this.#options, {
        now: () => this.#clock.now(),
        isUsable: () => this.isCertain,
        sizeOf,
      });
    }
  }

  /** Renews the lease. Returns whether this process still had it. */
  async #renew(): Promise<boolean> {
    const [refusal] = await this.#settle(length);
    if (refusal !== undefined) this.#lose(holderOf(refusal.token));
    return refusal === undefined;
  }

  async #claim(): Promise<void> {
    const { leases, call } = this.#parts;
    const claims = [{ key: ownersKey, token: this.#token, length }];
    const [claimed] = await call("claim", claims, (signal) => leases.claim(claims, signal));
    this.#isHeld = claimed!.token === this.#token;
    if (this.#isHeld) return;
    const holder = holderOf(claimed!.token);
    const why = `${describeHolder(holder)}, has all sessions in memory, by the option "cache"`;
    throw this.rival = new LeaseError(why, { operation: "lock", holder });
  }

  #settle(length: number): Promise<Refusal[]> {
    const { leases, call } = this.#parts;
    const one = { key: ownersKey, token: this.#token, length, change: undefined, absent: true };
    return call("settle", [one], (signal) => leases.settle([one], signal));
  }

  #lose(holder: LeaseHolder | undefined): void {
    const { queue, clock, report } = this.#parts;
    this.#isHeld = false;
    this.#until = never;
    this.#token = newToken(clock.date());
    this.epoch++;
    for (const key of queue.cache?.keys() ?? []) this.#outdated.add(key);
    queue.cache = undefined;
    const why = lost + (holder === undefined ? "" : `; it went to ${describeHolder(holder)}`);
    const error = new LeaseError(why, { operation: "lock", holder });
    queue.rejectWrites(error);
    report(error);
  }

  #renewLater(): void {
    this.#timer = this.#clock.setTimeout(() => {
      this.hold().catch(() => {}); // if it lasts, an operation gets the error
    }, length / 3);
    this.#timer.unref();
  }
}

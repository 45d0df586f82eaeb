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
import { LeaseError } from "../errors.ts";
import { describeHolder, describeOwner, holderOf, newToken } from "../lease/token.ts";
import type { CacheOptions } from "../options.ts";
import { type Clock, isYounger, never, present, type Timer } from "../store/clock.ts";
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

/** How long a request may take, in ms. There is time for another one, on another connection. */
const patience = length / 2;

const lost = 'the lease of all sessions was lost, which the option "cache" needs';

/** The parts of the shared backend that ownership uses. */
interface Parts<Encoded> {
  readonly leases: Leases<Encoded>;
  readonly queue: Queue<Encoded>;
  readonly clock: Clock;
  /** Calls the database. Rejects if it takes longer than `most` ms. */
  call<T>(
    operation: "claim" | "settle",
    items: readonly Item[],
    most: number,
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
  readonly #token: string;
  #isHeld = false;
  /** When the last claim or renewal that succeeded was sent. */
  #confirmed = never;
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

  /** Whether no other process can have the lease. */
  get isCertain(): boolean {
    return isYounger(this.#confirmed, reliable, this.#clock);
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
    this.#clock.clearTimeout(this.#timer);
    const sent = present(this.#clock);
    let isKept = false;
    try {
      if (this.#isHeld) {
        const [refusal] = await this.#settle(length);
        // An answer that comes after the end of the lease does not tell whether others were faster.
        isKept = refusal === undefined && isYounger(this.#confirmed, length, this.#clock);
        if (!isKept) this.#lose(refusal);
      }
      if (!this.#isHeld) await this.#claim();
    } finally {
      if (this.#isHeld && !this.#isReleased) this.#renewLater();
    }
    this.#confirmed = sent;
    // Not from the claim on: others that change sessions under leases must have noticed it, see
    // `lease/guard.ts`.
    if (isKept) this.#parts.queue.cache ??= this.#newCache();
  }

  async #claim(): Promise<void> {
    const { leases, call } = this.#parts;
    const claims = [{ key: ownersKey, token: this.#token, length }];
    const [claimed] = await call(
      "claim",
      claims,
      patience,
      (signal) => leases.claim(claims, signal),
    );
    this.#isHeld = claimed!.token === this.#token;
    if (this.#isHeld) return;
    const { token } = claimed!;
    const options = { operation: "lock", holder: holderOf(token) } as const;
    throw this.rival = new LeaseError(describeOwner(token), options);
  }

  #settle(length: number): Promise<Refusal[]> {
    const { leases, call } = this.#parts;
    const one = { key: ownersKey, token: this.#token, length, change: undefined, absent: true };
    return call("settle", [one], patience, (signal) => leases.settle([one], signal));
  }

  #lose(refusal: Refusal | undefined): void {
    const { queue, report } = this.#parts;
    this.#isHeld = refusal === undefined;
    this.#confirmed = never;
    this.epoch++;
    for (const key of queue.cache?.keys() ?? []) this.#outdated.add(key);
    queue.cache = undefined;
    const holder = holderOf(refusal?.token);
    const why = lost + (holder === undefined ? "" : `; it went to ${describeHolder(holder)}`);
    const error = new LeaseError(why, { operation: "lock", holder });
    queue.rejectWrites(error);
    report(error);
  }

  #newCache(): CachedEntries<Encoded> {
    return new CachedEntries(this.#options, {
      now: () => this.#clock.now(),
      isUsable: () => this.isCertain,
      sizeOf: this.#parts.sizeOf,
    });
  }

  #renewLater(): void {
    this.#timer = this.#clock.setTimeout(() => {
      this.hold().catch(() => {}); // if it lasts, an operation gets the error
    }, length / 3);
    this.#timer.unref();
  }
}

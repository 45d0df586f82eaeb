/**
 * Keeps changes under leases away from sessions that another process has in memory, by its option `cache`:
 * that process would not notice them, and would overwrite them.
 *
 * Each change comes at most a second after a look at the other's lease. A process that takes that lease
 * keeps no sessions in memory for the first two seconds. So it has either read the change, or the change is
 * refused.
 *
 * @module
 */

import type { Leases, MaybePromise } from "../backend.ts";
import { LeaseError } from "../errors.ts";
import type { Clock } from "../store/clock.ts";
import { ownersKey } from "../store/entry.ts";
import { describeHolder, holderOf } from "./token.ts";

/** How long the absence of an owner is relied on, in ms. */
const interval = 1_000;

/** Looks for the process that has all sessions in memory. */
export class OwnerGuard {
  readonly #leases: Pick<Leases<unknown>, "find">;
  readonly #clock: Clock;
  /** When the last look began that found nobody, in ms of the clock's `now()`. */
  #freeAt = -Infinity;
  /** The look in progress. */
  #looking: Promise<void> | undefined;

  constructor(leases: Pick<Leases<unknown>, "find">, clock: Clock) {
    this.#leases = leases;
    this.#clock = clock;
  }

  /** Does work after a look, unless the last one was a moment ago. */
  change<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    return this.#isRecent() ? work() : this.#look(signal).then(work);
  }

  /** Looks as well, but only the first claim waits for it. The change will wait, if it comes sooner. */
  claim<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    if (this.#freeAt === -Infinity) return this.change(work, signal);
    if (!this.#isRecent()) this.#look(signal).catch(() => {}); // the change will look again
    return work();
  }

  #isRecent(): boolean {
    return this.#clock.now() - this.#freeAt < interval;
  }

  #look(signal: AbortSignal): Promise<void> {
    return this.#looking ??= this.#lookNow(signal).finally(() => this.#looking = undefined);
  }

  async #lookNow(signal: AbortSignal): Promise<void> {
    const now = this.#clock.now();
    const [owner] = await this.#leases.find([ownersKey], signal);
    this.#freeAt = owner === undefined ? now : -Infinity;
    if (owner === undefined) return;
    const holder = holderOf(owner.token);
    const why = `${describeHolder(holder)}, has all sessions in memory, by the option "cache", ` +
      "and would not notice the change";
    throw new LeaseError(why, { operation: "lock", holder });
  }
}

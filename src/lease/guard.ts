/**
 * Keeps changes under leases away from sessions that another process has in memory, by its option `cache`:
 * that process would not notice them, and would overwrite them.
 *
 * Each change is sent at most two seconds after a look at the other's lease found nobody. A process that
 * takes that lease keeps no session in memory until its first renewal, after more than two seconds. So it
 * has either read the change, or the change is refused.
 *
 * @module
 */

import type { Leases, MaybePromise } from "../backend.ts";
import { LeaseError } from "../errors.ts";
import { type Clock, isYounger, never, present } from "../store/clock.ts";
import { ownersKey } from "../store/entry.ts";
import { timedOut } from "../store/deadline.ts";
import { describeOwner, holderOf } from "./token.ts";

/** How often to look, in ms. */
const interval = 1_000;

/** How old the answer may be, in ms. It is older than `interval` if the process was stopped meanwhile. */
const reliable = 2_000;

/** Looks for the process that has all sessions in memory. */
export class OwnerGuard {
  readonly #leases: Pick<Leases<unknown>, "find">;
  readonly #clock: Clock;
  /** When the last look began that found nobody. */
  #freeAt = never;
  /** The look in progress. */
  #looking: Promise<void> | undefined;

  constructor(leases: Pick<Leases<unknown>, "find">, clock: Clock) {
    this.#leases = leases;
    this.#clock = clock;
  }

  /** Does work after a look, unless the last one was a moment ago. */
  change<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    return this.#isFree(interval) ? work() : this.#lookBefore(work, signal);
  }

  /** Looks as well, but only the first claim waits for it. The change will wait, if it comes sooner. */
  claim<T>(work: () => MaybePromise<T>, signal: AbortSignal): MaybePromise<T> {
    if (this.#freeAt === never) return this.change(work, signal);
    if (!this.#isFree(interval)) this.#look(signal).catch(() => {}); // the change will look again
    return work();
  }

  async #lookBefore<T>(work: () => MaybePromise<T>, signal: AbortSignal): Promise<T> {
    do {
      if (signal.aborted) throw timedOut;
      await this.#look(signal);
    } while (!this.#isFree(reliable));
    return await work();
  }

  /** Whether nobody had all sessions less than `ms` ago. */
  #isFree(ms: number): boolean {
    return isYounger(this.#freeAt, ms, this.#clock);
  }

  #look(signal: AbortSignal): Promise<void> {
    return this.#looking ??= this.#lookNow(signal).finally(() => this.#looking = undefined);
  }

  async #lookNow(signal: AbortSignal): Promise<void> {
    const start = present(this.#clock);
    const [owner] = await this.#leases.find([ownersKey], signal);
    this.#freeAt = owner === undefined ? start : never;
    if (owner === undefined) return;
    const why = `${describeOwner(owner.token)}, and would not notice the change`;
    throw new LeaseError(why, { operation: "lock", holder: holderOf(owner.token) });
  }
}

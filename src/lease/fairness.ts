/**
 * Fairness between processes. A process that waits for a lease notices that it is free only with its
 * next poll, so a process that has just had the lease must not take it again before that.
 *
 * @module
 */

import type { Clock } from "../store/clock.ts";

/** How long a process holds a lease although others may wait, in ms. */
const longestHold = 1_000;

/** The same if another process had the lease a moment ago. */
const longestHoldAmongRivals = 200;

/** How long a process remembers that another one had the lease, in ms. */
const memory = 2_000;

/** The longest time between two polls, in ms, without the jitter. */
const longestPoll = 50;

/** The time between two polls while another process has had the lease for `held` ms. */
function pollInterval(held: number): number {
  return Math.min(longestPoll, 10 + held / 4);
}

/** Longer than any poll with its jitter. */
const margin = 1.3;

/** A time in which this process had a key and let no others in. In ms of the clock's `now()`. */
interface Occupation {
  readonly since: number;
  readonly released: number;
  /** When a poll of the others has noticed the release. */
  readonly noticed: number;
}

/** When this process may claim a lease again. Guarded by "no process starves" in `tests/core/leases.test.ts`. */
export class Fairness {
  readonly #clock: Clock;
  /** By key, in the order of their ends. Those that have been noticed are removed. */
  readonly #occupations = new Map<string, Occupation>();
  /** When another process was last seen to hold a lease, by key, in this order. */
  readonly #rivals = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How long a lease may be handed on within this process, in ms. */
  longestHold(key: string): number {
    const seen = this.#rivals.get(key) ?? -Infinity;
    return this.#clock.now() - seen < memory ? longestHoldAmongRivals : longestHold;
  }

  /** How long to wait before the next claim, in ms. */
  pause(key: string): number {
    const { since, released, noticed } = this.#occupations.get(key) ?? never;
    const enough = this.longestHold(key) < longestHold || released - since >= longestHold;
    return enough ? noticed - this.#clock.now() : 0;
  }

  noteRival(key: string): void {
    const now = this.#clock.now();
    remember(this.#rivals, key, now, (seen) => now - seen >= memory);
  }

  /** @param granted when the lease was granted. */
  noteRelease(key: string, granted: number): void {
    const released = this.#clock.now();
    const before = this.#occupations.get(key) ?? never;
    const since = granted < before.noticed ? before.since : granted;
    const noticed = released + pollInterval(released - granted) * margin;
    const isOver = (other: Occupation) => released - other.released >= longestPoll * margin;
    remember(this.#occupations, key, { since, released, noticed }, isOver);
  }
}

/** Puts a value at the end of a map, and removes those at its begin that are over. */
function remember<T>(
  values: Map<string, T>,
  key: string,
  value: T,
  isOver: (value: T) => boolean,
): void {
  values.delete(key);
  values.set(key, value);
  for (const [other, value] of values) {
    if (!isOver(value)) break;
    values.delete(other);
  }
}

const never: Occupation = { since: 0, released: 0, noticed: -Infinity };

/** The polls of a process that waits for a lease. */
export class Polls {
  readonly #clock: Clock;
  #holder: string | undefined;
  /** When the current holder was first seen. */
  #seen = 0;
  /** How many holders have overtaken this process. */
  #overtaken = -1;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The time until the next poll, in ms. A process that others overtake polls more often. */
  next(holder: string): number {
    const now = this.#clock.now();
    if (holder !== this.#holder) {
      this.#holder = holder;
      this.#seen = now;
      this.#overtaken++;
    }
    const jitter = 0.75 + Math.random() / 2;
    return Math.max(2, pollInterval(now - this.#seen) * jitter / (1 + this.#overtaken));
  }
}

/**
 * Time, as the store and its queue see it. Tests replace it by a clock that they move by hand.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import { clearTimeout, setTimeout } from "node:timers";

/** What `setTimeout` returns. */
export interface Timer {
  /** Lets the process end before the timer fires. */
  unref(): unknown;
}

/** A source of time. */
export interface Clock {
  /** For durations, in ms. Never goes back, also when the system clock is set. */
  now(): number;
  /** For expiry, in ms since the epoch. */
  date(): number;
  setTimeout(callback: () => void, delay: number): Timer;
  clearTimeout(timer: Timer | undefined): void;
}

/** A moment, by both clocks: one stands still while the machine is suspended, the other may be set. */
export interface Moment {
  readonly now: number;
  readonly date: number;
}

/** The moment before all others. */
export const never: Moment = { now: -Infinity, date: -Infinity };

/** The present moment. */
export function present(clock: Clock): Moment {
  return { now: clock.now(), date: clock.date() };
}

/** Whether the moment was less than `ms` ago, by both clocks. */
export function isYounger({ now, date }: Moment, ms: number, clock: Clock): boolean {
  return clock.now() - now < ms && clock.date() - date < ms;
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => performance.now(),
  date: () => Date.now(),
  setTimeout: (callback, delay) => setTimeout(callback, delay),
  clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout> | undefined),
};

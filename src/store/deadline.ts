/**
 * Timeouts and back-off.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "../abort.ts";
import type { MaybePromise } from "../backend.ts";
import type { Clock, Timer } from "./clock.ts";

/** Rejects a caller whose deadline has passed. */
export const timedOut = Symbol("timed out");

/** Rejects with `timedOut` if the work takes longer than `timeout` ms. */
export async function withTimeout<T>(
  timeout: number,
  clock: Clock,
  work: (signal: AbortSignal) => MaybePromise<T>,
): Promise<T> {
  const controller = new AbortController();
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = clock.setTimeout(() => {
      controller.abort();
      reject(timedOut);
    }, timeout);
  });
  try {
    return await Promise.race([work(controller.signal), late]);
  } finally {
    clock.clearTimeout(timer);
  }
}

/**
 * One timer for the deadlines of many operations. It fires at the first deadline, but at least every
 * 100 ms while operations are pending: setting and clearing a timer per operation is slower.
 */
export class DeadlineTimer {
  readonly #clock: Clock;
  readonly #rejectOverdue: (now: number) => number;
  readonly #isIdle: () => boolean;
  readonly #unref: boolean;
  #timer: Timer | undefined;
  /** No deadline is earlier than this. */
  #first = Infinity;
  /** When the timer fires. */
  #firesAt = Infinity;

  /**
   * @param rejectOverdue rejects the callers whose deadline has passed; returns the next deadline.
   * @param isIdle whether nothing is pending.
   * @param unref whether the process may end while operations are pending.
   */
  constructor(
    clock: Clock,
    rejectOverdue: (now: number) => number,
    isIdle: () => boolean,
    unref = false,
  ) {
    this.#clock = clock;
    this.#unref = unref;
    this.#rejectOverdue = rejectOverdue;
    this.#isIdle = isIdle;
  }

  /** Adds a deadline, in ms of the clock's `now()`. */
  add(deadline: number): void {
    if (deadline < this.#first) this.#first = deadline;
    if (this.#first >= this.#firesAt) return;
    this.#clock.clearTimeout(this.#timer);
    const now = this.#clock.now();
    this.#firesAt = Math.min(this.#first, now + 100);
    this.#timer = this.#clock.setTimeout(() => this.#fire(), Math.max(1, this.#firesAt - now));
    if (this.#unref) this.#timer.unref();
  }

  /** Called when nothing is pending and nothing will be. */
  stop(): void {
    this.#clock.clearTimeout(this.#timer);
  }

  #fire(): void {
    this.#firesAt = Infinity;
    const now = this.#clock.now();
    let next = this.#isIdle() ? Infinity : this.#first;
    if (next <= now) next = this.#rejectOverdue(now);
    this.#first = Infinity;
    if (next < Infinity) this.add(next);
  }
}

/** Waits before the next attempt: 10 ms, doubled after each failure up to 500 ms, ± 50 %. */
export function backOff(failures: number, clock: Clock, signal: AbortSignal): Promise<void> {
  const delay = Math.min(500, 10 * 2 ** failures) * (0.5 + Math.random());
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clock.clearTimeout(timer);
      clearAbortHandler(signal);
      resolve();
    };
    const timer = clock.setTimeout(end, delay);
    setAbortHandler(signal, end);
  });
}

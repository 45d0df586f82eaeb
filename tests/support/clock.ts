/** A clock that tests advance, so that they do not depend on the speed of the machine. */

import { setImmediate } from "node:timers";
import type { Clock, Timer } from "../../src/store/clock.ts";

interface ManualTimer extends Timer {
  readonly at: number;
  readonly fire: () => void;
  referenced: boolean;
}

/** Runs all work that needs no time: microtasks, ticks, and the work that they start. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Starts at 0 ms, on a day in 2023. */
export class ManualClock implements Clock {
  #now = 0;
  /** The date at 0 ms. */
  #start = 1_700_000_000_000;
  readonly #timers = new Set<ManualTimer>();

  now = (): number => this.#now;
  date = (): number => this.#start + this.#now;

  setTimeout(callback: () => void, delay: number): Timer {
    const timer: ManualTimer = {
      at: this.#now + delay,
      fire: callback,
      referenced: true,
      unref() {
        timer.referenced = false;
      },
    };
    this.#timers.add(timer);
    return timer;
  }

  clearTimeout(timer: Timer | undefined): void {
    this.#timers.delete(timer as ManualTimer);
  }

  /** The number of timers that would keep a process alive. */
  get referenced(): number {
    return [...this.#timers].filter(({ referenced }) => referenced).length;
  }

  /** Sets the date, as an administrator does; durations are not affected. */
  setDate(date: number): void {
    this.#start = date - this.#now;
  }

  /** Resolves when the clock has advanced by `ms`. */
  wait(ms: number): Promise<void> {
    return new Promise((resolve) => this.setTimeout(resolve, ms));
  }

  /** Advances the clock by `ms`, and fires each timer at its time. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await settle();
    for (let next = this.#next(); next !== undefined && next.at <= end; next = this.#next()) {
      await this.#fire(next);
    }
    this.#now = end;
  }

  /** Advances the clock from timer to timer until the promise is settled. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let pending = true;
    const done = () => pending = false;
    promise.then(done, done);
    for (await settle(); pending; await settle()) {
      const next = this.#next();
      if (next === undefined) throw new Error("the promise is still pending, and no timer is set");
      await this.#fire(next);
    }
    return promise;
  }

  #next(): ManualTimer | undefined {
    return [...this.#timers].sort((a, b) => a.at - b.at)[0];
  }

  async #fire(timer: ManualTimer): Promise<void> {
    this.#timers.delete(timer);
    this.#now = Math.max(this.#now, timer.at);
    timer.fire();
    await settle();
  }
}

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

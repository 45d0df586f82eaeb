/**
 * Timeouts and back-off.
 *
 * @module
 */

import { clearTimeout, setTimeout } from "node:timers";
import { clearAbortHandler, setAbortHandler } from "../abort.ts";
import type { MaybePromise } from "../backend.ts";

/** Rejects a caller whose deadline has passed. */
export const timedOut = Symbol("timed out");

/** Rejects with `timedOut` if the work takes longer than `timeout` ms. */
export async function withTimeout<T>(
  timeout: number,
  work: (signal: AbortSignal) => MaybePromise<T>,
): Promise<T> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      controller.abort();
      reject(timedOut);
    }, timeout);
  });
  try {
    return await Promise.race([work(controller.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits before the next attempt: 10 ms, doubled after each failure up to 500 ms, ± 50 %. */
export function backOff(failures: number, signal: AbortSignal): Promise<void> {
  const delay = Math.min(500, 10 * 2 ** failures) * (0.5 + Math.random());
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      clearAbortHandler(signal);
      resolve();
    };
    const timer = setTimeout(end, delay);
    setAbortHandler(signal, end);
  });
}

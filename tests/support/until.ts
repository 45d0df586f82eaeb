/** Waiting for a condition. */

import { setTimeout as wait } from "node:timers/promises";

/** Waits until the condition holds, for at most `timeout` ms. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeout = 60_000,
): Promise<void> {
  const end = Date.now() + timeout;
  while (!await Promise.resolve().then(condition).catch(() => false)) {
    if (Date.now() > end) throw new Error(`not true after ${timeout} ms: ${condition}`);
    await wait(50);
  }
}

/** The batches that stores send to their database. */

import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { BatchTrace, Store } from "../../mod.ts";
import { until } from "./until.ts";

const callers = new AsyncLocalStorage<object>();

/** The batches of sessions that are sent for the work, and not for other tests at the same time. */
export async function batchesOf(work: () => Promise<unknown>): Promise<string[]> {
  const batches: string[] = [];
  const note = (message: unknown) => {
    const { operation } = message as BatchTrace;
    const isForLeases = operation === "claim" || operation === "settle";
    if (callers.getStore() === batches && !isForLeases) batches.push(operation);
  };
  const channel = "tracing:telegraf-session:batch:start";
  subscribe(channel, note);
  try {
    await callers.run(batches, work);
  } finally {
    unsubscribe(channel, note);
  }
  return batches;
}

/** Waits until the store answers from memory. */
// deno-lint-ignore no-explicit-any
export async function untilCaching(store: Store<any>): Promise<void> {
  await until(async () => (await batchesOf(() => store.has("1:1"))).length === 0);
}

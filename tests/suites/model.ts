/**
 * Compares a store with a map, during random operations on a few keys and random faults. After a
 * failed write, a key may hold the value from before or the written one.
 */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import fc from "fast-check";
import type { Store, StoreOptions } from "../../mod.ts";
import { type Fault, faults, type Proxy } from "../support/proxy.ts";
import { untilCaching } from "../support/batches.ts";
import { place } from "../support/servers.ts";

/** Describes a backend to the test. */
export interface ModelHarness {
  /** Makes a store with its data in the place. It connects by the proxy if there is one. */
  // deno-lint-ignore no-explicit-any
  open(place: string, options: StoreOptions, proxy?: Proxy): Store<any>;
  /** Makes a proxy to the server. Absent if the backend has no server. */
  proxy?(): Promise<Proxy>;
  /** Causes another fault, such as a lock on the database; resolves when it is over. */
  disturb?(place: string): Promise<unknown>;
}

type Step =
  | { readonly do: "get" | "delete"; readonly key: string }
  | { readonly do: "set"; readonly key: string; readonly large: boolean }
  | { readonly do: "cut" | "outage" | "disturb" | "reopen" | "settle" }
  | { readonly do: "lose"; readonly fault: Fault; readonly key: string };

const key = fc.constantFrom("a", "b", "c", "d");
const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant("set" as const), key, large: fc.boolean() }),
  },
  { weight: 8, arbitrary: fc.record({ do: fc.constantFrom("get" as const), key }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("delete" as const), key }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("settle" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom(...["cut", "disturb", "reopen", "outage"] as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("lose" as const),
      // A garbled reply needs a short deadline; `faults.ts` tests it.
      fault: fc.constantFrom(...faults.filter((fault) => fault !== "reply garbled")),
      key,
    }),
  },
);

/** Runs the steps. Operations are only awaited at steps that need it. */
async function play(
  harness: ModelHarness,
  steps: Step[],
  place: string,
  own: StoreOptions,
): Promise<void> {
  const proxy = await harness.proxy?.();
  const options = { timeout: 60_000 };
  const open = () => harness.open(place, { ...options, ...own }, proxy);
  let store = open();
  if (own.cache) await untilCaching(store);
  /** The values that each key may hold: the last written one, and earlier ones after an error. */
  const model = new Map<string, Set<string>>();
  let count = 0;
  let pending: Promise<unknown>[] = [];
  const settle = async () => {
    await Promise.all(pending);
    pending = [];
  };
  const may = (key: string) => model.get(key) ?? new Set(["undefined"]);
  async function write(key: string, value: string, work: Promise<void>): Promise<void> {
    const before = may(key);
    model.set(key, new Set([value]));
    try {
      await work;
    } catch (error) {
      assert.match((error as Error).name, /^(Store|Timeout)Error$/);
      for (const value of before) model.get(key)!.add(value);
    }
  }
  const outages: Promise<unknown>[] = [];
  try {
    for (const step of steps) {
      switch (step.do) {
        case "set": {
          const text = `<${step.key}>`.repeat(step.large ? 3_000 : 3);
          const value = { count: count++, text };
          pending.push(write(step.key, JSON.stringify(value), store.set(step.key, value)));
          break;
        }
        case "delete":
          pending.push(write(step.key, "undefined", store.delete(step.key)));
          break;
        case "get": {
          const allowed = may(step.key);
          pending.push(
            store.get(step.key).then((session) => {
              const found = session === undefined ? "undefined" : JSON.stringify(session);
              assert.ok(allowed.has(found), `${step.key} is ${found}, not ${[...allowed]}`);
            }),
          );
          break;
        }
        case "settle":
          await settle();
          break;
        case "cut":
          proxy?.cut();
          await wait(1);
          break;
        case "lose":
          proxy?.trap(step.fault, `<${step.key}>`);
          break;
        case "outage":
          await Promise.all(outages);
          if (proxy !== undefined) {
            await proxy.down();
            outages.push(wait(20).then(() => proxy.up()));
          }
          break;
        case "disturb":
          if (harness.disturb !== undefined) outages.push(harness.disturb(place));
          break;
        case "reopen": {
          const closing = store.close();
          await Promise.all([closing, settle()]);
          store = open();
          break;
        }
      }
    }
    await settle();
    await Promise.all(outages);
    const other = harness.open(place, options);
    for (const [key, allowed] of model) {
      const session = await other.get(key);
      const found = session === undefined ? "undefined" : JSON.stringify(session);
      assert.ok(allowed.has(found), `${key} is ${found}, not ${[...allowed]}`);
    }
    await other.close();
  } finally {
    await Promise.allSettled([...pending, ...outages]);
    await store.close();
    await proxy?.[Symbol.asyncDispose]();
  }
}

/**
 * Runs random steps. Each run has its own data.
 *
 * @param own options of the store.
 */
export async function model(
  harness: ModelHarness,
  numRuns: number,
  own: StoreOptions = {},
): Promise<void> {
  const property = fc.asyncProperty(
    fc.array(steps, { minLength: 20, maxLength: 80 }),
    (steps) => play(harness, steps, place(), own),
  );
  // A failed run reports its steps. Shrinking them would take too long.
  await fc.assert(property, { numRuns, endOnFailure: true });
}

/** Two stores under leases, compared with a model. The clock is moved by the test. */

import { it } from "node:test";
import type { Leases } from "../../src/backend.ts";
import { memoryBackend, MemoryData } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { ManualClock } from "../support/clock.ts";
import { gate } from "../support/scripted.ts";
import { leaseModel, type LeaseWorld, type List } from "../suites/leaseModel.ts";

const ttl = 900_000;

function open(): Promise<LeaseWorld> {
  const clock = new ManualClock();
  const data = new MemoryData();
  /** Until when nothing of a store's leases arrives. */
  const frozen: (Promise<void> | undefined)[] = [];
  const make = (store: number) => {
    const backend = memoryBackend(data, clock.date);
    const { claim, settle, ...others } = backend.leases as Leases<string>;
    const leases: Leases<string> = {
      claim: async (...args) => (await frozen[store], claim(...args)),
      settle: async (...args) => (await frozen[store], settle(...args)),
      ...others,
    };
    return makeStore<List, string>({ ...backend, leases }, { ttl }, clock);
  };
  const stores = [make(0), make(1)] as const;
  return Promise.resolve({
    stores,
    backend: memoryBackend(data, clock.date),
    ttl,
    now: clock.date,
    run: (promise) => clock.run(promise),
    advance: (ms) => clock.advance(ms),
    freeze(store) {
      const { opened, open } = gate();
      frozen[store] = opened;
      return () => {
        frozen[store] = undefined;
        open();
      };
    },
    async [Symbol.asyncDispose]() {
      await clock.run(Promise.all(stores.map((store) => store.close())));
    },
  });
}

it("stores under leases behave like their model", () =>
  leaseModel(open, { numRuns: 80, hasClock: true }));

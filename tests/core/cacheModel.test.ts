/**
 * Three processes on one database, two with `cache` and one with `update()`, of which each is stopped at
 * random moments, as by SIGSTOP, while requests take a random time and fail at random. Every update that was
 * acknowledged is there, and has read all that came before it.
 */

import assert from "node:assert/strict";
import { it } from "node:test";
import fc from "fast-check";
import type { Store } from "../../mod.ts";
import type { Clock } from "../../src/store/clock.ts";
import type { Backend } from "../../src/backend.ts";
import { SharedBackend } from "../../src/store/shared.ts";
import { makeStore } from "../../src/store/store.ts";
import type { ManualClock } from "../support/clock.ts";
import { gate, Script, Transient } from "../support/scripted.ts";

/** The names of the updates, each with the number of those that it has read. */
type List = (readonly [name: string, read: number])[];

/** A process. It is the test that stops it. */
class Process {
  readonly #clock: ManualClock;
  readonly #backend: Backend;
  readonly store: Store<List>;
  /** Resolves when it may go on, if it is stopped. */
  #stopped: ReturnType<typeof gate> | undefined;
  /** The keys of updates in progress. */
  readonly busy = new Set<string>();

  constructor(script: Script, options: { cache?: boolean }, random: () => number) {
    this.#clock = script.clock;
    const clock: Clock = {
      now: this.#clock.now,
      date: this.#clock.date,
      setTimeout: (callback, delay) =>
        this.#clock.setTimeout(() => void this.goesOn().then(callback), delay),
      clearTimeout: (timer) => this.#clock.clearTimeout(timer),
    };
    script.before = async () => {
      await this.#clock.wait(random() * 600);
      if (random() < 0.1) throw new Transient("lost");
    };
    // Replies wait until the process reads them.
    const reply = (work: unknown) =>
      typeof work === "function"
        ? async (...args: unknown[]) => {
          const result = await work(...args);
          await this.#clock.wait(random() * 600);
          await this.goesOn();
          if (random() < 0.05) throw new Transient("the answer got lost");
          return result;
        }
        : work;
    const replies = (object: object): object =>
      Object.fromEntries(
        Object.entries(object).map(([name, work]) => [
          name,
          name === "transient" ? work : reply(work),
        ]),
      );
    const { leases, codec, ...others } = script.backend;
    this.#backend = { ...replies(others), codec, leases: replies(leases as object) } as Backend;
    this.store = makeStore(this.#backend, { ...options, timeout: 20_000 }, clock);
  }

  /** Whether it has the lease of all sessions since a while. */
  get isCaching(): boolean {
    return SharedBackend.of(this.#backend)?.queue.cache !== undefined;
  }

  /** Resolves when the process is not stopped. */
  async goesOn(): Promise<void> {
    while (this.#stopped !== undefined) await this.#stopped.opened;
  }

  stop(): () => void {
    const { opened, open } = gate();
    const before = this.#stopped;
    this.#stopped = { opened, open };
    return () => {
      if (this.#stopped?.open === open) this.#stopped = undefined;
      before?.open();
      open();
    };
  }
}

type Step =
  | { readonly do: "update"; readonly process: number; readonly key: string; readonly ms: number }
  | { readonly do: "stop"; readonly process: number; readonly ms: number }
  | { readonly do: "pass"; readonly ms: number };

const process = fc.nat(2);
const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("update" as const),
      process,
      key: fc.constantFrom("a", "b"),
      ms: fc.constantFrom(0, 100, 3_000),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("stop" as const),
      process,
      ms: fc.constantFrom(1_000, 6_000, 12_000, 30_000),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("pass" as const),
      ms: fc.constantFrom(10, 1_000, 4_000, 12_000),
    }),
  },
);

interface Counts {
  acknowledged: number;
  refused: number;
  cached: number;
}

async function play(steps: Step[], seed: number, counts: Counts): Promise<void> {
  let state = seed;
  const random = () => (state = Math.imul(state, 1_103_515_245) + 12_345 & 0x7fffffff) / 2 ** 31;
  const script = new Script();
  const { clock } = script;
  const scripts = [script, new Script({}, script), new Script({}, script)];
  const processes = scripts.map((it, i) => new Process(it, i < 2 ? { cache: true } : {}, random));
  const acknowledged = new Map<string, string[]>([["a", []], ["b", []]]);
  const pending: Promise<void>[] = [];
  let count = 0;

  async function update({ process, key, ms }: Step & { do: "update" }): Promise<void> {
    const it = processes[process]!;
    if (it.busy.has(key)) return;
    it.busy.add(key);
    const name = `${process}.${count++}`;
    const append = async (list: List = []) => {
      const read = list.length;
      if (ms > 0) await clock.wait(ms);
      await it.goesOn();
      list.push([name, read]);
      return list;
    };
    try {
      await it.goesOn();
      const { calls } = scripts[process]!;
      const reads = calls.length;
      if (process === 2) await it.store.update(key, append);
      else {
        // Before that, changes under leases overlap as with a store without the option.
        if (!it.isCaching) return void await it.store.has(key);
        const list = await it.store.get(key);
        if (calls.length === reads) counts.cached++;
        await it.store.set(key, await append(list));
      }
      acknowledged.get(key)!.push(name);
      counts.acknowledged++;
    } catch (error) {
      assert.match((error as Error).name, /^(Lease|Timeout)Error$/, String(error));
      counts.refused++;
    } finally {
      it.busy.delete(key);
    }
  }

  for (const step of steps) {
    if (step.do === "update") pending.push(update(step));
    else if (step.do === "pass") await clock.advance(step.ms);
    else {
      const goOn = processes[step.process]!.stop();
      clock.setTimeout(goOn, step.ms);
    }
  }
  await clock.advance(60_000);
  await clock.run(Promise.all(pending));
  for (const [key, names] of acknowledged) {
    const { value = "[]" } = script.sessions.get(key) ?? {};
    const list: List = JSON.parse(value);
    const stored = list.map(([name]) => name);
    assert.deepEqual(names.filter((name) => !stored.includes(name)), [], value);
    assert.deepEqual(list.map(([, read]) => read), list.map((_, i) => i));
  }
  scripts.forEach((it) => it.before = () => {});
  await clock.run(Promise.allSettled(processes.map(({ store }) => store.close())));
}

it("processes with and without cache lose no update", async () => {
  const counts: Counts = { acknowledged: 0, refused: 0, cached: 0 };
  const property = fc.asyncProperty(
    fc.array(steps, { minLength: 20, maxLength: 60 }),
    fc.nat(),
    (steps, seed) => play(steps, seed, counts),
  );
  await fc.assert(property, { numRuns: 150, endOnFailure: true });
  // The steps lead to what they are for.
  assert.ok(
    Math.min(counts.acknowledged, counts.refused, counts.cached) > 50,
    JSON.stringify(counts),
  );
});

/**
 * Several processes on one database under `exclusive()` and `update()` lose no update if a process is killed
 * or stopped, if the server is killed, and if the clocks differ. `src/testing/processes.ts` has the suite
 * without faults.
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { Store } from "../../mod.ts";
import type { Update } from "../../src/testing/worker.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { Worker, type WorkerError } from "../support/worker.ts";
import type { ProcessHarness } from "./faults.ts";

/** A server that can be restarted. */
interface Restartable {
  kill(): Promise<void>;
  start(): Promise<void>;
}

/** A chat to which several processes send updates, of which some may fail. */
export class Chat {
  readonly #user: number;
  readonly #processes: Worker[] = [];
  /** The numbers of the updates of each process that were acknowledged. */
  readonly #acknowledged: number[][] = [];
  #sent = 0;
  /** Why updates were not acknowledged. */
  readonly errors: string[] = [];

  constructor(user = 1) {
    this.#user = user;
  }

  /** The key of its session. */
  get key(): string {
    return `${this.#user}:${this.#user}`;
  }

  /** Sends an update to a bot; returns whether it was acknowledged. */
  async send(worker: Worker, bot = "bot", holds = false): Promise<boolean> {
    const acknowledged = this.#of(worker);
    const process = this.#processes.indexOf(worker);
    const number = this.#sent++;
    try {
      await worker.call("send", bot, this.#user, process, number, holds);
    } catch (error) {
      const { name, message } = error as WorkerError;
      const why = `${name}: ${message}`;
      assert.match(why, /^(Lease|Closed)Error: |: the process of the bots ended/);
      this.errors.push(why);
      return false;
    }
    acknowledged.push(number);
    return true;
  }

  /** Sends updates at the same time. */
  burst(worker: Worker, count: number): Promise<boolean[]> {
    return Promise.all(Array.from({ length: count }, () => this.send(worker)));
  }

  /** How many updates of the process were acknowledged. */
  acknowledgedOf(worker: Worker): number {
    return this.#of(worker).length;
  }

  /**
   * Every acknowledged update is there once, and every other one at most once. Each process's updates are
   * in their order, and every update has read all that came before it.
   */
  async check(store: Store<{ list: Update[] }>): Promise<void> {
    const { list } = await store.get(this.key) ?? { list: [] };
    for (const [process, acknowledged] of this.#acknowledged.entries()) {
      const numbers = list.filter(([it]) => it === process).map(([, number]) => number);
      assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b));
      assert.deepEqual(acknowledged.filter((number) => !numbers.includes(number)), []);
    }
    assert.deepEqual(list.map(([, , read]) => read), list.map((_, i) => i));
  }

  #of(worker: Worker): number[] {
    if (!this.#processes.includes(worker)) {
      this.#processes.push(worker);
      this.#acknowledged.push([]);
    }
    return this.#acknowledged[this.#processes.indexOf(worker)]!;
  }
}

/** Runs the suite with two processes. The server is killed, too, if there is one. */
export function exclusivelyUnderFaults(
  harness: ProcessHarness,
  url: () => string,
  server?: () => Restartable,
): void {
  const { name, noLeases: skip = false } = harness;
  describe(`${name} leases of processes under faults`, { skip }, () => {
    let workers: Worker[] = [];
    before(() => {
      workers = [new Worker(harness.backend), new Worker(harness.backend)];
    });
    after(async () => {
      for (const worker of workers) await worker[Symbol.asyncDispose]();
    });

    /** Runs a test with a chat and two processes, each with a bot. */
    function test(
      title: string,
      times: object,
      body: (chat: Chat, a: Worker, b: Worker, scene: Scene) => Promise<void>,
    ): void {
      it(`${name} ${title}`, async () => {
        const options = { ...harness.options(url(), place()), timeout: 300_000 };
        const open = (worker: Worker, bot = "bot", own = times) =>
          worker.call("openExclusive", bot, options, own);
        await Promise.all(workers.map((worker) => open(worker)));
        await using store = harness.store(options);
        const chat = new Chat();
        await body(chat, workers[0]!, workers[1]!, { store, open });
        await chat.check(store);
        await Promise.all(workers.map((worker) => worker.call("close", "bot")));
      });
    }

    const brief = { lease: 1_000 };

    test("refuses the late write of a process that was stopped", brief, async (chat, a, b) => {
      await chat.burst(b, 2);
      const { update } = await hold(chat, a);
      a.signal("SIGSTOP");
      assert.deepEqual(await chat.burst(b, 5), Array(5).fill(true));
      const released = a.call("release"); // the update ends as soon as its process goes on
      a.signal("SIGCONT");
      await released;
      assert.equal(await update, false);
      assert.match(chat.errors[0]!, /^LeaseError: .*: its lease was lost before it was stored/);
      assert.deepEqual(await chat.burst(a, 5), Array(5).fill(true));
    });

    test("goes on after a process was killed in an update", brief, async (chat, a, b, { open }) => {
      await chat.burst(a, 2);
      const { update } = await hold(chat, a);
      const queued = chat.burst(a, 5);
      const others = chat.burst(b, 5);
      a.signal("SIGKILL");
      assert.equal(await update, false);
      assert.deepEqual(await queued, Array(5).fill(false));
      assert.deepEqual(await others, Array(5).fill(true));
      workers[0] = new Worker(harness.backend);
      await open(workers[0]);
      assert.deepEqual(await chat.burst(workers[0], 5), Array(5).fill(true));
    });

    test("loses no update while processes are killed", brief, async (chat, a, b, { open }) => {
      for (let round = 0; round < 3; round++) {
        await using victim = new Worker(harness.backend);
        await open(victim);
        let alive = true;
        const stream = async (worker: Worker) => {
          while (alive) await chat.burst(worker, 3);
        };
        const streams = Promise.all([stream(a), stream(b), stream(victim)]);
        await until(() => Promise.resolve(chat.acknowledgedOf(victim) > 0));
        await wait(50 * Math.random());
        alive = false;
        victim.signal("SIGKILL");
        await streams;
      }
    });

    if (server !== undefined) {
      test("loses no update when the server is killed", brief, async (chat, a, b, { store }) => {
        const { update } = await hold(chat, a);
        const waiting = chat.burst(b, 5);
        const other = new Chat(2);
        let ended = false;
        const stream = async (worker: Worker) => {
          while (!ended) await other.burst(worker, 3);
        };
        const streams = Promise.all([stream(a), stream(b)]);
        const count = () => other.acknowledgedOf(a) + other.acknowledgedOf(b);
        await until(() => Promise.resolve(count() > 0));
        await server().kill();
        const before = count();
        await server().start();
        await until(() => Promise.resolve(count() > before), 300_000);
        ended = true;
        await streams;
        await a.call("release");
        await Promise.all([update, waiting]);
        for (const worker of [a, b]) {
          assert.deepEqual(await chat.burst(worker, 5), Array(5).fill(true));
        }
        await other.check(store);
      });
    }

    if (harness.hostClock) return;
    test(
      "keeps leases although the clocks of the processes differ by two hours",
      {},
      async (chat, a, b, { store, open }) => {
        await a.call("shiftClock", 3_600_000);
        await b.call("shiftClock", -3_600_000);
        for (const [holder, other] of [[a, b], [b, a]] as const) {
          await open(other, "impatient", { wait: 200 });
          const { update } = await hold(chat, holder);
          assert.equal(await chat.send(other, "impatient"), false);
          assert.match(chat.errors.at(-1)!, /^LeaseError: .* holds its lease; waited for 200 ms/);
          await assert.rejects(store.update(chat.key, () => null, { wait: 200 }), {
            name: "LeaseError",
            operation: "lock",
          });
          await holder.call("release");
          assert.equal(await update, true);
          await other.call("close", "impatient");
        }
        const bursts = await Promise.all([a, b].map((worker) => chat.burst(worker, 20)));
        assert.deepEqual(bursts.flat(), Array(40).fill(true));
        for (const worker of [a, b]) await worker.call("shiftClock", 0);
      },
    );
  });
}

/** What else a test needs. */
interface Scene {
  readonly store: Store<{ list: Update[] }>;
  /** Makes a bot. */
  open(worker: Worker, bot?: string, times?: object): Promise<unknown>;
}

/** Sends an update whose handler waits. Returns when it does. */
export async function hold(chat: Chat, worker: Worker): Promise<{ update: Promise<boolean> }> {
  const update = chat.send(worker, "bot", true);
  await until(async () => await worker.call("isHolding") as boolean);
  return { update };
}

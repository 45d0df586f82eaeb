/**
 * Several processes on one database under `exclusive()` and `update()`: no update is lost, each process's
 * updates stay in order, and every update reads what the last one stored.
 */

import assert from "node:assert/strict";
import { it } from "node:test";
import { place } from "../support/servers.ts";
import { Worker } from "../support/worker.ts";
import type { ProcessHarness } from "./faults.ts";

/** An update in the history of a chat: its process and number, and how many updates it read. */
type Update = readonly [process: number, number: number, read: number];

/** Runs the suite with two processes. */
export function exclusively(harness: ProcessHarness, url: () => string): void {
  const { name, noLeases: skip = false } = harness;
  for (const [chats, updates] of [[1, 100], [20, 5]] as const) {
    it(`${name} loses no update of ${chats} chats in two processes`, { skip }, async () => {
      // A slow machine must not make an update fail.
      const options = { ...harness.options(url(), place()), timeout: 300_000 };
      const workers = [0, 1].map(() => new Worker(harness.backend));
      try {
        await Promise.all(workers.map((worker) => worker.call("openExclusive", "bot", options)));
        await Promise.all(
          workers.map((worker, i) => worker.call("append", "bot", i, chats, updates)),
        );
        await using store = harness.store(options);
        for (let user = 1; user <= chats; user++) {
          assertHistory((await store.get(`${user}:${user}`)).list, updates);
        }
        assert.deepEqual(await workers[0]!.call("reported"), []);
        for (const worker of workers) {
          await worker.call("close", "bot");
          await worker.end();
        }
      } finally {
        for (const worker of workers) await worker[Symbol.asyncDispose]();
      }
    });
  }
}

/** Each update is there once, in the order of its process, and has read all that came before it. */
function assertHistory(list: Update[], updates: number): void {
  const numbers = (process: number) => list.filter(([it]) => it === process).map(([, n]) => n);
  const all = Array.from({ length: updates }, (_, i) => i);
  for (const process of [0, 1]) assert.deepEqual(numbers(process), all);
  assert.deepEqual(list.map(([, , read]) => read), list.map((_, i) => i));
}

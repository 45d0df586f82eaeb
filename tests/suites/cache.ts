/**
 * The option `cache` on real databases: an update reads nothing, none is lost, and the lease of all sessions
 * goes from one process to the next, also if the first one dies or is stopped.
 */

import assert from "node:assert/strict";
import { it } from "node:test";
import { makeCounter, message } from "../../src/testing/telegraf.ts";
import { batchesOf, untilCaching } from "../support/batches.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { Worker } from "../support/worker.ts";
import { atOnce, type ProcessHarness } from "./faults.ts";
import { Chat, hold } from "./processes.ts";

/** Runs the tests. */
export function cached(harness: ProcessHarness, url: () => string): void {
  const { name, noLeases: skip = false } = harness;

  it(`${name} with cache reads no session again, and loses no update`, { skip }, async () => {
    const options = { ...harness.options(url(), place()), timeout: 300_000 };
    await using store = harness.store({ ...options, cache: true });
    const users = Array.from({ length: 50 }, (_, i) => i + 1);
    const rounds = 20;
    const bot = makeCounter(store);
    bot.use((ctx) => void (ctx.message && "text" in ctx.message && ctx.session.count++));
    await untilCaching(store);
    await Promise.all(users.map((user) => bot.handleUpdate(message("hi", user))));
    const batches = await batchesOf(async () => {
      for (let round = 1; round < rounds; round++) {
        await Promise.all(users.map((user) => bot.handleUpdate(message("hi", user))));
      }
    });
    assert.deepEqual([...new Set(batches)], ["write"]);
    const reader = makeCounter(store);
    reader.use((ctx) => void ctx.session.count);
    assert.deepEqual(await batchesOf(() => reader.handleUpdate(message("hi", 1))), []);
    await using other = harness.store(options);
    const counts = await Promise.all(users.map((user) => other.get(`${user}:${user}`)));
    assert.deepEqual(counts, users.map(() => ({ count: rounds })));
  });

  atOnce(`${name} with cache in two processes`, {
    [`${name} with cache goes to the next process at SIGTERM`]: () => handOver("SIGTERM"),
    [`${name} with cache goes to the next process after SIGKILL`]: () => handOver("SIGKILL"),
    [`${name} with cache goes to the next process after SIGSTOP`]: () => handOver("SIGSTOP"),
  }, skip);

  /** Sends updates to a bot while the next process waits for its sessions. The signal ends the first one. */
  async function handOver(signal: NodeJS.Signals): Promise<void> {
    const options = { ...harness.options(url(), place()), timeout: 300_000 };
    await using old = new Worker(harness.backend);
    await using young = new Worker(harness.backend);
    const chats = [1, 2, 3].map((user) => new Chat(user));
    const held = new Chat(4);
    const until5 = (worker: Worker) =>
      until(
        () => Promise.resolve(chats.every((chat) => chat.acknowledgedOf(worker) >= 5)),
        300_000,
      );
    const running = new Set([old, young]);
    const stream = (worker: Worker) =>
      Promise.all(chats.map(async (chat) => {
        while (running.has(worker)) await chat.send(worker);
      }));

    await old.call("openList", "bot", { ...options, cache: true });
    await until(async () => {
      const reads = await old.call("reads");
      await Promise.all(chats.map((chat) => chat.send(old)));
      return await old.call("reads") === reads;
    }, 300_000);
    const first = stream(old);
    await until5(old);
    await held.send(old);
    const { update } = await hold(held, old);
    await young.call("openList", "bot", { ...options, cache: true });
    const second = stream(young);
    if (signal === "SIGTERM") await old.call("release");
    if (signal === "SIGSTOP") {
      // A process that is stopped in a transaction of SQLite keeps the lock of the file.
      running.delete(old);
      await first;
    }
    old.signal(signal);
    running.delete(old);
    await until5(young);
    assert.equal(await held.send(young), true);
    if (signal === "SIGSTOP") {
      const released = old.call("release");
      old.signal("SIGCONT");
      await released;
    }
    assert.equal(await update, signal === "SIGTERM");
    running.delete(young);
    await second;
    await young.call("close", "bot");
    await first;
    await using store = harness.store(options);
    for (const chat of [...chats, held]) await chat.check(store);
    if (signal === "SIGSTOP") {
      assert.match(held.errors[0]!, /^LeaseError: .*lease of all sessions/);
      assert.match(`${await old.call("reported")}`, /lease of all sessions was lost.* it went to/);
    }
  }
}

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { memoryBackend } from "../../src/memory.ts";
import { createStore } from "../../src/store/store.ts";
import { makeCounter, message } from "../suites/telegraf.ts";

describe("Telegraf", () => {
  it("works again after a failing read", async () => {
    const memory = memoryBackend();
    let failing = false;
    await using store = createStore<{ count: number }, string>({
      ...memory,
      read(keys, signal) {
        if (failing) throw new Error("no");
        return memory.read(keys, signal);
      },
    });
    const bot = makeCounter(store);
    bot.use((ctx) => void ctx.session.count++);
    await bot.handleUpdate(message());
    failing = true;
    const results = await Promise.allSettled([1, 2, 3].map(() => bot.handleUpdate(message())));
    assert.deepEqual(results.map(({ status }) => status), ["rejected", "rejected", "rejected"]);
    failing = false;
    await Promise.all(Array.from({ length: 20 }, () => bot.handleUpdate(message())));
    await bot.handleUpdate(message());
    assert.deepEqual(await store.get("1:1"), { count: 22 });
  });
});

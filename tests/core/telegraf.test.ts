import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Context, session } from "telegraf";
import { Memory } from "../../mod.ts";
import { memoryBackend } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { makeBot, makeCounter, message } from "../../src/testing/telegraf.ts";

describe("Telegraf", () => {
  it("works again after a failing read", async () => {
    const memory = memoryBackend();
    let failing = false;
    await using store = makeStore<{ count: number }, string>({
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

  for (const exclusive of [false, true]) {
    const title = exclusive ? " under exclusive()" : "";
    it(`an update can delete all sessions of its user${title}, as docs/users.md says`, async () => {
      await using store = Memory<{ count: number }>();
      for (const key of ["1:1", "1:-100", "1:-200", "12:1"]) await store.set(key, { count: 1 });
      const bot = makeBot<Context & { session?: { count: number } }>();
      if (exclusive) bot.use(store.exclusive());
      bot.use(session({ store }));
      bot.command("forget", async (ctx) => {
        assert.deepEqual(ctx.session, { count: 1 });
        ctx.session = undefined;
        await store.clear({ prefix: `${ctx.from.id}:` });
      });
      await bot.handleUpdate(message("/forget"));
      const left: string[] = [];
      for await (const key of store.keys()) left.push(key);
      assert.deepEqual(left, ["12:1"]);
    });
  }
});

/** Reports of `debug` about sessions that change after they were stored. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Context, session } from "telegraf";
import { LateChangeError, Memory, type Store } from "../../mod.ts";
import { document } from "../../src/codec/document.ts";
import { memoryBackend } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { makeBot, message } from "../../src/testing/telegraf.ts";
import { run } from "../support/process.ts";
import { imports } from "../support/programs.ts";
import { settle } from "../support/clock.ts";
import { gate, Script } from "../support/scripted.ts";

interface Session {
  count: number;
  cart: string[];
}

const empty = (): Session => ({ count: 0, cart: [] });

/** A store with `debug` on a manual clock, and its reports. */
async function debugged(script = new Script()) {
  const reports: string[] = [];
  const onError = (error: unknown) => {
    assert.ok(error instanceof LateChangeError);
    assert.equal(error.operation, "write");
    reports.push(error.message);
  };
  const store = script.store({ debug: true, onError }) as Store<Session>;
  await settle(); // it loads what it needs
  return { script, store, reports };
}

/** A bot whose handler is under test, and a function that sends it an update. */
function botWith(store: Store<Session>, handle: (ctx: Context & { session: Session }) => unknown) {
  const bot = makeBot<Context & { session: Session }>();
  bot.use(session({ store, defaultSession: empty }));
  bot.use((ctx) => handle(ctx) as Promise<void>);
  return () => bot.handleUpdate(message("hi", 1));
}

const lost = (what: string, ms: number) =>
  `Cannot write session "1:1": ${what} changed up to ${ms} ms after the update ended; ` +
  "is an await or a return missing?";

describe("debug", () => {
  it("reports a handler without await, when the next update reads", async () => {
    const { script, store, reports } = await debugged();
    const buy = async ({ session }: { session: Session }) => {
      await script.clock.wait(50);
      session.cart.push("tea");
    };
    const send = botWith(store, (ctx) => void buy(ctx));
    await script.clock.run(send());
    await script.clock.advance(1_000);
    assert.deepEqual(reports, []); // another update of the chat could still store it
    await script.clock.run(send());
    assert.deepEqual(reports, [lost("ctx.session.cart", 100)]);
  });

  it("reports a handler with setTimeout", async () => {
    const { script, store, reports } = await debugged();
    const send = botWith(store, (ctx) => {
      const { session } = ctx;
      script.clock.setTimeout(() => session.count++, 5_000);
    });
    await script.clock.run(send());
    await script.clock.advance(100_000); // the user sends nothing more
    assert.deepEqual(reports, [lost("ctx.session.count", 10_000)]);
  });

  it("reports a handler with forEach(async …)", async () => {
    const { script, store, reports } = await debugged();
    const send = botWith(store, ({ session }) => {
      ["tea", "milk"].forEach(async (item) => {
        await script.clock.wait(20);
        session.cart.push(item);
        session.count++;
      });
    });
    for (let i = 0; i < 2; i++) {
      await script.clock.run(send());
      await script.clock.advance(50);
    }
    assert.deepEqual(reports, [lost("ctx.session.count, ctx.session.cart", 30)]);
  });

  it("reports nothing about updates of one chat that overlap", async () => {
    const { script, store, reports } = await debugged();
    const gates = [gate(), gate()];
    const send = botWith(store, async (ctx) => {
      const mine = gates[ctx.session.count++];
      await mine?.opened;
      ctx.session.count++;
    });
    const [first, second] = [send(), send()];
    await script.clock.advance(10);
    gates[0]!.open();
    await script.clock.run(first);
    await script.clock.advance(5_000); // the second one works on the same object
    gates[1]!.open();
    await script.clock.run(second);
    await script.clock.run(send());
    await script.clock.advance(200_000);
    assert.deepEqual(reports, []);
    assert.equal((await script.clock.run(store.get("1:1")))!.count, 6);
  });

  it("reports nothing about sessions that do not change, are gone, or belong to the caller", async () => {
    const { script, store, reports } = await debugged();
    const [same, deleted, replaced] = [empty(), empty(), empty()];
    await script.clock.run(Promise.all([
      store.set("same", same),
      store.set("deleted", deleted),
      store.set("replaced", replaced),
    ]));
    const result = await script.clock.run(store.update("updated", () => empty()));
    result!.count++;
    await script.clock.run(store.delete("deleted"));
    deleted.count++;
    await script.clock.run(store.set("replaced", empty()));
    replaced.count++;
    for await (const _ of store.entries());
    await script.clock.advance(200_000);
    assert.deepEqual(reports, []);
  });

  it("names the values that changed, and none of their content", async () => {
    const { script, store, reports } = await debugged();
    const changing = {
      list: [{ a: 1 }, { a: 2 }],
      users: { "user 1": { age: 1 } } as Record<string, { age: number }>,
      gone: 1 as number | undefined,
      one: 1,
      two: 1,
      three: 1,
    };
    await script.clock.run(store.set("k", changing as unknown as Session));
    changing.list[1]!.a = 3;
    changing.users["user 1"]!.age = 2;
    delete changing.gone;
    changing.one = changing.two = changing.three = 2;
    await script.clock.run(store.get("k"));
    assert.equal(reports.length, 1);
    const names = "ctx.session.list[].a, ctx.session.users.*.age, ctx.session.gone, " +
      "ctx.session.one, ctx.session.two, 1 more changed";
    assert.ok(reports[0]!.includes(names), reports[0]!);
  });

  it("compares documents", async () => {
    const reports: unknown[] = [];
    const backend = { ...memoryBackend(), codec: document } as never;
    const options = { debug: true, onError: (error: unknown) => reports.push(error) };
    const store = makeStore<{ at: Date }, unknown>(backend, options);
    const [late, kept] = [{ at: new Date(1) }, { at: new Date(1) }];
    await store.set("late", late);
    await store.set("kept", kept);
    late.at = new Date(2);
    kept.at = new Date(1);
    await store.get("late");
    await store.get("kept");
    await new Promise((resolve) => setTimeout(resolve));
    assert.deepEqual(reports.map((it) => (it as LateChangeError).paths), [["ctx.session.at"]]);
    await store.close();
  });

  it("keeps no process alive", async () => {
    const referenced = [];
    for (const debug of [false, true]) {
      const script = new Script();
      const store = script.store({ debug });
      await settle();
      await script.clock.run(store.set("k", empty()));
      await settle();
      referenced.push(script.clock.referenced);
    }
    assert.equal(referenced[0], referenced[1]);
  });

  it("is asked for by the environment, and prints each place once without onError", async () => {
    const program = (value: string) => `
      import process from "node:process";
      ${imports}
      process.env.TELEGRAF_SESSION_DEBUG = "${value}";
      const store = makeStore(memoryBackend());
      for (const key of ["a", "b"]) {
        const session = { count: 1 };
        await store.set(key, session);
        session.count++;
        await store.get(key);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
      await store.close();
    `;
    const once =
      /^LateChangeError: Cannot write session "a": ctx\.session\.count changed up to \d+ ms after .*\n$/;
    assert.match((await run(program("1"))).output, once);
    assert.equal((await run(program("0"))).output, "");
  });

  it("is refused if it is not true or false", () => {
    assert.throws(() => Memory({ debug: "yes" as never }), {
      name: "TypeError",
      message: 'Memory: option "debug" must be true or false, but is "yes"',
    });
  });
});

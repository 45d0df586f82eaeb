/**
 * Tests a store under Telegraf's own `session()`. The updates are made by hand, and only the database
 * uses the network. An update that this suite loses is one that users would lose.
 */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import { type Context, Scenes, session, Telegraf } from "telegraf";
import type { Store } from "../store/store.ts";
import type { Harness, Test } from "./harness.ts";

interface Session {
  count: number;
}
interface SessionContext extends Context {
  session: Session;
}

interface WizardContext extends Scenes.WizardContext {
  session: Scenes.WizardContext["session"] & { name?: string };
}

const random = (most: number) => Math.random() * most;

/** How the updates of one chat arrive, and how the bot handles them. */
interface Pattern {
  /** Waits before the update with this number arrives. */
  arrive(update: number): Promise<unknown> | undefined;
  /** Middleware before `session()`. */
  before?(): Promise<unknown>;
  handle(ctx: SessionContext): Promise<unknown>;
}

/** Counts immediately, then waits. */
async function count(ctx: SessionContext): Promise<void> {
  ctx.session.count++;
  await wait(random(20));
}

/** Random arrivals, `gap` ms apart on average. */
function arrivals(gap: number): Pattern {
  return { arrive: () => wait(-Math.log(1 - Math.random()) * gap), handle: count };
}

/** `size` updates at a time, as long polling delivers them. */
function batches(size: number): Pattern {
  return { arrive: (update) => update % size === 0 ? wait(30) : undefined, handle: count };
}

const patterns: Record<string, Pattern> = {
  "arriving at random, 2 ms apart": arrivals(2),
  "arriving at random, 5 ms apart": arrivals(5),
  "arriving at random, 20 ms apart": arrivals(20),
  "in batches of 20": batches(20),
  "in batches of 100": batches(100),
  "behind an async middleware": { ...batches(20), before: () => wait(random(5)) },
  "counted after an await": {
    ...arrivals(3),
    async handle(ctx) {
      await wait(random(5));
      ctx.session.count++;
    },
  },
};

/** A bot that needs no connection to Telegram as long as it sends no answer. */
export function makeBot<C extends Context>(): Telegraf<C> {
  // On a slow machine a thousand updates of one chat take longer than Telegraf's 90 s.
  const bot = new Telegraf<C>("1:token", { handlerTimeout: 1_800_000 });
  bot.botInfo = { id: 1, is_bot: true, first_name: "bot", username: "bot" } as typeof bot.botInfo;
  bot.catch((error) => {
    throw error;
  });
  return bot;
}

/** A bot with a count per user. */
export function makeCounter(store: Store<Session>): Telegraf<SessionContext> {
  const bot = makeBot<SessionContext>();
  bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
  return bot;
}

let lastUpdate = 0;

/** A text message of a user in a private chat. The session has the key "user:user". */
export function message(text = "hi", user = 1) {
  const chat = { id: user, type: "private", first_name: "user" } as const;
  const from = { id: user, is_bot: false, first_name: "user" };
  const entities = text.startsWith("/")
    ? [{ type: "bot_command", offset: 0, length: text.length } as const]
    : [];
  const update_id = ++lastUpdate;
  return { update_id, message: { message_id: update_id, date: 0, chat, from, text, entities } };
}

/** Sends the updates of one user, and resolves when all are handled. */
async function send(
  store: Store<Session>,
  pattern: Pattern,
  user: number,
  updates: number,
): Promise<void> {
  const bot = makeBot<SessionContext>();
  if (pattern.before) bot.use((_ctx, next) => pattern.before!().then(() => next()));
  bot.use(makeCounter(store));
  bot.use((ctx) => pattern.handle(ctx));
  const handled: Promise<void>[] = [];
  for (let i = 0; i < updates; i++) {
    await pattern.arrive(i);
    handled.push(bot.handleUpdate(message("hi", user)));
  }
  await Promise.all(handled);
}

export function telegraf(test: Test, harness: Harness): void {
  const { updates = 1000 } = harness;

  test(`loses none of ${updates} updates of one chat, in any pattern`, async (_, where) => {
    {
      await using store = harness.store(where, { timeout: 300_000 });
      // All patterns run at the same time because they mostly wait. Each has its own user.
      const all = Object.values(patterns);
      await Promise.all(all.map((pattern, user) => send(store, pattern, user, updates)));
    }
    await using store = harness.store(where);
    const titles = Object.keys(patterns);
    const counts = await Promise.all(titles.map((_, user) => store.get(`${user}:${user}`)));
    assert.deepEqual(
      Object.fromEntries(titles.map((title, user) => [title, counts[user]])),
      Object.fromEntries(titles.map((title) => [title, { count: updates }])),
    );
  });

  test("saves the session of a handler that throws", async (store) => {
    const bot = makeCounter(store);
    bot.use((ctx) => {
      ctx.session.count++;
      throw new Error("from the handler");
    });
    await assert.rejects(bot.handleUpdate(message()), /from the handler/);
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  test("deletes the session that a handler sets to undefined", async (store) => {
    await store.set("1:1", { count: 1 });
    const bot = makeCounter(store);
    bot.use((ctx) => {
      (ctx as { session?: Session }).session = undefined;
    });
    await bot.handleUpdate(message());
    assert.equal(await store.get("1:1"), undefined);
  });

  test("keeps 100 chats separate that write at the same time", async (store) => {
    const bot = makeCounter(store);
    bot.use(count);
    const users = Array.from({ length: 100 }, (_, i) => i + 1);
    for (let round = 0; round < 3; round++) {
      await Promise.all(users.map((user) => bot.handleUpdate(message("hi", user))));
    }
    const sessions = await Promise.all(users.map((user) => store.get(`${user}:${user}`)));
    assert.deepEqual(sessions, users.map(() => ({ count: 3 })));
  });

  test("keeps a scene across updates and restarts", async (store) => {
    const start = () => {
      const bot = makeBot<WizardContext>();
      const profile = new Scenes.WizardScene<WizardContext>(
        "profile",
        (ctx) => void ctx.wizard.next(),
        async (ctx) => {
          ctx.session.name = ctx.text;
          await ctx.scene.leave();
        },
      );
      bot.use(session({ store }));
      bot.use(new Scenes.Stage([profile]).middleware());
      bot.command("profile", (ctx) => ctx.scene.enter("profile"));
      return bot;
    };
    await start().handleUpdate(message("/profile"));
    assert.equal((await store.get("1:1")).__scenes.current, "profile");
    await start().handleUpdate(message("Ada"));
    assert.deepEqual(await store.get("1:1"), { __scenes: {}, name: "Ada" });
  });
}

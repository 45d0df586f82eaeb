/**
 * Runs bots in a separate process, which `worker.ts` starts. Reads one call per line of its input
 * and answers each with one line. Any other output is a defect.
 */

import { subscribe } from "node:diagnostics_channel";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { type Context, session } from "telegraf";
import type { Store } from "../../mod.ts";
import { entry } from "./process.ts";
import { makeBot, makeCounter, message } from "../../src/testing/telegraf.ts";

/** How long updates of a storm have waited, in ms. */
const waits: number[] = [];

interface Bot {
  // deno-lint-ignore no-explicit-any
  readonly store: Store<any>;
  readonly handle: (update: ReturnType<typeof message>) => Promise<void>;
}

/** The errors passed to `onError` and `onInitError`. */
const reported: unknown[] = [];
const bots = new Map<string, Bot>();
const [path, factory] = process.argv.slice(2) as [string, string];
const loading = import(fileURLToPath(entry(path, import.meta.url)));

let reads = 0;
subscribe("tracing:telegraf-session:batch:start", (message) => {
  if ((message as { operation: string }).operation === "read") reads++;
});

// As bots do it.
process.once("SIGTERM", async () => {
  for (const { store } of bots.values()) await store.close();
  process.exit();
});

const realNow = Date.now;
/** Ends the wait of a handler, while one waits. */
let release: (() => void) | undefined;

/** All text of an error that a log could show. */
const dump = (error: unknown) => inspect(error, { depth: 9, showHidden: true, breakLength: 120 });

// deno-lint-ignore no-explicit-any
const handlers: Record<string, (...args: any[]) => unknown> = {
  /** Makes a bot that counts the updates of each user. */
  async open(name: string, options: object) {
    const { [factory]: make } = await loading;
    const onError = (error: unknown) => reported.push(error);
    const store = make({ ...options, onError, onInitError: onError });
    const bot = makeCounter(store);
    bot.use((ctx) => void ctx.session.count++);
    bots.set(name, { store, handle: (update) => bot.handleUpdate(update) });
  },

  /** Makes a bot under `exclusive()` that appends to a list in the session of each user. */
  openExclusive: (name: string, options: object, times: object = {}) =>
    openBot(name, options, { list: [] }, append, times),

  /** The same without `exclusive()`. */
  openList: (name: string, options: object) => openBot(name, options, { list: [] }, append),

  /** Sends such an update. If it holds, its handler waits for `release`. */
  send: (name: string, user: number, process: number, number: number, holds: boolean) =>
    bots.get(name)!.handle(message(JSON.stringify([process, number, holds]), user)),
  isHolding: () => release !== undefined,
  release: () => release!(),

  /** Sets the clock of this process forward, or back. */
  shiftClock: (ms: number) => void (Date.now = () => realNow() + ms),

  /** Makes a bot under `exclusive()` that counts updates, and takes `ms` for each. */
  openStorm: (name: string, options: object, ms: number) =>
    openBot(name, options, { count: 0 }, async (session, text) => {
      const { count } = session;
      waits.push(performance.now() - Number(text));
      if (ms > 0) await wait(ms);
      session.count = count + 1;
    }, {}),

  /** Sends updates to chats in turn, all at the same time. */
  async storm(name: string, chats: number, updates: number) {
    const { handle } = bots.get(name)!;
    const one = (_: unknown, i: number) => handle(message(`${performance.now()}`, 1 + i % chats));
    const results = await Promise.allSettled(Array.from({ length: updates }, one));
    const acknowledged = results.filter(({ status }) => status === "fulfilled").length;
    return { acknowledged, errors: results.length - acknowledged, waits };
  },

  /** How many updates are stored. */
  async total(name: string, chats: number) {
    const { store } = bots.get(name)!;
    const keys = Array.from({ length: chats }, (_, i) => `${i + 1}:${i + 1}`);
    const sessions = await Promise.all(keys.map((key) => store.get(key)));
    return sessions.reduce((sum, session) => sum + (session?.count ?? 0), 0);
  },

  /** Passes an update of the user to the bot; returns the new count. */
  async update(name: string, user = 1): Promise<unknown> {
    const { store, handle } = bots.get(name)!;
    await handle(message("hi", user));
    return (await store.get(`${user}:${user}`)).count;
  },

  /** Does the same for one update of each of `users` users, at the same time. */
  updates(name: string, users: number): Promise<unknown> {
    const each = (_: unknown, i: number) => handlers.update!(name, i + 1);
    return Promise.all(Array.from({ length: users }, each));
  },

  get: (name: string, key: string) => bots.get(name)!.store.get(key),
  set: (name: string, key: string, value: unknown) => bots.get(name)!.store.set(key, value),

  /** How often sessions were read from the database. */
  reads: () => reads,

  /** The reported errors, as a log could show them. */
  reported: () => reported.map(dump),

  /**
   * Runs random operations on random keys, one or several at the same time, for `duration` ms.
   *
   * @returns the last change of each key.
   */
  async hammer(name: string, who: number, keys: string[], duration: number) {
    const { store } = bots.get(name)!;
    const last: Record<string, string | null> = {};
    const random = (most: number) => Math.floor(Math.random() * most);
    let count = 0;
    async function one(key: string): Promise<void> {
      const kind = random(10);
      if (kind < 4) {
        const session = await store.get(key);
        if (session !== undefined && session.text !== filling(session)) {
          throw new Error(`${key} is corrupt: ${JSON.stringify(session).slice(0, 200)}`);
        }
      } else if (kind < 9) {
        const session = { who, count: count++, text: "" };
        session.text = filling(session);
        last[key] = `${who}:${session.count}`;
        await store.set(key, session);
      } else {
        last[key] = null;
        await store.delete(key);
      }
    }
    for (const end = Date.now() + duration; Date.now() < end;) {
      // In a random order, so that each process uses a different one.
      const batch = [...keys].sort(() => Math.random() - 0.5).slice(0, 1 + random(keys.length));
      await Promise.all(batch.map(one));
      if (random(10) === 0) await wait(1);
    }
    return last;
  },

  close: async (name: string) => {
    await bots.get(name)!.store.close();
    bots.delete(name);
  },
};

/** Waits for `release`. */
async function hold(): Promise<void> {
  await new Promise<void>((resolve) => release = resolve);
  release = undefined;
}

/** Appends an update to the list in a session. */
async function append({ list }: { list: unknown[] }, text: string): Promise<void> {
  const [process, number, holds] = JSON.parse(text);
  const read = list.length;
  await (holds ? hold() : wait(Math.random() * 2));
  list.push([process, number, read]);
}

/**
 * Makes a bot. Its handler gets the session and the text of each message.
 *
 * @param times options of `exclusive()`; without it if they are absent.
 */
async function openBot<Session extends object>(
  name: string,
  options: object,
  first: Session,
  handle: (session: Session, text: string) => Promise<void>,
  times?: object,
): Promise<void> {
  const { [factory]: make } = await loading;
  const store = make({ ...options, onError: (error: unknown) => reported.push(error) });
  const bot = makeBot<Context & { session: Session }>();
  if (times !== undefined) bot.use(store.exclusive({ wait: 600_000, ...times }));
  bot.use(session({ store, defaultSession: () => structuredClone(first) }));
  bot.use((ctx) => handle(ctx.session, (ctx.message as { text: string }).text));
  bots.set(name, { store, handle: (update) => bot.handleUpdate(update) });
}

/** A text that shows whether a session is complete. */
function filling({ who, count }: { who: number; count: number }): string {
  return `${who}:${count} `.repeat(1 + (count % 97) * 3);
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, call, args } = JSON.parse(line);
  const work = async () => await handlers[call]!(...args);
  work().then(
    (result) => console.log(JSON.stringify({ id, result: result ?? null })),
    (error) => {
      const { name, message } = error;
      console.log(JSON.stringify({ id, error: { name, message, dump: dump(error) } }));
    },
  );
});

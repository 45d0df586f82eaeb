/**
 * Bots in a process of their own, started by `worker.ts`: takes one call per line of its input and
 * answers each with a line. Anything else that it prints is somebody's fault.
 */

import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import type { Store } from "../../mod.ts";
import { entry } from "./process.ts";
import { makeCounter, message } from "../suites/telegraf.ts";

interface Bot {
  // deno-lint-ignore no-explicit-any
  readonly store: Store<any>;
  readonly handle: (update: ReturnType<typeof message>) => Promise<void>;
}

/** What `onError` and `onInitError` got. */
const reported: unknown[] = [];
const bots = new Map<string, Bot>();
const [path, factory] = process.argv.slice(2) as [string, string];
const loading = import(fileURLToPath(entry(path, import.meta.url)));

/** All of an error that a log could show. */
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

  /** Hands an update of the user to the bot; what the bot then counts. */
  async update(name: string, user = 1): Promise<unknown> {
    const { store, handle } = bots.get(name)!;
    await handle(message("hi", user));
    return (await store.get(`${user}:${user}`)).count;
  },

  /** The same with updates of so many users at once. */
  updates(name: string, users: number): Promise<unknown> {
    const each = (_: unknown, i: number) => handlers.update!(name, i + 1);
    return Promise.all(Array.from({ length: users }, each));
  },

  get: (name: string, key: string) => bots.get(name)!.store.get(key),
  set: (name: string, key: string, value: unknown) => bots.get(name)!.store.set(key, value),

  /** What all errors in the background show in a log. */
  reported: () => reported.map(dump),

  /**
   * Works on some keys at random, alone and many at once, for so many ms.
   *
   * @returns what it did last with each key.
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
      // In an order of its own, with all others in another one.
      const some = [...keys].sort(() => Math.random() - 0.5).slice(0, 1 + random(keys.length));
      await Promise.all(some.map(one));
      if (random(10) === 0) await wait(1);
    }
    return last;
  },

  close: async (name: string) => {
    await bots.get(name)!.store.close();
    bots.delete(name);
  },
};

/** A text that tells whether a session is whole. */
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

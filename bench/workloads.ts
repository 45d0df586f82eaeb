/** The workloads of the benchmark. */

import { type Context, type Middleware, session, Telegraf } from "telegraf";
import { MemorySessionStore } from "telegraf/session";
import type { Session, Store } from "./contenders.ts";

export interface Workload {
  /** Its name on the command line. */
  name: string;
  title: string;
  /** Updates (a get and a set) or sets in one call of the function that `prepare` returns. */
  count: number;
  /** Number of sessions that are stored before. */
  keys: number;
  prepare(store: Store | undefined, size: number): () => Promise<unknown>;
}

/** Each set writes a new value, because SQLite does not write an unchanged page. */
let values = 0;

/** A session of about `size` bytes as JSON. */
export function makeSession(size: number): Session {
  const made: Session = { count: 0, value: ++values, language: "en", items: [] };
  const item = (id: number) => ({ id, name: `Item "${id}" for the cart`, amount: id % 7 });
  const room = size - JSON.stringify(made).length - 20;
  for (let id = 100, used = 0;; id++) {
    used += JSON.stringify(item(id)).length + 1;
    if (used > room) break;
    made.items.push(item(id));
  }
  return made;
}

export const key = (i: number): string => `${1_000_000_000 + i}:${1_000_000_000 + i}`;

/** Stores one session per key, `at` sessions at the same time. */
export async function fill(store: Store, keys: number, size: number, at = 50): Promise<void> {
  for (let i = 0; i < keys; i += at) {
    const batch = Array.from({ length: Math.min(at, keys - i) }, (_, j) => key(i + j));
    await Promise.all(batch.map((key) => store.set(key, makeSession(size))));
  }
}

/** One update of a bot. */
export async function update(store: Store, key: string): Promise<void> {
  const session = await store.get(key);
  session.count++;
  session.value = ++values;
  await store.set(key, session);
}

const chats = Array.from({ length: 100 }, (_, i) => key(i));

interface CountContext extends Context {
  session: { count: number };
}

/** Middleware that counts the updates of a chat in its session. */
export function counter(store: Store, size: number): Middleware<CountContext>[] {
  const first = () => makeSession(size);
  return [session({ store, defaultSession: first }), (ctx) => void ctx.session.count++];
}

/** Returns a function that sends an update of a user to a new bot. */
export function makeBot(
  ...middleware: Middleware<CountContext>[]
): (user: number) => Promise<void> {
  const bot = new Telegraf<CountContext>("1:token");
  bot.botInfo = { id: 1, is_bot: true, first_name: "Bot", username: "bot" } as never;
  bot.use(...middleware);
  let id = 0;
  const date = Math.floor(Date.now() / 1000);
  return (user) => {
    const from = { id: 1_000_000_000 + user, is_bot: false, first_name: "User" };
    const chat = { ...from, type: "private" as const };
    const message = { message_id: ++id, date, chat, from, text: "Hello" };
    return bot.handleUpdate({ update_id: id, message } as never);
  };
}

export const workloads: Workload[] = [
  {
    name: "one",
    title: "one update at a time",
    count: 1,
    keys: 1,
    prepare: (store) => () => update(store!, key(0)),
  },
  {
    name: "burst",
    title: "bursts of 100 chats",
    count: 100,
    keys: 100,
    prepare: (store) => async () => {
      const sessions = await Promise.all(chats.map((key) => store!.get(key)));
      await Promise.all(chats.map((key, i) => {
        sessions[i].count++;
        sessions[i].value = ++values;
        return store!.set(key, sessions[i]);
      }));
    },
  },
  {
    name: "loops",
    title: "200 loops, random chats",
    count: 1000,
    keys: 1000,
    prepare: (store) => async () => {
      await Promise.all(Array.from({ length: 200 }, async () => {
        for (let i = 0; i < 5; i++) await update(store!, key(Math.floor(Math.random() * 1000)));
      }));
    },
  },
  {
    name: "same",
    title: "50 sets of one key at the same time",
    count: 50,
    keys: 1,
    prepare(store, size) {
      const session = makeSession(size);
      return () =>
        Promise.all(Array.from({ length: 50 }, () => {
          return store!.set(key(0), { ...session, value: ++values });
        }));
    },
  },
  {
    name: "unchanged",
    title: "session only read",
    count: 1,
    keys: 1,
    prepare: (store) => async () => store!.set(key(0), await store!.get(key(0))),
  },
  {
    name: "bot",
    title: "whole bot, bursts of 100 chats",
    count: 100,
    keys: 100,
    prepare(store, size) {
      const handlers = store === undefined ? [() => {}] : counter(store, size);
      const send = makeBot(...handlers);
      return () => Promise.all(chats.map((_, i) => send(i)));
    },
  },
];

/** Bots without a database, for comparison. */
export const botOnly: { name: string; open(): Store | undefined }[] = [
  {
    name: "Telegraf in memory",
    open() {
      const store = new MemorySessionStore<Session>();
      return {
        get: (key) => store.get(key),
        set: (key, session) => store.set(key, session),
        delete: (key) => store.delete(key),
        close() {},
      };
    },
  },
  { name: "no session", open: () => undefined },
];

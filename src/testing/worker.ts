/** What a process of the suite does with its store. `processes.ts` starts it. */

import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { type Context, session } from "telegraf";
import type { Store } from "../store/store.ts";
import { makeBot, message } from "./telegraf.ts";

/** An update in the history of a chat: its process and number, and how many updates it found there. */
export type Update = readonly [process: number, number: number, found: number];

/** What the session of a chat has. */
export interface History {
  readonly list: Update[];
}

/** What a process does: `updates` for each of several chats. */
export interface Work {
  /** Its number. */
  readonly process: number;
  readonly chats: number;
  readonly updates: number;
}

/** How long an update waits for its lease. A slow machine must not make it fail. */
const patience = 600_000;

/** Sends the updates, all at the same time. Every fifth one is a call of `update()` instead. */
async function send(store: Store<History>, { process, chats, updates }: Work): Promise<void> {
  const bot = makeBot<Context & { session: History }>();
  bot.use(store.exclusive({ wait: patience }));
  bot.use(session({ store, defaultSession: () => ({ list: [] }) }));
  bot.use(async (ctx) => {
    const { list } = ctx.session;
    const found = list.length;
    await wait(Math.random() * 2);
    list.push([process, Number(ctx.text), found]);
  });
  const change = (number: number) => async ({ list }: History = { list: [] }) => {
    await wait(Math.random() * 2);
    return { list: [...list, [process, number, list.length] as const] };
  };
  const all: Promise<unknown>[] = [];
  for (let number = 0; number < updates; number++) {
    for (let user = 1; user <= chats; user++) {
      all.push(
        number % 5 < 4
          ? bot.handleUpdate(message(`${number}`, user))
          : store.update(`${user}:${user}`, change(number), { wait: patience }),
      );
    }
  }
  await Promise.all(all);
}

/**
 * Runs the updates of one process of the suite: the whole program of `worker` in the options of
 * `conformance()`. Closes the store.
 *
 * @param store on the place that `worker` got, which it passes on as an argument.
 *
 * @example
 * ```ts
 * import process from "node:process";
 * import { runUpdates } from "@telegraf/session/testing";
 * import { openStore } from "./store.ts";
 *
 * await runUpdates(openStore(process.argv[2]));
 * ```
 */
// deno-lint-ignore no-explicit-any
export async function runUpdates(store: Store<any>): Promise<void> {
  await store.ready();
  const input = createInterface({ input: process.stdin });
  console.log("ready");
  const [work] = await once(input, "line");
  input.close();
  await send(store, JSON.parse(work));
  await store.close();
}

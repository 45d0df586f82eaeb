/** Measures what `exclusive()` costs: one bot with it and one without, on the same store. */

import { type Context, session, Telegraf } from "telegraf";
import type { Store } from "../mod.ts";
import type { Contender, Session } from "./contenders.ts";
import { compare, type Effort, measure, type Result } from "./runner.ts";
import { tableName } from "./throughput.ts";
import { makeSession } from "./workloads.ts";

/** The users of the updates that are sent at the same time. */
const workloads: Record<string, number[]> = {
  "one update at a time": [1],
  "bursts of 100 chats": Array.from({ length: 100 }, (_, i) => i),
  "bursts of 100 updates of one chat": Array(100).fill(1),
};

const without = "without";

/** Measures both bots in each workload, with sessions of 300 bytes. */
export async function exclusive(
  url: string,
  { open }: Contender,
  effort: Effort,
): Promise<Record<string, Result[]>> {
  const store = await open(url, tableName()) as unknown as Store<Session>;
  const bots = { [without]: makeBot(store, false), "with exclusive()": makeBot(store, true) };
  const results: Record<string, Result[]> = {};
  try {
    for (const [title, users] of Object.entries(workloads)) {
      const tasks = Object.entries(bots).map(([name, send]) => ({
        name,
        run: () => Promise.all(users.map(send)),
      }));
      results[title] = compare(await measure(tasks, users.length, effort), [without]);
    }
  } finally {
    await store.close();
  }
  return results;
}

/** Returns a function that sends an update of a user to a bot that counts. */
function makeBot(store: Store<Session>, isExclusive: boolean): (user: number) => Promise<void> {
  const bot = new Telegraf<Context & { session: Session }>("1:token");
  bot.botInfo = { id: 1, is_bot: true, first_name: "Bot", username: "bot" } as never;
  if (isExclusive) bot.use(store.exclusive());
  bot.use(session({ store, defaultSession: () => makeSession(300) }));
  bot.use((ctx) => void ctx.session.count++);
  let id = 0;
  return (user) => {
    const from = { id: user, is_bot: false, first_name: "User" };
    const chat = { ...from, type: "private" };
    const message = { message_id: ++id, date: 0, chat, from, text: "Hello" };
    return bot.handleUpdate({ update_id: id, message } as never);
  };
}

/** Measures what `exclusive()` costs: one bot with it and one without, on the same store. */

import type { Store } from "../mod.ts";
import type { Contender, Session } from "./contenders.ts";
import { compare, type Effort, measure, type Result } from "./runner.ts";
import { tableName } from "./throughput.ts";
import { counter, makeBot } from "./workloads.ts";

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
  const count = counter(store, 300);
  const bots = {
    [without]: makeBot(...count),
    "with exclusive()": makeBot(store.exclusive(), ...count),
  };
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

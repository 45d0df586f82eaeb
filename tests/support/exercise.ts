/** Operations that must work with every kind of Redis client. */

import assert from "node:assert/strict";
import type { Store } from "../../mod.ts";
import { assertLists } from "../../src/testing/harness.ts";

export const chats = Array.from({ length: 100 }, (_, i) => `chat:${i}`);

/** Counts in 100 sessions from two stores at the same time. */
// deno-lint-ignore no-explicit-any
export async function exerciseLeases(...stores: Store<any>[]): Promise<void> {
  const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });
  await Promise.all(
    stores.flatMap((store) => [...chats, ...chats].map((chat) => store.update(chat, count))),
  );
  const [store] = stores;
  const sessions = await Promise.all(chats.map((chat) => store!.get(chat)));
  assert.deepEqual(sessions, chats.map(() => ({ n: 2 * stores.length })));
  await assertLists(store!, chats);
  await Promise.all(chats.map((chat) => store!.update(chat, () => null)));
  assert.equal(await store!.size(), 0);
}

/** Sets, reads and deletes 100 sessions at the same time. */
// deno-lint-ignore no-explicit-any
export async function exercise(store: Store<any>): Promise<void> {
  await Promise.all(chats.map((chat, i) => store.set(chat, { i })));
  const sessions = await Promise.all(chats.map((chat) => store.get(chat)));
  assert.deepEqual(sessions, chats.map((_, i) => ({ i })));
  await store.set("one", { a: 1 });
  assert.deepEqual(await store.get("one"), { a: 1 });
  await Promise.all([...chats, "one"].map((chat) => store.delete(chat)));
  const gone = await Promise.all(chats.map((chat) => store.get(chat)));
  assert.deepEqual(gone, chats.map(() => undefined));
}

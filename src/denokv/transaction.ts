/**
 * Transactions: reads, and an atomic operation that is applied only if what was read has not changed.
 *
 * @module
 */

import type { MaybePromise } from "../backend.ts";
import type { Atomic, Key, Kv, KvEntry } from "./driver.ts";

/** How many keys `getMany` takes, and how many checks an atomic operation. Deno itself takes more checks. */
const most = 10;

/** About how many bytes an atomic operation may set. The limit is 819200. */
const mostBytes = 700_000;

/** The checks and changes of an atomic operation. */
export class Transaction {
  readonly #steps: ((atomic: Atomic) => void)[] = [];
  #changes = false;
  #bytes = 0;

  /** Requires that a key still has a versionstamp; `null` if it must be missing. */
  check(key: Key, versionstamp: string | null): void {
    this.#steps.push((atomic) => atomic.check({ key, versionstamp }));
  }

  /** @param expires when the database may delete the value, in ms since the epoch. */
  set(key: Key, value: Uint8Array, expires?: number): void {
    this.#changes = true;
    this.#bytes += value.length;
    this.#steps.push((atomic) => {
      const options = expires === undefined ? {} : { expireIn: Math.max(1, expires - Date.now()) };
      atomic.set(key, value, options);
    });
  }

  delete(key: Key): void {
    this.#changes = true;
    this.#steps.push((atomic) => atomic.delete(key));
  }

  /** Applies the changes. Returns false if a check failed, or if there are too many bytes. */
  async commit(kv: Kv, signal: AbortSignal): Promise<boolean> {
    if (!this.#changes) return true;
    if (this.#bytes > mostBytes) return false;
    signal.throwIfAborted();
    const atomic = kv.atomic();
    for (const step of this.#steps) step(atomic);
    return (await atomic.commit()).ok;
  }
}

/** Reads and changes the keys of an item. */
export interface Step<Item, Result> {
  /** The keys that it reads, the same number for each item. */
  keys(item: Item): Key[];
  /** Adds checks and changes to a transaction. May be called again if a check fails. */
  run(item: Item, found: KvEntry[], transaction: Transaction): MaybePromise<Result>;
  /** Called when the database has the changes. */
  done?(item: Item, result: Result): void;
}

/** Takes a step for each item. A few of them share a transaction, unless one of their checks fails. */
export function transact<Item, Result>(
  kv: Kv,
  items: Item[],
  signal: AbortSignal,
  step: Step<Item, Result>,
): Promise<Result[]> {
  const attempt = async (group: Item[]): Promise<Result[]> => {
    for (;;) {
      signal.throwIfAborted();
      const keys = group.map((item) => step.keys(item));
      const found = await kv.getMany(keys.flat());
      const transaction = new Transaction();
      const results: Result[] = [];
      for (const [i, item] of group.entries()) {
        results.push(await step.run(item, found.splice(0, keys[i]!.length), transaction));
      }
      if (await transaction.commit(kv, signal)) {
        group.forEach((item, i) => step.done?.(item, results[i]!));
        return results;
      }
      if (group.length > 1) return inGroups(group, attempt, 1);
    }
  };
  const size = items.length === 0 ? 1 : Math.floor(most / step.keys(items[0]!).length);
  return inGroups(items, attempt, size);
}

/** Works on groups of items at the same time. After an error waits until no work is in progress any more. */
export async function inGroups<Item, Result>(
  items: readonly Item[],
  work: (group: Item[]) => Promise<Result[]>,
  size: number = most,
): Promise<Result[]> {
  const groups: Item[][] = [];
  for (let i = 0; i < items.length; i += size) groups.push(items.slice(i, i + size));
  if (groups.length === 1) return work(groups[0]!);
  // A retry must not be overtaken by a call that was made before.
  const results = await Promise.allSettled(groups.map(work));
  return results.flatMap((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}

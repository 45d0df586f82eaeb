/**
 * The commands on sessions.
 *
 * @module
 */

import type { Entry, Page, Replacement } from "../backend.ts";
import type { Database, KvEntry } from "./driver.ts";
import { encode, headerOf, load, put, sessionKey, type Stored } from "./records.ts";
import { inGroups, transact, Transaction } from "./transaction.ts";

/** The most entries of a page: each one is read with its value. */
const longestPage = 100;

/** Reads and writes the sessions under a prefix. */
export class Commands {
  readonly #database: Database;
  readonly #prefix: string;

  constructor(database: Database, prefix: string) {
    this.#database = database;
    this.#prefix = prefix;
  }

  read(keys: string[]): Promise<Entry<string>[]> {
    const { kv } = this.#database;
    return inGroups(keys, async (group) => {
      const heads = await kv.getMany(group.map((key) => sessionKey(this.#prefix, key)));
      const stored = heads.map((head, i) => load(kv, this.#prefix, group[i]!, head));
      return (await Promise.all(stored)).flatMap((it) => it?.entry ?? []);
    });
  }

  /** @throws {TooLargeError} if a session is too large. Nothing is stored then. */
  async write(entries: Entry<string>[], signal: AbortSignal): Promise<void> {
    await this.#put(entries.map((entry) => ({ key: entry.key, entry })), signal);
  }

  async remove(keys: string[], signal: AbortSignal): Promise<void> {
    await this.#put(keys.map((key) => ({ key, entry: null })), signal);
  }

  async replace(replacements: Replacement<string>[], signal: AbortSignal): Promise<void> {
    await this.#change(
      replacements,
      signal,
      ({ before, after }, entry) => entry.value === before ? { ...entry, value: after } : undefined,
    );
  }

  async renew(keys: string[], expires: number, signal: AbortSignal): Promise<void> {
    const items = keys.map((key) => ({ key }));
    await this.#change(items, signal, (_, entry) => ({ ...entry, expires }));
  }

  /** Up to `size` entries, ascending in bytes of their keys. The cursor is the last key. */
  async page(start: string | undefined, size: number, prefix = ""): Promise<Page> {
    const limit = Math.min(size, longestPage);
    const found = await this.list("session", start, limit, prefix);
    const entries = found.map(({ key, value }) => ({
      key: String(key[2]),
      expires: headerOf(value).expires,
    })).filter(({ key }) => key.startsWith(prefix));
    return { entries, next: entries.length < limit ? undefined : entries.at(-1)!.key };
  }

  /** Up to `limit` entries of a kind, after the key `start`, or from the first key with `prefix`. */
  async list(
    kind: "session" | "lease",
    start: string | undefined,
    limit: number,
    prefix = "",
  ): Promise<KvEntry[]> {
    const all = [this.#prefix, kind];
    // No key has NUL, so this is the first key after `start`.
    const from = [...all, start === undefined ? prefix : `${start}\0`];
    const found: KvEntry[] = [];
    const list = this.#database.kv.list({ prefix: all, start: from }, { limit });
    for await (const entry of list) found.push(entry);
    return found;
  }

  /** Stores or deletes. */
  async #put(
    changes: { readonly key: string; readonly entry: Entry<string> | null }[],
    signal: AbortSignal,
  ): Promise<void> {
    const values = new Map(
      changes.map(({ key, entry }) => [key, entry === null ? [] : encode(entry)]),
    );
    await this.#database.change(signal, (kv) =>
      inGroups(changes, async (group) => {
        if (group.every(({ key }) => values.get(key)!.length <= 1)) {
          // Nothing is read if the old sessions have one piece, too.
          const transaction = new Transaction();
          for (const { key, entry } of group) {
            transaction.check(sessionKey(this.#prefix, key, 1), null);
            const [value] = values.get(key)!;
            const name = sessionKey(this.#prefix, key);
            if (value === undefined) transaction.delete(name);
            else transaction.set(name, value, entry?.expires);
          }
          if (await transaction.commit(kv, signal)) return [];
        }
        return await transact(kv, group, signal, {
          keys: ({ key }) => [sessionKey(this.#prefix, key)],
          run: ({ key, entry }, [head], transaction) =>
            put(transaction, this.#prefix, key, head!, entry),
        });
      }));
  }

  /** Changes sessions that exist. */
  async #change<Item extends { readonly key: string }>(
    items: Item[],
    signal: AbortSignal,
    change: (item: Item, entry: Stored["entry"]) => Entry<string> | undefined,
  ): Promise<void> {
    await this.#database.change(signal, (kv) =>
      transact(kv, items, signal, {
        keys: ({ key }) => [sessionKey(this.#prefix, key)],
        run: async (item, [head], transaction) => {
          const stored = await load(kv, this.#prefix, item.key, head!);
          const changed = stored && change(item, stored.entry);
          if (changed) put(transaction, this.#prefix, item.key, stored.head, changed);
        },
      }));
  }
}

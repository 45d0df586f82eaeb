/**
 * The sessions that this process has read or written lately.
 *
 * @module
 */

import type { CacheOptions } from "../options.ts";
import type { Content, Known } from "../store/queue.ts";

/** What is stored under a key, as far as this process knows. */
interface Item<Encoded> {
  /** `undefined` if there is no session, which is worth keeping too. */
  readonly content: Content<Encoded>;
  readonly bytes: number;
  /** When it was read or written, in ms of the clock's `now()`. */
  readonly since: number;
}

/** Values of options that are not given. */
const defaults = { entries: 10_000, bytes: 64_000_000, age: Infinity };

/** About how many bytes an entry needs beside its key and value. */
const overhead = 200;

/** What the entries need from outside. */
interface Parts<Encoded> {
  /** The clock's `now()`. */
  now(): number;
  /** Whether no other process can have changed the sessions. */
  isUsable(): boolean;
  /** About how many bytes a value has. */
  sizeOf(value: Encoded): number;
}

/** Entries by key. The least recently used ones give way to new ones. */
export class CachedEntries<Encoded> implements Known<Encoded> {
  readonly #limits: Required<{ [Name in keyof CacheOptions]: number }>;
  readonly #parts: Parts<Encoded>;
  /** The least recently used one first. */
  readonly #items = new Map<string, Item<Encoded>>();
  #bytes = 0;

  constructor({ entries, bytes, age }: CacheOptions, parts: Parts<Encoded>) {
    this.#limits = {
      entries: entries ?? defaults.entries,
      bytes: bytes ?? defaults.bytes,
      age: age ?? defaults.age,
    };
    this.#parts = parts;
  }

  get(key: string): Item<Encoded> | undefined {
    const item = this.#items.get(key);
    if (item === undefined || !this.#parts.isUsable()) return undefined;
    if (this.#parts.now() - item.since >= this.#limits.age) {
      this.delete(key);
      return undefined;
    }
    this.#items.delete(key);
    this.#items.set(key, item);
    return item;
  }

  put(key: string, content: Content<Encoded>): void {
    this.delete(key);
    const size = content === undefined ? 0 : this.#parts.sizeOf(content.value);
    const bytes = overhead + key.length + size;
    if (bytes > this.#limits.bytes) return;
    this.#items.set(key, { content, bytes, since: this.#parts.now() });
    this.#bytes += bytes;
    const { entries, bytes: most } = this.#limits;
    for (const oldest of this.#items.keys()) {
      if (this.#items.size <= entries && this.#bytes <= most) break;
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    const item = this.#items.get(key);
    if (item === undefined) return;
    this.#items.delete(key);
    this.#bytes -= item.bytes;
  }

  keys(): Iterable<string> {
    return this.#items.keys();
  }
}

/**
 * Finds sessions that change after they were stored, for the option `debug`. Such a change is lost: its
 * handler did not wait for it.
 *
 * @module
 */

import { isDeepStrictEqual } from "node:util";
import type { Codec } from "../backend.ts";
import { shownName } from "../codec/losses.ts";
import { LateChangeError } from "../errors.ts";
import { isPlain } from "../validation.ts";
import type { Clock, Timer } from "./clock.ts";

/** When a stored session is compared with its object again, in ms after it was stored. */
const checks = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 90_000];

/** The most sessions that are watched at the same time. */
const mostWatched = 1_000;

/** The most paths in a message. */
const mostPaths = 5;

/** A session that was stored. */
interface Watch<Encoded> {
  readonly key: string;
  /** A weak reference, so that idle chats use no memory. */
  readonly session: WeakRef<object>;
  readonly value: Encoded;
  readonly storedAt: number;
  /** The object now, if it has changed, and how long after it was stored that was seen first, in ms. */
  changed?: { readonly value: Encoded; readonly after: number } | undefined;
  timer?: Timer;
}

/** Watches the sessions that one store has stored. */
export class LateChanges<Encoded> {
  readonly #codec: Codec<Encoded>;
  readonly #clock: Clock;
  readonly #report: (error: LateChangeError) => void;
  readonly #watches = new Map<string, Watch<Encoded>>();

  constructor(codec: Codec<Encoded>, clock: Clock, report: (error: LateChangeError) => void) {
    this.#codec = codec;
    this.#clock = clock;
    this.#report = report;
  }

  /** Watches a session from now on. The value is what is stored. */
  watch(key: string, session: unknown, value: Encoded): void {
    // Updates of a chat that overlap have one object, and the last one of them stores it.
    this.forget(key);
    if (typeof session !== "object" || session === null) return;
    const watch = { key, session: new WeakRef(session), value, storedAt: this.#clock.now() };
    this.#watches.set(key, watch);
    const [oldest] = this.#watches.keys();
    if (this.#watches.size > mostWatched) this.forget(oldest!);
    this.#checkLater(watch, 0);
  }

  /** Reports a change of the key's session. It is called when the next update reads the session. */
  check(key: string): void {
    const watch = this.#watches.get(key);
    if (watch === undefined) return;
    this.forget(key);
    this.#look(watch, true);
  }

  /** Watches the key's session no longer. */
  forget(key: string): void {
    this.#clock.clearTimeout(this.#watches.get(key)?.timer);
    this.#watches.delete(key);
  }

  /** Watches no session any longer. */
  close(): void {
    for (const key of [...this.#watches.keys()]) this.forget(key);
  }

  #checkLater(watch: Watch<Encoded>, i: number): void {
    const due = Math.max(0, watch.storedAt + checks[i]! - this.#clock.now());
    watch.timer = this.#clock.setTimeout(() => {
      const isLast = i === checks.length - 1;
      this.#look(watch, isLast);
      if (isLast) this.forget(watch.key);
      else this.#checkLater(watch, i + 1);
    }, due);
    watch.timer.unref();
  }

  /**
   * Compares the object with what is stored. Reports a change only if it is certain that no update will
   * store it: when the next one reads, and after Telegraf's timeout of handlers.
   */
  #look(watch: Watch<Encoded>, isCertain: boolean): void {
    const session = watch.session.deref();
    if (session !== undefined) watch.changed = this.#changeOf(watch, session);
    if (!isCertain || watch.changed === undefined) return;
    const { key, changed } = watch;
    const decode = (value: Encoded) => this.#codec.decode(value, key);
    const paths = changedPaths(decode(watch.value), decode(changed.value));
    // Only the order of fields may have changed.
    if (paths.length === 0) return;
    const more = paths.length - mostPaths;
    const what = [...paths.slice(0, mostPaths), ...(more > 0 ? [`${more} more`] : [])].join(", ");
    const why = `${what} changed up to ${changed.after} ms after the update ended; ` +
      "is an await or a return missing?";
    this.#report(new LateChangeError(why, { operation: "write", key, paths }));
  }

  #changeOf(watch: Watch<Encoded>, session: object): Watch<Encoded>["changed"] {
    let value: Encoded;
    try {
      value = this.#codec.encode(session);
    } catch {
      return undefined; // it may be in use for something else now
    }
    if (this.#codec.equal(watch.value, value)) return undefined;
    const now = Math.max(1, Math.ceil(this.#clock.now() - watch.storedAt));
    return { value, after: watch.changed?.after ?? now };
  }
}

/** The paths of the values that differ, such as `ctx.session.cart`. */
function changedPaths(before: unknown, after: unknown): string[] {
  const paths = new Set<string>();
  const compare = (a: unknown, b: unknown, path: string) => {
    if (isDeepStrictEqual(a, b)) return;
    const isArray = Array.isArray(a) && Array.isArray(b) && a.length === b.length;
    if (!isArray && !(isPlain(a) && isPlain(b))) return void paths.add(path);
    for (const name of new Set([...Object.keys(a), ...Object.keys(b)])) {
      const [before, after] = [a, b].map((it) => (it as Record<string, unknown>)[name]);
      compare(before, after, isArray ? `${path}[]` : `${path}.${shownName(name)}`);
    }
  };
  compare(before, after, "ctx.session");
  return [...paths];
}

const warned = new Set<string>();

/** Prints a change, once per place. */
export function warnOnce(error: LateChangeError): void {
  const place = error.paths.join();
  if (warned.has(place)) return;
  warned.add(place);
  console.warn(`${error.name}: ${error.message}`);
}

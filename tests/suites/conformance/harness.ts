/** The description of a backend for the conformance suite, and code that its topics share. */

import assert from "node:assert/strict";
import process from "node:process";
import { it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { PrefixOptions, Store, StoreOptions } from "../../../mod.ts";
import type { Backend, Opening } from "../../../src/backend.ts";
import { place } from "../../support/servers.ts";

/** Describes a backend to the suite. */
export interface Harness {
  /** The backend's name. Each test title begins with it. */
  readonly name: string;
  /**
   * A store with its own connection, on the data of a place: a table, collection or prefix. Two stores
   * on the same place share their data.
   */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /** The backend of such a store, to test the contract below it. */
  // deno-lint-ignore no-explicit-any
  backend(place: string, options?: StoreOptions): Backend<any>;
  /** Deletes the data of a place. Missing data is no error. */
  drop(place: string): Promise<void>;
  /** The type of a `Date` after reading: text from JSON, a date from documents. */
  readonly dates: "text" | "date";
  /** Writes an invalid session directly to the database. Absent if every value can be decoded. */
  corrupt?(place: string, key: string): Promise<void>;
  /** True if `prune()` deletes expired sessions; false if the database does. */
  readonly prunes: boolean;
  /** True if this server scans all sessions to find one. Tests then use fewer sessions. */
  readonly slowScans?: boolean;
  /** True if a new store's client may still be connecting. `health()` does not wait for that. */
  readonly connectsLate?: boolean;
  /** The backend below the options `encrypt`, `codec` and `version`, if the stores have them. */
  readonly rawBackend?: Harness["backend"];
  /** True if the stores have `debug`. */
  readonly debugs?: boolean;
  /** Stores a session as 2.0.0-beta.7 does. */
  writeOld?(place: string, key: string, session: unknown): Promise<void>;
  /** Why this server cannot have leases. */
  readonly noLeases?: string;
  /** The size of the largest session that this server takes, in bytes. @default more than 8 MB */
  readonly largest?: number;
  /** Field names that this server rejects, with the reason. */
  readonly refusedFields?: { readonly names: RegExp; readonly reason: string };
}

/** Defines a test with a store on fresh data. */
export type Test = (
  title: string,
  // deno-lint-ignore no-explicit-any
  body: (store: Store<any>, where: string) => Promise<void>,
  options?: {
    skip?: string | false;
    /** Whether the test changes a session after it was stored. */
    changesLate?: boolean;
  },
) => void;

const isDebugging = process.env.TELEGRAF_SESSION_DEBUG === "1";

/** What stores with `debug` have reported. */
const lateChanges: string[] = [];

/** Collects the late changes that the stores of a harness report, if they have `debug`. */
export function watched<T extends Pick<Harness, "store" | "debugs">>(harness: T): T {
  if (!isDebugging && !harness.debugs) return harness;
  const onError = (error: unknown) => {
    // A store may be of another copy of the package.
    const { name, message } = error as Error;
    if (name === "LateChangeError") lateChanges.push(message);
  };
  return { ...harness, store: (where, options) => harness.store(where, { onError, ...options }) };
}

/** Asserts that no store has reported a late change. */
export function assertNoLateChanges(): void {
  assert.deepEqual(lateChanges.splice(0), []);
}

/** Returns the function that defines the tests of a backend. */
export function testOf(harness: Harness): Test {
  return (title, body, { changesLate, ...options } = {}) => {
    it(`${harness.name} ${title}`, options, async () => {
      const where = place();
      const store = harness.store(where);
      try {
        await body(store, where);
      } finally {
        await store.close();
        await harness.drop(where);
      }
      if (changesLate && (isDebugging || harness.debugs)) {
        assert.notEqual(lateChanges.splice(0).length, 0);
      }
      assertNoLateChanges();
    });
  };
}

/** Keys that a database may fold, trim, truncate or interpret. Each is a different key. */
export const awkwardKeys = [
  "key",
  "Key",
  "KEY",
  "key ",
  " key",
  "key\t",
  "clé",
  "cle\u0301", // looks the same, has other bytes
  "cle",
  "straße",
  "strasse",
  "ｋｅｙ",
  "ключ",
  "鍵",
  "🔑",
  "İ",
  "i",
  "1",
  "01",
  "1.0",
  "-100123:456",
  "it's",
  'say "hi"',
  "back`tick",
  "back\\slash",
  "100%",
  "10_0",
  "a*b",
  "a?b",
  "[ab]",
  "{a}b",
  "a:b",
  "a.b",
  "$where",
  "__proto__",
  "constructor",
  "new\nline",
  "'; DROP TABLE sessions; --",
  "null",
  "undefined",
];

/** A session of about `bytes` bytes. Each one is different. */
export function sized(bytes: number): { text: string; seed: number } {
  const seed = Math.random();
  return { text: `${seed} "quoted" é `.repeat(bytes / 30).slice(0, bytes), seed };
}

/** Repeats what fails for a transient reason, as the store does. */
export async function retry<T>(
  backend: Pick<Backend, "transient">,
  work: () => T | Promise<T>,
): Promise<T> {
  for (let attempt = 1;; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === 100 || !backend.transient(error)) throw error;
      // In step, they could get in each other's way again and again.
      await wait(50 * Math.random());
    }
  }
}

/** Opens a backend on the data of a place, to test the contract without a store. */
export async function openBackend(
  harness: Harness,
  where: string,
  needs: Pick<Opening, "expiring" | "leasing"> = { expiring: false, leasing: false },
  // deno-lint-ignore no-explicit-any
): Promise<Backend<any>> {
  const backend = harness.backend(where);
  const { signal } = new AbortController();
  const report = (error: unknown) => assert.fail(String(error));
  await retry(backend, async () => await backend.open({ ...needs, signal, report }));
  return backend;
}

/**
 * Asserts that the store lists these keys and no others. Tries again if one is listed twice, as Redis may do
 * while it resizes its hash table.
 */
export async function assertLists(
  store: Store<unknown>,
  expected: string[],
  options?: PrefixOptions,
): Promise<void> {
  const keys = expected.toSorted();
  for (let tries = 1;; tries++) {
    const listed = (await fromAsync(store.keys(options))).sort();
    const entries = (await fromAsync(store.entries(options))).map(([key]) => key).sort();
    const size = await store.size(options);
    const isRepeated = [listed, entries].some((all) => new Set(all).size < all.length) ||
      size > keys.length;
    if (isRepeated && tries < 100) continue;
    assert.deepEqual({ listed, entries, size }, { listed: keys, entries: keys, size: keys.length });
    return;
  }
}

/** The keys, sorted. Redis may return one twice. */
export async function keysOf(store: Store<unknown>, options?: PrefixOptions): Promise<string[]> {
  return [...new Set(await fromAsync(store.keys(options)))].sort();
}

/** All items of an iterable. */
export async function fromAsync<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

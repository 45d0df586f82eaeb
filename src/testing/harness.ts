/** The description of a store for the conformance suite, and code that its topics share. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { setTimeout as wait } from "node:timers/promises";
import type { Backend, Opening } from "../backend.ts";
import { debugByEnvironment, type StoreOptions } from "../options.ts";
import type { PrefixOptions } from "../store/entry.ts";
import type { Store } from "../store/store.ts";

/**
 * Defines tests: `test` of `node:test`, `bun:test`, Vitest or Jest, or `Deno.test`. Tests that a database
 * cannot pass are defined by `skip` or `ignore`, with the reason in the title.
 */
export interface TestFunction {
  /** `timeout` in ms, which some test runners take as their third argument. */
  (title: string, body: () => Promise<void>, timeout?: number): unknown;
  /** Defines a test that does not run. */
  readonly skip?: (title: string, body: () => Promise<void>) => unknown;
  /** The same, in `Deno.test`. */
  readonly ignore?: (title: string, body: () => Promise<void>) => unknown;
}

/** What a database can do. */
export interface Supports {
  /**
   * Whether the database can hold leases, for `exclusive()`, `update()` and `move()`; the reason, in words,
   * if it cannot.
   *
   * @default {true}
   */
  readonly leases?: true | string;
  /**
   * Whether `prune()` deletes expired sessions. False if the database deletes them by itself.
   *
   * @default {true}
   */
  readonly prune?: boolean;
  /** Whether a `Date` stays one, as in documents. JSON makes it text. @default {false} */
  readonly dates?: boolean;
  /** The size of the largest session, in bytes. @default {more than 8 MB} */
  readonly largest?: number;
  /**
   * Whether the database finds a session quickly among a thousand. The tests use fewer sessions if not.
   *
   * @default {true}
   */
  readonly manySessions?: boolean;
  /** Tests of `keeps …` that the database cannot pass because of its field names, with the reason. */
  readonly rejectedFields?: { readonly titles: RegExp; readonly reason: string } | undefined;
}

/** Describes a store to the suite. */
export interface ConformanceOptions {
  /** The function of the test runner that defines a test. */
  readonly test: TestFunction;
  /** The name of the store. Each test title begins with it. @default {"Store"} */
  readonly name?: string;
  /**
   * Makes a store with its own connection, on the data of a place: a table, collection or prefix. Two stores
   * on the same place share their data. The suite closes the store. A place is `test-` and hex digits, in one
   * test with `2`, `%`, `*` or `_` at its end: other places, also for databases to which these mean more.
   */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /**
   * The backend of such a store. Without it the contract between store and backend is tested only as far
   * as stores use it.
   */
  // deno-lint-ignore no-explicit-any
  backend?(place: string, options?: StoreOptions): Backend<any>;
  /** Deletes the data of a place. Missing data is no error. @default {The data stays.} */
  drop?(place: string): unknown;
  /** What the database can do. @default {everything} */
  readonly supports?: Supports;
  /**
   * A program that calls `runUpdates()` with a store on the place, and its arguments. It runs in two
   * processes at the same time, with the runtime of the tests. Without it no test uses several processes.
   */
  worker?(place: string): readonly [program: string | URL, ...args: string[]];
  /** Writes a value directly to the database that is no session. Absent if every value is one. */
  corrupt?(place: string, key: string): Promise<unknown>;
  /** Stores a session as `@telegraf/session` 2.0.0-beta.7 does. Absent if that version has no such store. */
  writeOld?(place: string, key: string, session: unknown): Promise<unknown>;
  /** How many updates of one chat each pattern of the storm has. @default {1000} */
  readonly updates?: number;
  /**
   * Whether the stores have the options `encrypt`, `version` and `debug` in all tests. Needs `backend`.
   *
   * @default {false}
   */
  readonly encrypted?: boolean;
}

/** The description with its default values, as the topics get it. */
export interface Harness extends ConformanceOptions {
  readonly name: string;
  /** Why there are no leases; false if there are. */
  readonly noLeases: string | false;
  readonly supports: Supports;
  /** Why the contract cannot be tested; false if it can. */
  readonly noBackend: string | false;
  /** Whether `prune()` deletes expired sessions. */
  readonly prunes: boolean;
  /** Whether the stores have `debug`, so that they report late changes. */
  readonly debugs: boolean;
  /** The backend below the options `encrypt`, `codec` and `version`, if the stores have them. */
  readonly rawBackend?: ConformanceOptions["backend"];
  drop(place: string): unknown;
}

/** Defines a test with a store on fresh data. */
export type Test = (
  title: string,
  // deno-lint-ignore no-explicit-any
  body: (store: Store<any>, where: string) => Promise<void>,
  options?: {
    /** Why the database cannot pass it. */
    skip?: string | false;
    /** Whether the test changes a session after it was stored. */
    changesLate?: boolean;
  },
) => void;

/** What stores with `debug` have reported. */
const lateChanges: string[] = [];

/** Fills in default values, and collects the late changes that stores with `debug` report. */
export function harnessOf(options: ConformanceOptions): Harness {
  const { name = "Store", supports = {} } = options;
  const debugs = debugByEnvironment() || options.encrypted === true;
  const onError = (error: unknown) => {
    // A store may be of another copy of the package.
    const { name, message } = error as Error;
    if (name === "LateChangeError") lateChanges.push(message);
  };
  const watch = debugs ? { onError } : {};
  return {
    drop() {},
    ...options,
    name,
    supports,
    prunes: supports.prune ?? true,
    debugs,
    noBackend: options.backend === undefined && "it needs the option `backend`",
    noLeases: typeof supports.leases === "string" ? supports.leases : false,
    store: (place, own) => options.store(place, { ...watch, ...own }),
  };
}

/** Asserts that no store has reported a late change. */
export function assertNoLateChanges(): void {
  assert.deepEqual(lateChanges.splice(0), []);
}

/** A slow machine must not make a test fail. */
const timeout = 1_800_000;

/** Returns the function that defines the tests of a store. */
export function testOf(harness: Harness): Test {
  const { test, name } = harness;
  return (title, body, { changesLate, skip } = {}) => {
    if (skip) {
      const skipped = [`${name} ${title} (${skip})`, () => Promise.resolve()] as const;
      if (test.skip) test.skip(...skipped);
      else test.ignore?.(...skipped);
      return;
    }
    test(`${name} ${title}`, async () => {
      const where = newPlace();
      const store = harness.store(where);
      try {
        await body(store, where);
      } finally {
        await store.close();
        await harness.drop(where);
      }
      if (changesLate && harness.debugs) assert.notEqual(lateChanges.splice(0).length, 0);
      assertNoLateChanges();
    }, timeout);
  };
}

/** A new name for a table, collection or prefix. */
export function newPlace(): string {
  return `test-${randomBytes(6).toString("hex")}`;
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

/** A session that is large, and that the database takes even if it is encrypted. */
export function large({ supports: { largest = Infinity } }: Harness): { text: string } {
  return sized(Math.min(300_000, largest / 2));
}

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
  harness: Pick<Harness, "backend">,
  where: string,
  needs: Pick<Opening, "expiring" | "leasing"> = { expiring: false, leasing: false },
  // deno-lint-ignore no-explicit-any
): Promise<Backend<any>> {
  const backend = harness.backend!(where);
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
  const keys = [...expected].sort();
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

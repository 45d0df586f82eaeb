/** What the conformance suite needs to know about a backend, and what its topics share. */

import { it } from "node:test";
import type { Store, StoreOptions } from "../../../mod.ts";
import { place } from "../../support/servers.ts";

/** What the suite needs to know about a backend. */
export interface Harness {
  /** The backend's name, with which the titles of tests begin. */
  readonly name: string;
  /**
   * A store with its own connection, on the data of a place: a table, collection or prefix. Two stores
   * on one place share their data.
   */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /** Deletes the data of a place. Missing data is no error. */
  drop(place: string): Promise<void>;
  /** The type in which a `Date` in a session comes back: text in JSON, a date in documents. */
  readonly dates: "text" | "date";
  /** Stores an invalid session without the store. Absent if every value can be decoded. */
  corrupt?(place: string, key: string): Promise<void>;
  /** Whether expired sessions are deleted by `prune()`, and not by the database. */
  readonly prunes: boolean;
  /** Whether the server of this run scans all sessions for each one, so that tests use fewer. */
  readonly slowScans?: boolean;
  /** Whether clients are still connecting when stores are made. `health()` does not wait for that. */
  readonly connectsLate?: boolean;
  /** Field names that the server of this run refuses, with the reason. */
  readonly refusedFields?: { readonly names: RegExp; readonly reason: string };
}

/** Defines a test with a store on fresh data. */
export type Test = (
  title: string,
  // deno-lint-ignore no-explicit-any
  body: (store: Store<any>, where: string) => Promise<void>,
  options?: { skip?: string | false },
) => void;

/** Makes the function that defines the tests of a backend. */
export function testOf(harness: Harness): Test {
  return (title, body, options = {}) => {
    it(`${harness.name} ${title}`, options, async () => {
      const where = place();
      const store = harness.store(where);
      try {
        await body(store, where);
      } finally {
        await store.close();
        await harness.drop(where);
      }
    });
  };
}

/** Keys that a database may fold, trim, truncate or interpret. All of them are different. */
export const awkwardKeys = [
  "key",
  "Key",
  "KEY",
  "key ",
  " key",
  "key\t",
  "clé",
  "cle\u0301", // the same to the eye, other bytes
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

/** A session of about `bytes` bytes. No two are equal. */
export function sized(bytes: number): { text: string; seed: number } {
  const seed = Math.random();
  return { text: `${seed} "quoted" é `.repeat(bytes / 30).slice(0, bytes), seed };
}

/** All items of an iterable. */
export async function fromAsync<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

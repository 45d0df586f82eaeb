/** The suite that every store passes, on a real server of its backend. */

import type { Store, StoreOptions } from "../mod.ts";

/** What the suite needs to know of a backend. */
export interface Harness {
  /** The backend's name, as test titles begin with it. */
  readonly name: string;
  /**
   * A store with a connection of its own on the data of a place: a table, collection or prefix.
   * Two stores of one place share their data.
   */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /** Deletes the data of a place; missing data is no error. */
  drop(place: string): Promise<void>;
  /** What a `Date` in a session comes back as: text in JSON, a date in documents. */
  readonly dates: "text" | "date";
  /** Stores what is no session under the key, past the store; absent where nothing is undecodable. */
  corrupt?(place: string, key: string): Promise<void>;
}

/** Runs the suite. */
export function conformance(_harness: Harness): void {
  throw new Error("being written");
}

/** The suite that every store must pass on a real database. Each topic has its own file. */

import { batches } from "./batches.ts";
import { expiry } from "./expiry.ts";
import { type ConformanceOptions, type Harness, harnessOf, type Test, testOf } from "./harness.ts";
import { keys } from "./keys.ts";
import { layers, withLayers } from "./layers.ts";
import { leases } from "./leases.ts";
import { lifecycle } from "./lifecycle.ts";
import { listing } from "./listing.ts";
import { moves } from "./moves.ts";
import { order } from "./order.ts";
import { prefixes } from "./prefixes.ts";
import { processes } from "./processes.ts";
import { replace } from "./replace.ts";
import { telegraf } from "./telegraf.ts";
import { values } from "./values.ts";

type Topic = (test: Test, harness: Harness) => void;

/** What stores do. */
const storeTopics: readonly Topic[] = [
  ...[values, keys, order, batches, listing, prefixes, moves, expiry, lifecycle],
];

/**
 * Defines the tests that every store must pass, with the test runner of your choice. They check values,
 * keys, order, batches, listing, expiry, leases, the contract of the backend, and that Telegraf's
 * `session()` loses none of a thousand updates at the same time, also in two processes.
 *
 * They need `telegraf`, and a database that answers. Each test has its own place.
 *
 * @throws {TypeError} if `encrypted` is true without `backend`.
 *
 * @example
 * ```ts
 * import { SQLite } from "@telegraf/session/sqlite";
 * import { conformance } from "@telegraf/session/testing";
 * import { test } from "node:test";
 *
 * conformance({
 *   test,
 *   name: "SQLite",
 *   store: (place, options) => SQLite({ filename: `./${place}.sqlite`, ...options }),
 * });
 * ```
 */
export function conformance(options: ConformanceOptions): void {
  const harness = harnessOf(options);
  if (options.encrypted) {
    // The contract's values would be encrypted, so `replace` is left out.
    run(withLayers(harness), [...storeTopics, leases, layers]);
  } else {
    const several = options.worker === undefined ? [] : [processes];
    run(harness, [...storeTopics, replace, leases, ...several, telegraf]);
  }
}

function run(harness: Harness, topics: readonly Topic[]): void {
  const test = testOf(harness);
  for (const topic of topics) topic(test, harness);
}

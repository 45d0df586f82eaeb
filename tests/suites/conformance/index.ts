/** The suite that every store must pass on a real server. Each topic has its own file. */

import process from "node:process";
import { describe } from "node:test";
import { batches } from "./batches.ts";
import { expiry } from "./expiry.ts";
import { type Harness, testOf, watched } from "./harness.ts";
import { keys } from "./keys.ts";
import { layers, withLayers } from "./layers.ts";
import { leases } from "./leases.ts";
import { lifecycle } from "./lifecycle.ts";
import { listing } from "./listing.ts";
import { moves } from "./moves.ts";
import { order } from "./order.ts";
import { prefixes } from "./prefixes.ts";
import { replace } from "./replace.ts";
import { values } from "./values.ts";

export type { Harness } from "./harness.ts";

export { leases, replace };

const all = [
  ...[values, keys, order, batches, listing, prefixes, moves, expiry, replace, leases],
  lifecycle,
];

/**
 * Runs the suite once more with the options `encrypt`, `version` and `debug`, on Deno and on Node.js with the
 * usual servers. On Bun and in the package, tests/core has these options.
 */
export function encryptedConformance(harness: Harness): void {
  const { env, versions } = process;
  if (env.TEST_ENGINE || "bun" in versions || import.meta.url.endsWith(".js")) return;
  const others = all.filter((topic) => topic !== replace); // about values in the database
  conformance(withLayers(harness), [...others, layers]);
}

/** Runs the suite, or some topics of it. */
export function conformance(given: Harness, topics = all): void {
  const harness = watched(given);
  const test = testOf(harness);
  describe(`${harness.name} conformance`, () => {
    for (const topic of topics) topic(test, harness);
  });
}

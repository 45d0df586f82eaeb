/** The published conformance suite, run by `node:test`, for the stores of this package. */

import process from "node:process";
import { it } from "node:test";
import { conformance as define, type ConformanceOptions } from "../../testing.ts";
import { type Harness as Full, harnessOf, type Test, testOf } from "../../src/testing/harness.ts";

/** Describes a store to the suite. */
export type Harness =
  & Omit<ConformanceOptions, "test">
  & Required<Pick<ConformanceOptions, "name" | "backend" | "drop">>;

/** Runs the suite. */
export function conformance(harness: Harness): void {
  define({ ...harness, test: it });
}

/**
 * Runs the suite with the options `encrypt`, `version` and `debug`, on Deno and on Node.js with the usual
 * servers. On Bun and in the package, tests/core has these options.
 */
export function encryptedConformance(harness: Harness): void {
  const { env, versions } = process;
  if (env.TEST_ENGINE || "bun" in versions || import.meta.url.endsWith(".js")) return;
  conformance({ ...harness, encrypted: true });
}

/** Runs some topics of the suite. */
export function runTopics(
  harness: Harness,
  topics: ((test: Test, harness: Full) => void)[],
  change = (full: Full) => full,
): void {
  const full = change(harnessOf({ ...harness, test: it }));
  const test = testOf(full);
  for (const topic of topics) topic(test, full);
}

/** The program that sends updates in a process of its own. */
export function workerOf(module: string, factory: string, options: object) {
  const program = new URL("./updates.ts", import.meta.url);
  return [program, module, factory, JSON.stringify(options)] as const;
}

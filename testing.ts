/**
 * The tests that every store must pass, for any test runner. `docs/backend.md` shows how to use them.
 *
 * @module
 */

export { conformance } from "./src/testing/conformance.ts";
export type { ConformanceOptions, Supports, TestFunction } from "./src/testing/harness.ts";
export { runUpdates } from "./src/testing/worker.ts";

/**
 * The version of the package. It repeats that of `deno.json`, because Node.js 20 prints a warning
 * when it imports JSON. `tests/package/structure.test.ts` compares both.
 *
 * @module
 */

/** The version of the package. */
export const version = "2.0.0";

/**
 * The version of the package, which is that of `deno.json`: Node.js 20 cannot import JSON without a
 * warning. `tests/structure.test.ts` compares them.
 *
 * @module
 */

/** The version of the package. */
export const version = "2.0.0";

/**
 * Transient errors of Deno KV.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { disconnected } from "../network.ts";

/** Messages of `Deno.openKv` and of `@deno/kv`. `docs/errors.md` gives the reason for each. */
const transientMessages =
  /\bstatus(: |=| )(429|5\d\d)\b|error sending request|failed to read response body|^fetch failed|^The operation (timed out|was aborted due to timeout)|is locked$/;

/** Whether the same call may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  return disconnected(error) || disconnected(error.cause) ||
    transientMessages.test(error.message.split("\n", 1)[0]!);
}

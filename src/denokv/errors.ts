/**
 * Transient errors of Deno KV.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { disconnected } from "../network.ts";

/** `docs/errors.md` gives the reason for each. */
const transientMessages = new RegExp(
  "^(database (table |schema )?is locked|Unexpected response status: (429|5\\d\\d)|" +
    "KV Connect failed to (call .*\\(status=(429|5\\d\\d)\\)|read response body)|" +
    "fetch failed|error sending request)",
);

/** Whether the same call may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  return disconnected(error) || disconnected(error.cause) || transientMessages.test(error.message);
}

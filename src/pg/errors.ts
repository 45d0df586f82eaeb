/**
 * Transient errors of PostgreSQL and `pg`.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { disconnected } from "../network.ts";
import { isServerReadOnly, isTransactionOpen } from "../sql/errors.ts";

/** SQLSTATE codes of transient errors. `docs/errors.md` gives the reason for each. */
const transientCodes = new RegExp(`^(${
  [
    "08[^P]..",
    "25(006|P0[234])",
    "40(000|001|003|P01)",
    "42P07", // the table has just been created
    "23505", // an older version inserted while the unique key was being added
    "53[23]00",
    "55P03",
    "57(000|014|P0[1235])",
    "580[03]0",
  ].join("|")
})$`);

/** PgBouncer uses the code 08P01 for permanent and for transient errors. These are permanent. */
const permanentPoolerErrors =
  /transaction blocks|no such|not (allowed|supported)|unsupported|auth|password/i;

/** Transient errors of the driver, which have no code. */
const transientMessages = /^(Connection terminated|timeout e|Query read timeout)|not queryable$/;

/** Whether another attempt may succeed. It uses another client because this one is discarded. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code = "", message, routine } = error as Error & { code?: string; routine?: string };
  if (code === "08P01") return !permanentPoolerErrors.test(message);
  // "cached plan must not change result type", in any language: the table has been altered.
  const altered = code === "0A000" &&
    (routine === "RevalidateCachedQuery" || /^cached plan must not/.test(message));
  return altered || disconnected(error) || isTransactionOpen(error) || isServerReadOnly(error) ||
    transientCodes.test(code) || transientMessages.test(message);
}

/** The error for a server that has become read-only, before it has refused a write. */
export function becameReadOnly(): Error {
  return Object.assign(new Error("the server reports that it is read-only"), { code: "25006" });
}

/** Whether the server has refused a write because it is not the primary. */
export function isReadOnly(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "25006";
}

/**
 * Errors of MongoDB and its driver.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { disconnected } from "../network.ts";

interface DriverError extends Error {
  readonly code?: unknown;
  readonly errorLabels?: readonly string[];
  /** The error in a bulk write, or the answer of the server. */
  readonly errorResponse?: { readonly name?: string };
}

export function isDuplicate(error: unknown): boolean {
  const { code, message } = error as DriverError;
  // The texts are those of FerretDB.
  return code === 11000 ||
    /E11000|duplicate key|(UNIQUE|exclusion) constraint/i.test(message);
}

/** Whether the server has answered with a permanent error. */
export function isRefusal(error: unknown): boolean {
  const { name, code, message } = error as DriverError;
  if (name !== "MongoServerError" || code === 18 || /bad auth/i.test(message)) return false;
  return isDuplicate(error) || !transient(error);
}

/**
 * The operations of an unordered bulk that failed, if the server has acknowledged the others as the write
 * concern asks.
 */
export function failedOperations(error: unknown): Set<number> | undefined {
  const { writeErrors, result } = error as {
    writeErrors?: { index: number }[];
    result?: { getWriteConcernError(): unknown };
  };
  if (!writeErrors?.length || !result || result.getWriteConcernError()) return undefined;
  return new Set(writeErrors.map(({ index }) => index));
}

/** Names of transient errors. */
const transientNames = new Set([
  "MongoNetworkError",
  "MongoNetworkTimeoutError",
  "MongoPoolClearedError",
  "PoolClearedOnNetworkError",
  "MongoWaitQueueTimeoutError",
  "MongoServerSelectionError",
  // Other operations on a client that could not connect. (A closed client has another error.)
  "MongoTopologyClosedError",
  "MongoPoolClosedError",
  "MongoClientClosedError",
]);

/** The server's codes of transient errors. `docs/errors.md` gives the reason for each. */
const transientCodes = new Set([
  ...[6, 7, 89, 202, 9001], // network
  ...[91, 189, 10058, 10107, 11600, 11602, 13435, 13436], // shutting down, no longer primary
  ...[63, 70, 133, 150, 13388], // the server does not know the current state of the cluster yet
  ...[24, 43, 46, 50, 64, 112, 117, 134, 262, 11000, 11601], // locks, conflicts, limits of time
  ...[145, 149, 216, 237, 303, 355, 398, 46841, 56846, 91331, 10045600], // failover, maintenance
  ...[175, 239, 246, 249, 250, 272, 314, 319, 342, 363, 371, 406, 412, 453], // data is moved or busy
  ...[261, 264, 365, 391, 402, 407, 433, 449, 450, 462, 16500], // log in again, limits of load
]);

/** Labels of transient errors, from the driver or the server. */
const transientLabels = ["RetryableWriteError", "RetryableError", "TransientTransactionError"];

/** Messages of permanent errors: TLS has failed, or the server is too old or too new for the driver. */
const permanentMessages =
  /certificate|altnames|secure TLS connection|SSL routines|reports m\w+imum wire version/i;

/** Whether the same command may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { name, code, message, errorResponse, errorLabels } = error as DriverError;
  // The driver has retried it nevertheless.
  if (permanentMessages.test(message)) return false;
  return transientNames.has(name) || transientNames.has(errorResponse?.name ?? "") ||
    transientCodes.has(Number(code)) || disconnected(error) || isDuplicate(error) ||
    message === "deadlock detected" || // FerretDB 2, for upserts of the same key
    transientLabels.some((label) => errorLabels?.includes(label));
}

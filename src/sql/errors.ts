/**
 * Errors that the SQL stores create.
 *
 * @module
 */

import { reason } from "../errors.ts";

/** The error for a connection or database on which the application has a transaction open. */
export function transactionOpen(): Error {
  const error = new Error("the application has a transaction open on the connection");
  return Object.assign(error, { code: "TRANSACTION_OPEN" });
}

/** Whether it is the error of `transactionOpen`. */
export function isTransactionOpen(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "TRANSACTION_OPEN";
}

/** The error for a server that takes no writes, with the server's own error if there is one. */
export function serverReadOnly(cause?: unknown): Error {
  const hint = "the server is read-only: is it a replica, or a former primary?";
  const error = cause === undefined
    ? new Error(hint)
    : new Error(`${reason(cause)}; ${hint}`, { cause });
  return Object.assign(error, { code: "SERVER_READ_ONLY" });
}

/** Whether it is the error of `serverReadOnly`. */
export function isServerReadOnly(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "SERVER_READ_ONLY";
}

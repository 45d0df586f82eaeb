/**
 * The error for an open transaction of the application.
 *
 * @module
 */

/** The error for a connection or database on which the application has a transaction open. */
export function transactionOpen(): Error {
  const error = new Error("the application has a transaction open on the connection");
  return Object.assign(error, { code: "TRANSACTION_OPEN" });
}

/** Whether it is the error of `transactionOpen`. */
export function isTransactionOpen(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "TRANSACTION_OPEN";
}

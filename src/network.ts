/**
 * Errors of the network and the operating system, the same for all databases. `docs/errors.md` gives
 * the reason for each of them.
 *
 * @module
 */

import { isError } from "./errors.ts";

/** Codes of transient errors: another attempt may succeed. */
const transientCodes = new Set([
  "EADDRINUSE",
  "EADDRNOTAVAIL",
  "EAGAIN",
  "EAI_AGAIN",
  "EAI_FAIL",
  "EAI_MEMORY",
  "EAI_NODATA",
  "EAI_NONAME",
  "EBUSY",
  "ECONNABORTED",
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTDOWN",
  "EHOSTUNREACH",
  "EINTR",
  "EMFILE",
  "ENETDOWN",
  "ENETRESET",
  "ENETUNREACH",
  "ENFILE",
  "ENOBUFS",
  "ENOMEM",
  "ENONET",
  "ENOTCONN",
  "ENOTFOUND",
  "EOF",
  "EPIPE",
  "ESERVFAIL",
  "ESHUTDOWN",
  "ETIMEDOUT",
  "ETIMEOUT",
]);

/** Whether the connection was lost or could not be made, for a reason that may pass. */
export function disconnected(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, syscall, errors } = error as { code?: string; syscall?: string; errors?: unknown };
  // ENOENT: the Unix socket of a server that is not running.
  if (transientCodes.has(code ?? "") || (code === "ENOENT" && syscall === "connect")) return true;
  return Array.isArray(errors) && errors.some(disconnected);
}

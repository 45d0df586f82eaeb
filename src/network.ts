/**
 * Errors of the network and the operating system, the same for all databases. `docs/errors.md` lists
 * every one with the reason.
 *
 * @module
 */

import { isError } from "./errors.ts";

/** Codes of errors after which another attempt may succeed. */
const passing = new Set([
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

/** Whether the connection was lost or could not be made, but may be made in a moment. */
export function disconnected(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, syscall, errors } = error as { code?: string; syscall?: string; errors?: unknown };
  // No such file: the socket of a server that is not running.
  if (passing.has(code ?? "") || (code === "ENOENT" && syscall === "connect")) return true;
  return Array.isArray(errors) && errors.some(disconnected);
}

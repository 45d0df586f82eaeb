/**
 * Transient errors of SQLite.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { isTransactionOpen } from "../sql/errors.ts";

/** Whether another process or the application has the database locked. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  // Errors of Deno's `exec` have only a message.
  const { code, errcode = 0, message } = error as Error & { code?: unknown; errcode?: number };
  return isTransactionOpen(error) || /^SQLITE_(BUSY|LOCKED|PROTOCOL|SCHEMA)/.test(String(code)) ||
    [5, 6, 15, 17].includes(errcode & 0xff) || /^database (table |schema )?is locked/.test(message);
}

/**
 * Transient errors of the databases and drivers under Kysely.
 *
 * @module
 */

import { isError } from "../errors.ts";
import * as mysql from "../mysql/errors.ts";
import * as pg from "../pg/errors.ts";
import * as sqlite from "../sqlite/errors.ts";

/** Codes of transient errors of postgres.js, libSQL and `fetch`. */
const transientCodes =
  /^(CONNECT(ION)?_\w+|HRANA_(CLOSED|WEBSOCKET)_ERROR|UND_ERR_(SOCKET|\w+_TIMEOUT))$/;

/**
 * Messages of transient errors of D1, `fetch` and PlanetScale, and of SQLite when another process has made
 * the same change.
 */
const transientMessages = new RegExp([
  "Network connection lost",
  "caused object to be reset",
  "reset because its code was updated",
  "^fetch failed$",
  "\\(errno 1(205|213)\\)", // lock wait, deadlock
  "already exists",
  "duplicate column name",
  "UNIQUE constraint failed",
].join("|"));

/** Whether another attempt may succeed. Knows the errors of all families, and looks at causes too. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, message, cause } = error as Error & { code?: unknown };
  const known = [pg, mysql, sqlite].some(({ transient }) => transient(error));
  return known || transientCodes.test(String(code)) || transientMessages.test(message) ||
    transient(cause);
}

/** Whether the server has refused a write because it is not the primary. */
export function isReadOnly(error: unknown): boolean {
  return pg.isReadOnly(error) || mysql.isReadOnly(error);
}

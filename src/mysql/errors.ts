/**
 * Transient errors of MySQL, MariaDB and mysql2.
 *
 * @module
 */

import { isError } from "../errors.ts";
import { disconnected } from "../network.ts";
import { isServerReadOnly } from "../sql/errors.ts";

/** A temporary column that numbers the rows of a table without a key, from the oldest to the newest. */
export const rowNumber = "telegraf-session-row";

/**
 * Codes of transient errors, by name, or by number for errors of MariaDB that mysql2 has no name for.
 * `docs/errors.md` gives the reason for each.
 */
const transientCodes = new Set<unknown>([
  "PROTOCOL_CONNECTION_LOST",
  "PROTOCOL_PACKETS_OUT_OF_ORDER",
  "PROTOCOL_SEQUENCE_TIMEOUT",
  "ERR_OUT_OF_RANGE",
  "ER_ABORTING_CONNECTION",
  "ER_CANT_DROP_FIELD_OR_KEY",
  "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION",
  "ER_CANT_UPDATE_WITH_READLOCK",
  "ER_CHECKREAD",
  "ER_CLIENT_INTERACTION_TIMEOUT",
  "ER_CON_COUNT_ERROR",
  "ER_DUP_ENTRY",
  "ER_DUP_FIELDNAME",
  "ER_DUP_KEYNAME",
  "ER_ERROR_DURING_COMMIT",
  "ER_FORCING_CLOSE",
  "ER_GET_TEMPORARY_ERRMSG",
  "ER_GRP_TRX_CONSISTENCY_AFTER_ON_TRX_BEGIN",
  "ER_GRP_TRX_CONSISTENCY_BEFORE",
  "ER_HANDSHAKE_ERROR",
  "ER_LOCK_ABORTED",
  "ER_LOCK_DEADLOCK",
  "ER_LOCK_NOWAIT",
  "ER_LOCK_TABLE_FULL",
  "ER_LOCK_WAIT_TIMEOUT",
  "ER_NEED_REPREPARE",
  "ER_NET_ERROR_ON_WRITE",
  "ER_NET_READ_ERROR",
  "ER_NET_READ_INTERRUPTED",
  "ER_NET_WRITE_INTERRUPTED",
  "ER_NEW_ABORTING_CONNECTION",
  "ER_NORMAL_SHUTDOWN",
  "ER_OPTION_PREVENTS_STATEMENT",
  "ER_OUTOFMEMORY",
  "ER_OUT_OF_RESOURCES",
  "ER_QUERY_INTERRUPTED",
  "ER_QUERY_TIMEOUT",
  "ER_READ_ONLY_MODE",
  "ER_RUN_HOOK_ERROR",
  "ER_SERVER_ISNT_AVAILABLE",
  "ER_SERVER_OFFLINE_MODE",
  "ER_SERVER_SHUTDOWN",
  "ER_SESSION_WAS_KILLED",
  "ER_SHUTDOWN_COMPLETE",
  "ER_TABLE_DEF_CHANGED",
  "ER_TABLE_EXISTS_ERROR",
  "ER_TABLE_NOT_LOCKED",
  "ER_TABLE_NOT_LOCKED_FOR_WRITE",
  "ER_TOO_MANY_CONCURRENT_TRXS",
  "ER_TOO_MANY_USER_CONNECTIONS",
  "ER_TRANSACTION_ROLLBACK_DURING_COMMIT",
  "ER_UNKNOWN_COM_ERROR",
  "ER_USER_LIMIT_REACHED",
  "ER_XA_RBDEADLOCK",
  "ER_XA_RBTIMEOUT",
  1927,
  1969,
]);

/** Transient errors without a code. The last one: another process has finished the same upgrade. */
const transientMessages = new RegExp([
  "in closed state$",
  "^No connections available\\.$",
  "^Queue limit reached\\.$",
  "code = (Unavailable|Aborted|ResourceExhausted|DeadlineExceeded)", // Vitess
  `Unknown column '(\\w+\\.)?${rowNumber}'`,
].join("|"));

/** Whether another attempt may succeed. It uses another connection because this one is discarded. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, errno, message } = error as Error & { code?: string; errno?: number };
  return disconnected(error) || isServerReadOnly(error) || transientCodes.has(code) ||
    transientCodes.has(errno) || transientMessages.test(message);
}

/** Whether the server refuses a write or a connection because it is not the primary. */
export function isReadOnly(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, message } = error as Error & { code?: string };
  // Other options have the same code. Only the name of the option is the same in all languages.
  return code === "ER_OPTION_PREVENTS_STATEMENT"
    ? /read[-_ ]only/i.test(message)
    : code === "ER_RUN_HOOK_ERROR" || code === "ER_READ_ONLY_MODE" ||
      code === "ER_SERVER_OFFLINE_MODE";
}

/**
 * What MySQL and MariaDB have of their own: the table and its upgrade, their errors, and what is
 * used of mysql2.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Entry, Limits } from "./backend.ts";
import { TooLargeError } from "./errors.ts";
import { disconnected, listen, padded, quoted, sorted } from "./sql.ts";
import type { Dialect, Lender, Row, Script, Statements } from "./sql.ts";

type Callback<T = unknown> = (error: unknown, result: T) => void;

/** What is used of a pool of mysql2, the one with callbacks. */
export interface Pool {
  getConnection(callback: Callback<Connection>): void;
  on(event: "error", listener: (error: unknown) => void): unknown;
  end(callback: Callback): void;
}

/** What is used of a connection of mysql2. */
export interface Connection {
  execute(query: object, callback: Callback<Row[]>): unknown;
  query(query: object, callback: Callback<Row[]>): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
  release(): void;
  destroy(): void;
  /** Settings of the pool. */
  readonly config?: { readonly typeCast?: unknown };
}

/** A pool of mysql2 or mysql2/promise, as far as it tells that it is one. */
export interface MySQLPool {
  getConnection: (...args: never[]) => unknown;
  execute: (...args: never[]) => unknown;
}

/**
 * Takes a pool by its shape, for copies of the driver differ. Of one with promises it is the pool
 * with callbacks beneath: both forms are the same pool.
 */
export function checked(given: MySQLPool): Pool {
  const { pool = given } = given as { pool?: unknown };
  const { getConnection, execute, promise } = Object(pool);
  const methods = [getConnection, execute, promise];
  if (methods.every((method) => typeof method === "function")) return pool as Pool;
  throw new TypeError('MySQL: option "pool" must be a Pool of mysql2 or mysql2/promise');
}

/** Lends the connections of a pool. */
export function lender(pool: Pool): Lender<Connection> {
  return {
    acquire: (callback) =>
      pool.getConnection((error, connection) => {
        if (!error) listen(connection, pool);
        callback(error, connection);
      }),
    release: (connection, error) =>
      error === undefined ? connection.release() : connection.destroy(),
  };
}

/** Closes a pool. */
export function end(pool: Pool): Promise<void> {
  return new Promise((resolve, reject) => pool.end((error) => error ? reject(error) : resolve()));
}

/** Rows as they are, whatever the pool's own settings make of them. */
const plain = { rowsAsArray: true, nestTables: false };
/** The same for a pool with a `typeCast`: in place of it, for each value, which takes its time. */
const cast = { ...plain, typeCast: (_field: unknown, next: () => unknown) => next() };

/** Runs a statement, prepared if it has values. */
export function rows(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  const options = connection.config?.typeCast === true ? plain : cast;
  return new Promise((resolve, reject) => {
    connection[values.length > 0 ? "execute" : "query"](
      { ...options, sql, values },
      (error, rows) => error ? reject(error) : resolve(rows),
    );
  });
}

/**
 * Keys are bytes where the column has become binary, which it is but for an old table. Sessions are
 * text, or bytes on a connection whose character set has not all signs.
 */
export function dialect(table: string, { charset }: Pick<Setting, "charset">): Dialect {
  const name = quoted(table, "`");
  /** The name of a lock, of at most 64 characters; takes what it is about. */
  const lock = "CONCAT('telegraf-session:', SHA1(CONCAT_WS('.', DATABASE(), ?)))";
  /** Numbers the rows of a table that has no key, from the oldest to the newest. */
  const row = "telegraf-session-row";
  return {
    name,
    inspect: [
      `SELECT c.COLUMN_NAME, CONCAT_WS(' ', c.COLUMN_TYPE, c.CHARACTER_SET_NAME),
        IF(c.COLUMN_NAME = 'key', EXISTS (
          SELECT MAX(INDEX_NAME) FROM information_schema.STATISTICS
          WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? GROUP BY INDEX_NAME
          HAVING COUNT(*) = 1 AND MAX(NON_UNIQUE) = 0 AND MAX(COLUMN_NAME) = 'key'
            AND COUNT(SUB_PART) = 0
        ), EXISTS (
          SELECT * FROM information_schema.STATISTICS s WHERE TABLE_SCHEMA = DATABASE()
          AND TABLE_NAME = ? AND s.COLUMN_NAME = c.COLUMN_NAME AND SEQ_IN_INDEX = 1
        ))
      FROM information_schema.COLUMNS c WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?`,
      table,
      table,
      table,
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${name} (\`key\` varbinary(512) PRIMARY KEY,
            session longtext CHARACTER SET utf8mb4, expires bigint)
          ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4`,
        ];
      }
      // Nothing can be rolled back: whatever a process leaves when it dies is where another begins.
      const { columns, unique } = shape;
      const key = columns.get("key") ?? "";
      const [type, charset = "binary"] = key.split(" ");
      const changes: string[] = [];
      if (!/^(utf8|ascii|binary)/.test(charset)) {
        // The bytes become UTF-8. The collation folds nothing, so keys that differ do not collide.
        const utf8 = `${type} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`;
        changes.push(`ALTER TABLE ${name} MODIFY \`key\` ${utf8}`);
      }
      const alter: string[] = [];
      if (key !== "varbinary(512)") alter.push("MODIFY `key` varbinary(512)");
      if (columns.get("session") !== "longtext utf8mb4") {
        alter.push("MODIFY session longtext CHARACTER SET utf8mb4");
      }
      if (!columns.has("expires")) alter.push("ADD COLUMN expires bigint");
      if (!unique && !columns.has(row)) {
        alter.push(`ADD COLUMN \`${row}\` bigint NOT NULL AUTO_INCREMENT UNIQUE`);
      }
      if (alter.length > 0) changes.push(`ALTER TABLE ${name} ${alter.join(", ")}`);
      if (!unique) {
        changes.push(
          `DELETE old FROM ${name} old JOIN (
            SELECT \`key\`, MAX(\`${row}\`) AS newest FROM ${name} GROUP BY \`key\`
          ) kept ON old.\`key\` = kept.\`key\` AND old.\`${row}\` < kept.newest`,
          `ALTER TABLE ${name} DROP COLUMN \`${row}\`, ADD UNIQUE (\`key\`)`,
        );
      }
      return changes;
    },
    index: `ALTER TABLE ${name} ADD INDEX (expires)`,
    *prune(now): Script<number> {
      const [[locked] = []] = yield [`SELECT GET_LOCK(${lock}, 0)`, `${table} prune`];
      if (Number(locked) !== 1) return 0;
      try {
        yield [`DELETE FROM ${name} WHERE expires <= ? LIMIT 500`, now];
        const [[count] = []] = yield "SELECT ROW_COUNT()";
        return Number(count);
      } finally {
        yield [`SELECT RELEASE_LOCK(${lock})`, `${table} prune`];
      }
    },
    *alone(script) {
      const [[patience] = []] = yield "SELECT @@SESSION.lock_wait_timeout";
      const [[locked] = []] = yield [`SELECT GET_LOCK(${lock}, 5)`, table];
      if (Number(locked) !== 1) {
        const error = new Error(`another process is preparing table ${name}`);
        throw Object.assign(error, { code: "ER_LOCK_WAIT_TIMEOUT" });
      }
      try {
        // Who waits for a lock makes all others wait: not for a long transaction of somebody else.
        yield "SET SESSION lock_wait_timeout = 1";
        return yield* script;
      } finally {
        yield `SET SESSION lock_wait_timeout = ${Number(patience)}`;
        yield [`SELECT RELEASE_LOCK(${lock})`, table];
      }
    },
    column: (column) => quoted(column, "`"),
    select(column, { columns }) {
      const quote = quoted(column, "`");
      const bytes = column === "expires" || columns.get(column)?.startsWith("varbinary");
      if (bytes || charset === "utf8mb4") return quote;
      return `CAST(CONVERT(${quote} USING utf8mb4) AS BINARY)`;
    },
    matches: (keys) => `\`key\` IN (${Array(keys).fill("?").join(", ")})`,
    value: (column) =>
      column !== "session" || charset === "utf8mb4"
        ? "?"
        : "CONVERT(CAST(? AS BINARY) USING utf8mb4)",
    overwrite: (columns) =>
      `ON DUPLICATE KEY UPDATE ${columns.map((name) => `${name} = VALUES(${name})`).join(", ")}`,
  };
}

/** What a connection says of itself. */
export interface Setting {
  /** The character set of text. */
  readonly charset: string | null;
  /** How many bytes the server accepts at once. */
  readonly packet: number;
}

/** Asks for the setting of a connection. */
export function* askSetting(): Script<Setting> {
  const [[charset, packet] = []] = yield "SELECT @@character_set_results, @@max_allowed_packet";
  return { charset: charset as string | null, packet: Number(packet) };
}

/** How keys and entries become the values of statements. */
export interface Encoder {
  /** Bounds of a batch that keep it below what the server accepts. */
  readonly limits: Limits;
  /** The values for some keys, in order. */
  keys(keys: string[]): unknown[];
  /**
   * The values of some rows, in order.
   *
   * @throws {TooLargeError} for an entry that the server would refuse.
   */
  rows(entries: Entry<string>[]): unknown[][];
}

/**
 * Encodes for the table as it is, and for connections with this setting.
 *
 * @param growth how many bytes longer a session can get on the wire than it is.
 */
export function encoder(
  { shape, values }: Statements,
  { charset, packet }: Setting,
  growth = (_session: string) => 0,
): Encoder {
  const binary = shape.columns.get("key")?.startsWith("varbinary");
  const encode = (key: unknown) => binary ? Buffer.from(String(key)) : key;
  // A table that could not be upgraded.
  const room = shape.columns.get("session")?.startsWith("text") ? 65_535 : Infinity;
  function row(entry: Entry<string>): unknown[] {
    const [key, session, ...others] = values(entry);
    const bytes = Buffer.byteLength(entry.value);
    const most = Math.min(room, packet - Buffer.byteLength(entry.key) - 64 - growth(entry.value));
    if (bytes > most) {
      const why = `it has ${bytes} bytes, and the server takes ${most}`;
      throw new TooLargeError(why, { operation: "write", key: entry.key });
    }
    return [encode(key), charset === "utf8mb4" ? session : Buffer.from(entry.value), ...others];
  }
  return {
    // Padding can double a batch, and UTF-8 has up to three bytes for what counts as one.
    limits: { keys: Math.min(128, packet >> 13), bytes: Math.min(1_000_000, packet >> 3) },
    keys(keys) {
      const values = [...keys].sort().map(encode);
      return padded(values, values.at(-1));
    },
    rows(entries) {
      const all = sorted(entries);
      const smallest = all.reduce((a, b) => a.value.length <= b.value.length ? a : b);
      return padded(all, smallest).map(row);
    },
  };
}

/** Errors by name: of mysql2, of the server. */
const codes = new Set([
  "PROTOCOL_CONNECTION_LOST",
  "PROTOCOL_SEQUENCE_TIMEOUT",
  "ER_CON_COUNT_ERROR",
  "ER_TOO_MANY_USER_CONNECTIONS",
  "ER_SERVER_SHUTDOWN",
  "ER_CONNECTION_KILLED",
  "ER_CLIENT_INTERACTION_TIMEOUT",
  "ER_QUERY_INTERRUPTED",
  "ER_LOCK_DEADLOCK",
  "ER_LOCK_WAIT_TIMEOUT",
  // Read-only: no longer the primary.
  "ER_OPTION_PREVENTS_STATEMENT",
  "ER_READ_ONLY_MODE",
  "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION",
  // A node of a cluster that is not ready.
  "ER_UNKNOWN_COM_ERROR",
  // The table was altered meanwhile, by somebody whom the lock does not keep out.
  "ER_NEED_REPREPARE",
  "ER_TABLE_DEF_CHANGED",
  "ER_TABLE_EXISTS_ERROR",
  "ER_DUP_FIELDNAME",
  "ER_DUP_ENTRY",
  "ER_CANT_DROP_FIELD_OR_KEY",
]);

/** Whether another attempt may succeed; it has another connection, for this one is given up. */
export function transient(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, message } = error as Error & { code?: string };
  return disconnected(error) || codes.has(code ?? "") || /in closed state$/.test(message);
}

/**
 * What MySQL and MariaDB have of their own: the table and its upgrade, their errors, and what is
 * used of mysql2.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Entry, Limits } from "./backend.ts";
import { isError, StoreError, TooLargeError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { described } from "./options.ts";
import { listen, padded, quoted, sorted, splitName } from "./sql.ts";
import type { Dialect, Lender, Row, Script, Statements } from "./sql.ts";
import * as sql from "./sql.ts";

type Callback<T = unknown> = (error: unknown, result: T) => void;

/** What is used of a pool of mysql2, the one with callbacks. */
export interface Pool {
  getConnection(callback: Callback<Connection>): void;
  on(event: "error", listener: (error: unknown) => void): unknown;
  end(callback: Callback): void;
}

/** What is used of a connection of mysql2. */
export interface Connection {
  execute(query: object, callback: Callback<Row[] | Done>): unknown;
  query(query: object, callback: Callback<Row[] | Done>): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
  release(): void;
  destroy(): void;
  /** What it sends; a stream of the application's own may not count. */
  readonly stream?: { readonly bytesWritten?: number };
  /** Settings of the pool. */
  readonly config?: { readonly typeCast?: unknown };
}

/** What the server says of a statement that returns no rows. */
interface Done {
  readonly affectedRows: number;
  /** Flags, of which the first says that a transaction is open. */
  readonly serverStatus?: number;
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
  const kinds = "a Pool of mysql2 or mysql2/promise";
  throw new TypeError(`MySQL: option "pool" must be ${kinds}, but is ${described(given)}`);
}

/** Lends the connections of a pool. */
export function lender(pool: Pool): Lender<Connection> {
  return {
    acquire: (callback) =>
      pool.getConnection((error, connection) => {
        if (!error) listen(connection, pool);
        callback(error, connection);
      }),
    release(connection, error) {
      if (error !== undefined) return connection.destroy();
      const sent = connection.stream?.bytesWritten;
      if (sent !== undefined && clean.has(connection)) clean.set(connection, sent);
      connection.release();
    },
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

/**
 * Runs a statement, prepared if it has values. One that returns no rows is committed when this
 * resolves, whatever the application made of the connection, and gives the number of affected rows.
 */
export function rows(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  return new Promise((resolve, reject) =>
    send(connection, sql, values, (error, result) => {
      if (error) reject(error);
      else if (Array.isArray(result)) resolve(result);
      else if (isPending(result)) resolve(commit(connection, sql, values));
      else resolve([[result.affectedRows]]);
    })
  );
}

function send(
  connection: Connection,
  sql: string,
  values: unknown[],
  callback: Callback<Row[] | Done>,
): void {
  const options = connection.config?.typeCast === true ? plain : cast;
  connection[values.length > 0 ? "execute" : "query"]({ ...options, sql, values }, callback);
}

/**
 * Runs a statement again that has become part of a transaction: either autocommit is off, or the
 * application left a transaction open, and to commit that is not for the store to do.
 */
async function commit(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  await finish(connection, "ROLLBACK");
  const result = await finish(connection, sql, values);
  if (isPending(result)) {
    clean.delete(connection);
    await finish(connection, "COMMIT");
  }
  return [[result.affectedRows]];
}

/** Runs a statement that returns no rows. */
function finish(connection: Connection, sql: string, values: unknown[] = []): Promise<Done> {
  return new Promise((resolve, reject) =>
    send(connection, sql, values, (error, result) => {
      if (error) reject(error);
      else resolve(result as Done);
    })
  );
}

/** Whether the statement is part of a transaction that is still open. */
function isPending({ serverStatus = 0 }: Done): boolean {
  return (serverStatus & 1) !== 0;
}

/** Whether each statement is a transaction by itself. */
function isAutocommit({ serverStatus = 2 }: Done): boolean {
  return (serverStatus & 2) !== 0;
}

/**
 * How many bytes each connection had sent when the store gave it back outside a transaction. If it has
 * sent more since, the application has used it.
 */
const clean = new WeakMap<Connection, number>();

/**
 * Reads what is stored now. In a transaction that the application left open, or with autocommit off,
 * the connection would go on reading what was stored when that began.
 */
export function read(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  const sent = connection.stream?.bytesWritten;
  if (sent !== undefined && clean.get(connection) === sent) return rows(connection, sql, values);
  return readAfresh(connection, sql, values);
}

async function readAfresh(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  const autocommit = isAutocommit(await finish(connection, "ROLLBACK"));
  const result = await rows(connection, sql, values);
  if (autocommit) {
    clean.set(connection, 0); // until it is given back
  } else {
    clean.delete(connection);
    await finish(connection, "ROLLBACK"); // the table is not locked any longer
  }
  return result;
}

/** The application may have set `sql_select_limit`, which counts where a query has no limit. */
const unlimited = "LIMIT 1000000";

/** A column that numbers the rows of a table that has no key, from the oldest to the newest. */
const rowNumber = "telegraf-session-row";

/** Where a table is: in a database, or in that of the connection, where it has none. */
export interface Place {
  readonly schema: string | undefined;
  readonly table: string;
}

/**
 * Where the table is: the application may choose another database on a connection later. A name with
 * a dot may be that of a database and a table, as upstream reads it.
 */
export function* locate(table: string, schema: string | undefined): Script<Place> {
  if (schema !== undefined) return { schema, table };
  const [otherSchema, otherTable] = splitName(table) ?? [];
  const [[current, found, other] = []] = yield [
    `SELECT DATABASE(),
      (SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?),
      (SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?)`,
    table,
    otherSchema ?? null,
    otherTable ?? null,
  ];
  if (Number(found) === 0 && Number(other) > 0) return { schema: otherSchema, table: otherTable! };
  return { schema: current === null ? undefined : String(current), table };
}

/**
 * The name of a lock, of at most 64 characters. It is made here, because MySQL 9.6 has moved `SHA1()`
 * out of the server; two tables that get the same one only wait for each other.
 */
function lockName(about: string): string {
  let hash = 0xcbf29ce484222325n; // FNV-1a
  for (const byte of Buffer.from(about)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return `telegraf-session:${hash.toString(16)}`;
}

/**
 * Runs the script while no other process has the lock. Without it where the server refuses locks, as
 * Percona XtraDB Cluster does, or has one per node, as Galera: all that they keep out is work done
 * twice.
 *
 * @param busy what comes of it when another process has the lock.
 */
function* withLock<T>(
  name: string,
  patience: number,
  { script, busy }: { script: Script<T>; busy(): T },
): Script<T> {
  let row: Row | undefined;
  try {
    [row] = yield [`SELECT GET_LOCK(?, ${patience})`, name];
  } catch (error) {
    if (transient(error)) throw error;
    return yield* script;
  }
  if (Number(row?.[0]) !== 1) return busy();
  try {
    return yield* script;
  } finally {
    yield ["SELECT RELEASE_LOCK(?)", name];
  }
}

/**
 * Keys are bytes where the column has become binary, which it is but for an old table. Sessions are
 * text, or bytes on a connection whose character set has not all signs.
 */
export function dialect({ schema, table }: Place, { charset }: Pick<Setting, "charset">): Dialect {
  const name = (schema === undefined ? "" : `${quoted(schema, "`")}.`) + quoted(table, "`");
  const database = schema ?? null;
  return {
    name,
    inspect: [
      `SELECT c.COLUMN_NAME, CONCAT_WS(' ', c.COLUMN_TYPE, c.CHARACTER_SET_NAME),
        IF(c.COLUMN_NAME = 'key', EXISTS (
          SELECT MAX(INDEX_NAME) FROM information_schema.STATISTICS
          WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? GROUP BY INDEX_NAME
          HAVING COUNT(*) = 1 AND MAX(NON_UNIQUE) = 0 AND MAX(COLUMN_NAME) = 'key'
            AND COUNT(SUB_PART) = 0
        ), EXISTS (
          SELECT * FROM information_schema.STATISTICS s WHERE TABLE_SCHEMA = ?
          AND TABLE_NAME = ? AND s.COLUMN_NAME = c.COLUMN_NAME AND SEQ_IN_INDEX = 1
        ))
      FROM information_schema.COLUMNS c WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ${unlimited}`,
      ...[database, table],
      ...[database, table],
      ...[database, table],
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
      if (!unique && !columns.has(rowNumber)) {
        alter.push(`ADD COLUMN \`${rowNumber}\` bigint NOT NULL AUTO_INCREMENT UNIQUE`);
      }
      if (alter.length > 0) changes.push(`ALTER TABLE ${name} ${alter.join(", ")}`);
      if (!unique) {
        changes.push(
          `DELETE old FROM ${name} old JOIN (
            SELECT \`key\`, MAX(\`${rowNumber}\`) AS newest FROM ${name} GROUP BY \`key\`
          ) kept ON old.\`key\` = kept.\`key\` AND old.\`${rowNumber}\` < kept.newest`,
          `ALTER TABLE ${name} DROP COLUMN \`${rowNumber}\`,
            ADD UNIQUE \`telegraf-session-key\` (\`key\`)`,
        );
      } else if (columns.has(rowNumber)) {
        // Two processes upgraded the table at the same time, without a lock.
        changes.push(`ALTER TABLE ${name} DROP COLUMN \`${rowNumber}\``);
      }
      return changes;
    },
    index: `ALTER TABLE ${name} ADD INDEX \`telegraf-session-expires\` (expires)`,
    prune(now): Script<number> {
      function* script(): Script<number> {
        const [[count] = []] = yield [`DELETE FROM ${name} WHERE expires <= ? LIMIT 500`, now];
        return Number(count);
      }
      return withLock(lockName(`${name} prune`), 0, { script: script(), busy: () => 0 });
    },
    *alone<T>(script: Script<T>): Script<T> {
      const [[patience] = []] = yield "SELECT @@SESSION.lock_wait_timeout";
      function* patiently(): Script<T> {
        try {
          // A queued ALTER TABLE blocks all later queries, so it must not wait for a transaction of
          // the application.
          yield "SET SESSION lock_wait_timeout = 1";
          return yield* script;
        } finally {
          yield `SET SESSION lock_wait_timeout = ${Number(patience)}`;
        }
      }
      return yield* withLock(lockName(name), 5, {
        script: patiently(),
        busy() {
          const error = new Error(`another process is preparing table ${name}`);
          throw Object.assign(error, { code: "ER_LOCK_WAIT_TIMEOUT" });
        },
      });
    },
    column: (column) => quoted(column, "`"),
    limit: unlimited,
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

/** A table that is ready, and the setting of the connection that it was prepared on. */
export interface Prepared {
  readonly statements: Statements;
  readonly setting: Setting;
}

/** Prepares the table where it is, or where it belongs. */
export function* prepareTable(
  table: string,
  schema: string | undefined,
  tools: Omit<sql.Tools, "transient">,
  adapt: (dialect: Dialect) => Dialect = (dialect) => dialect,
): Script<Prepared> {
  const setting = yield* askSetting();
  const own = adapt(dialect(yield* locate(table, schema), setting));
  return { statements: yield* sql.prepareTable(own, { transient, ...tools }), setting };
}

/** What a connection says of itself. */
export interface Setting {
  /** The character set of text. */
  readonly charset: string | null;
  /** How many bytes the server accepts at once. */
  readonly packet: number;
}

/** Asks for the setting of a connection. */
function* askSetting(): Script<Setting> {
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

/** What differs where a driver writes values into the text of a statement. */
export interface Literals {
  /** How many bytes longer a session can get on the wire than it is. */
  growth(session: string): number;
  /** Throws for a key that a literal cannot hold. */
  checkKey(key: string): void;
  /** Makes of a session what its literal can hold. */
  encodeSession(session: string): string;
}

/**
 * Checks a key for a column of an older version: without strict mode the server would cut it, or put
 * question marks in place of characters, so that it became the key of another session.
 *
 * @throws {StoreError} for a key that the column does not take.
 */
function checkOldKey(type: string, key: string): void {
  const [, length = Infinity, charset] = /^(?:var)?char\((\d+)\) (\w+)/.exec(type) ?? [];
  const options = { operation: "write", key } as const;
  if ([...key].length > Number(length)) {
    throw new StoreError(
      `the key is too long; the column's limit is ${length} characters`,
      options,
    );
  }
  const fits = /^utf8/.test(charset!) || (charset === "latin1" ? /^[\0-\xff]*$/ : /^[\0-\x7f]*$/)
    .test(key);
  if (!fits) {
    throw new StoreError("the column's character set lacks characters of the key", options);
  }
}

/** The same JSON in ASCII. */
function escaped(json: string): string {
  return json.replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Encodes for the table as it is, and for connections with this setting. */
export function encoder(
  { shape, values }: Statements,
  { charset, packet }: Setting,
  { growth, checkKey, encodeSession }: Partial<Literals> = {},
): Encoder {
  const { key: keyType = "", session: sessionType = "" } = Object.fromEntries(shape.columns);
  const binary = keyType.startsWith("varbinary");
  const encode = (key: unknown) => binary ? Buffer.from(String(key)) : key;
  // A table that could not be upgraded.
  const room = sessionType.startsWith("text") ? 65_535 : Infinity;
  const ascii = !sessionType.endsWith("utf8mb4");
  function row(old: Entry<string>): unknown[] {
    const entry = ascii ? { ...old, value: escaped(old.value) } : old;
    const [key, session, ...others] = values(entry);
    const bytes = Buffer.byteLength(entry.value);
    const more = growth?.(entry.value) ?? 0;
    const most = Math.min(room, packet - Buffer.byteLength(entry.key) - 64 - more);
    if (bytes > most) {
      const why = `session is ${bytes} bytes; the server's limit is ${most}`;
      throw new TooLargeError(why, { operation: "write", key: entry.key });
    }
    if (!binary) {
      checkOldKey(keyType, entry.key);
      checkKey?.(entry.key);
    }
    const text = encodeSession?.(entry.value) ??
      (charset === "utf8mb4" ? session : Buffer.from(entry.value));
    return [encode(key), text, ...others];
  }
  return {
    // Padding can double a batch, and UTF-8 has up to three bytes for what counts as one.
    limits: { keys: Math.min(128, packet >> 13), bytes: Math.min(1_000_000, packet >> 3) },
    keys(keys) {
      if (!binary && checkKey !== undefined) keys.forEach(checkKey);
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

/**
 * Errors that pass, by the names that mysql2 gives them, or by number where it has no name for one of
 * MariaDB; `docs/errors.md` has each with its reason, and those that do not.
 */
const codes = new Set<unknown>([
  "PROTOCOL_CONNECTION_LOST",
  "PROTOCOL_PACKETS_OUT_OF_ORDER",
  "PROTOCOL_SEQUENCE_TIMEOUT",
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

/** What has no code of its own; the last one: another process has just ended the same upgrade. */
const messages = new RegExp([
  "in closed state$",
  "^No connections available\\.$",
  "^Queue limit reached\\.$",
  "code = (Unavailable|Aborted|ResourceExhausted|DeadlineExceeded)", // Vitess
  `Unknown column '(\\w+\\.)?${rowNumber}'`,
].join("|"));

/** Whether another attempt may succeed; it has another connection, because this one is discarded. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, errno, message } = error as Error & { code?: string; errno?: number };
  return disconnected(error) || codes.has(code) || codes.has(errno) || messages.test(message);
}

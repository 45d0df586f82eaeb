/**
 * MySQL and MariaDB: the table and its upgrade, transactions, encoding, errors, and the interfaces of
 * mysql2.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Entry, Limits } from "./backend.ts";
import { isError, StoreError, TooLargeError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { described } from "./options.ts";
import { addErrorListener, padToPowerOfTwo, quoted, sortByKey, splitName } from "./sql.ts";
import type { Dialect, PoolAdapter, Row, Script, Statements } from "./sql.ts";
import * as sql from "./sql.ts";

type Callback<T = unknown> = (error: unknown, result: T) => void;

/** The part of a pool of mysql2, with callbacks, that is used. */
export interface Pool {
  getConnection(callback: Callback<Connection>): void;
  on(event: "error", listener: (error: unknown) => void): unknown;
  end(callback: Callback): void;
}

/** The part of a connection of mysql2 that is used. */
export interface Connection {
  execute(query: object, callback: Callback<Row[] | Done>): unknown;
  query(query: object, callback: Callback<Row[] | Done>): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
  release(): void;
  destroy(): void;
  /** Counts the bytes sent. A stream that the application provides may not count them. */
  readonly stream?: { readonly bytesWritten?: number };
  /** Settings of the pool. */
  readonly config?: { readonly typeCast?: unknown };
}

/** The server's answer to a statement that returns no rows. */
interface Done {
  readonly affectedRows: number;
  /** Flags. Bit 0: a transaction is open. Bit 1: autocommit is on. */
  readonly serverStatus?: number;
}

/** The properties by which a pool of mysql2 or mysql2/promise is recognized. */
export interface MySQLPool {
  getConnection: (...args: never[]) => unknown;
  execute: (...args: never[]) => unknown;
}

/**
 * Checks a pool by duck typing because a user may have another installed version of the driver. For a
 * pool with promises it returns the underlying pool with callbacks.
 *
 * @throws {TypeError} if the pool is not supported.
 */
export function checkPool(given: MySQLPool): Pool {
  const { pool = given } = given as { pool?: unknown };
  const { getConnection, execute, promise } = Object(pool);
  const methods = [getConnection, execute, promise];
  if (methods.every((method) => typeof method === "function")) return pool as Pool;
  const kinds = "a Pool of mysql2 or mysql2/promise";
  throw new TypeError(`MySQL: option "pool" must be ${kinds}, but is ${described(given)}`);
}

/** How `withConnection` uses the pool. */
export function poolAdapter(pool: Pool): PoolAdapter<Connection> {
  return {
    acquire: (callback) =>
      pool.getConnection((error, connection) => {
        if (!error) addErrorListener(connection, pool);
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
export function endPool(pool: Pool): Promise<void> {
  return new Promise((resolve, reject) => pool.end((error) => error ? reject(error) : resolve()));
}

/** Returns rows as the server sent them, whatever the settings of the pool are. */
const plain = { rowsAsArray: true, nestTables: false };
/** The same for a pool with a `typeCast`. Replaces it by one that does nothing, which is slower. */
const uncast = { ...plain, typeCast: (_field: unknown, next: () => unknown) => next() };

/**
 * Runs a statement, prepared if it has values. A statement without a result set is committed when this
 * resolves, whatever the application did to the connection; its only row has the number of affected
 * rows.
 */
export function rows(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  return new Promise((resolve, reject) =>
    send(connection, sql, values, (error, result) => {
      if (error) reject(error);
      else if (Array.isArray(result)) resolve(result);
      else if (isPending(result)) resolve(runCommitted(connection, sql, values));
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
  const options = connection.config?.typeCast === true ? plain : uncast;
  connection[values.length > 0 ? "execute" : "query"]({ ...options, sql, values }, callback);
}

/**
 * Repeats a statement that has become part of a transaction because autocommit is off, or because the
 * application left a transaction open. The store must not commit the application's transaction.
 */
async function runCommitted(
  connection: Connection,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  await execute(connection, "ROLLBACK");
  const result = await execute(connection, sql, values);
  if (isPending(result)) {
    clean.delete(connection);
    await execute(connection, "COMMIT");
  }
  return [[result.affectedRows]];
}

/** Runs a statement without a result set. */
function execute(connection: Connection, sql: string, values: unknown[] = []): Promise<Done> {
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

/** Whether autocommit is on. */
function isAutocommit({ serverStatus = 2 }: Done): boolean {
  return (serverStatus & 2) !== 0;
}

/**
 * How many bytes each connection had sent when the store released it outside a transaction. If it has
 * sent more since then, the application has used it.
 */
const clean = new WeakMap<Connection, number>();

/**
 * Reads the current rows. In a transaction that the application left open, or with autocommit off, the
 * connection would still see the snapshot of the moment when the transaction began.
 */
export function read(connection: Connection, sql: string, values: unknown[]): Promise<Row[]> {
  const sent = connection.stream?.bytesWritten;
  if (sent !== undefined && clean.get(connection) === sent) return rows(connection, sql, values);
  return readAfterRollback(connection, sql, values);
}

async function readAfterRollback(
  connection: Connection,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  const autocommit = isAutocommit(await execute(connection, "ROLLBACK"));
  const result = await rows(connection, sql, values);
  if (autocommit) {
    clean.set(connection, 0); // `release` sets the number
  } else {
    clean.delete(connection);
    await execute(connection, "ROLLBACK"); // releases the metadata lock
  }
  return result;
}

/** Overrides `sql_select_limit`, which the application may have set. */
const unlimited = "LIMIT 1000000";

/** A temporary column that numbers the rows of a table without a key, from the oldest to the newest. */
const rowNumber = "telegraf-session-row";

/** The name of a table. Without `schema` it is in the database of the connection. */
export interface TableName {
  readonly schema: string | undefined;
  readonly table: string;
}

/**
 * Finds the table and returns its name with its database, because the application may choose another
 * database on a connection later. A name with a dot may be a database and a table, as 2.0.0-beta reads
 * it.
 */
export function* locate(table: string, schema: string | undefined): Script<TableName> {
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
 * The name of a lock, of at most 64 characters. Computed here because MySQL 9.6 has no `SHA1()` by
 * default. If two tables get the same name, they only wait for each other.
 */
function lockName(about: string): string {
  let hash = 0xcbf29ce484222325n; // FNV-1a
  for (const byte of Buffer.from(about)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return `telegraf-session:${hash.toString(16)}`;
}

/**
 * Runs the script while no other process has the lock. Runs it without the lock if the server refuses
 * locks, as Percona XtraDB Cluster does. (In Galera each node has its own.) The lock only prevents that
 * two processes do the same work.
 *
 * @param seconds how long to wait for the lock.
 * @param busy returns the result if another process has the lock.
 */
function* withLock<T>(
  name: string,
  seconds: number,
  { script, busy }: { script: Script<T>; busy(): T },
): Script<T> {
  let row: Row | undefined;
  try {
    [row] = yield [`SELECT GET_LOCK(?, ${seconds})`, name];
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
 * The SQL of a table. Keys are sent as bytes, except to an old table whose key column is not VARBINARY.
 * Sessions are sent as text, or as bytes if the connection's character set is not utf8mb4.
 */
export function dialect(
  { schema, table: name }: TableName,
  { charset }: Pick<Settings, "charset">,
): Dialect {
  const table = (schema === undefined ? "" : `${quoted(schema, "`")}.`) + quoted(name, "`");
  const database = schema ?? null;
  return {
    table,
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
      ...[database, name],
      ...[database, name],
      ...[database, name],
    ],
    changes(shape) {
      if (shape === undefined) {
        return [
          `CREATE TABLE ${table} (\`key\` varbinary(512) PRIMARY KEY,
            session longtext CHARACTER SET utf8mb4, expires bigint)
          ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4`,
        ];
      }
      // DDL cannot be rolled back: if a process dies, the next one continues from any of these states.
      const { columns, unique } = shape;
      const key = columns.get("key") ?? "";
      const [type, charset = "binary"] = key.split(" ");
      const changes: string[] = [];
      if (!/^(utf8|ascii|binary)/.test(charset)) {
        // Converts keys to UTF-8. With a binary collation different keys stay different.
        const utf8 = `${type} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`;
        changes.push(`ALTER TABLE ${table} MODIFY \`key\` ${utf8}`);
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
      if (alter.length > 0) changes.push(`ALTER TABLE ${table} ${alter.join(", ")}`);
      if (!unique) {
        changes.push(
          `DELETE old FROM ${table} old JOIN (
            SELECT \`key\`, MAX(\`${rowNumber}\`) AS newest FROM ${table} GROUP BY \`key\`
          ) kept ON old.\`key\` = kept.\`key\` AND old.\`${rowNumber}\` < kept.newest`,
          `ALTER TABLE ${table} DROP COLUMN \`${rowNumber}\`,
            ADD UNIQUE \`telegraf-session-key\` (\`key\`)`,
        );
      } else if (columns.has(rowNumber)) {
        // Two processes upgraded the table at the same time, without a lock.
        changes.push(`ALTER TABLE ${table} DROP COLUMN \`${rowNumber}\``);
      }
      return changes;
    },
    index: `ALTER TABLE ${table} ADD INDEX \`telegraf-session-expires\` (expires)`,
    prune(now): Script<number> {
      function* script(): Script<number> {
        const [[count] = []] = yield [`DELETE FROM ${table} WHERE expires <= ? LIMIT 500`, now];
        return Number(count);
      }
      return withLock(lockName(`${table} prune`), 0, { script: script(), busy: () => 0 });
    },
    *underSchemaLock<T>(script: Script<T>): Script<T> {
      const [[lockTimeout] = []] = yield "SELECT @@SESSION.lock_wait_timeout";
      function* withShortTimeout(): Script<T> {
        try {
          // A queued ALTER TABLE blocks all later queries, so it must not wait for a transaction of
          // the application.
          yield "SET SESSION lock_wait_timeout = 1";
          return yield* script;
        } finally {
          yield `SET SESSION lock_wait_timeout = ${Number(lockTimeout)}`;
        }
      }
      return yield* withLock(lockName(table), 5, {
        script: withShortTimeout(),
        busy() {
          const error = new Error(`another process is preparing table ${table}`);
          throw Object.assign(error, { code: "ER_LOCK_WAIT_TIMEOUT" });
        },
      });
    },
    column: (column) => quoted(column, "`"),
    selectSuffix: unlimited,
    select(column, { columns }) {
      const name = quoted(column, "`");
      const bytes = column === "expires" || columns.get(column)?.startsWith("varbinary");
      if (bytes || charset === "utf8mb4") return name;
      return `CAST(CONVERT(${name} USING utf8mb4) AS BINARY)`;
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

/** A table that is ready, and the settings of the connection on which it was prepared. */
export interface Prepared {
  readonly statements: Statements;
  readonly settings: Settings;
}

/** Finds the table, then creates or upgrades it. */
export function* prepareTable(
  table: string,
  schema: string | undefined,
  options: Omit<sql.SchemaOptions, "transient">,
  adapt: (dialect: Dialect) => Dialect = (dialect) => dialect,
): Script<Prepared> {
  const settings = yield* readSettings();
  const own = adapt(dialect(yield* locate(table, schema), settings));
  return { statements: yield* sql.prepareTable(own, { transient, ...options }), settings };
}

/** Settings of a connection. */
export interface Settings {
  /** The character set of results. */
  readonly charset: string | null;
  /** The most bytes of one message to the server. */
  readonly maxAllowedPacket: number;
}

function* readSettings(): Script<Settings> {
  const [[charset, size] = []] = yield "SELECT @@character_set_results, @@max_allowed_packet";
  return { charset: charset as string | null, maxAllowedPacket: Number(size) };
}

/** How keys and entries become the values of statements. */
export interface Encoder {
  /** Limits that keep a batch below `max_allowed_packet`. */
  readonly limits: Limits;
  /** The values of keys, in order. */
  keys(keys: string[]): unknown[];
  /**
   * The values of entries, in order.
   *
   * @throws {TooLargeError} if an entry is too large for the server.
   */
  rows(entries: Entry<string>[]): unknown[][];
}

/** The differences for a driver that writes values as literals into the text of a statement. */
export interface Literals {
  /** How many bytes a session can grow on the wire. */
  escapedGrowth(session: string): number;
  /** Throws if a literal cannot hold the key. */
  checkKey(key: string): void;
  /** Encodes a session as text that needs no escaping. */
  encodeSession(session: string): string;
}

/**
 * Checks a key for the key column of an older version. Without strict mode the server would truncate it,
 * or replace characters by question marks, so that it could become the key of another session.
 *
 * @throws {StoreError} if the column cannot hold the key.
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

/** The encoder for a table and for connections with these settings. */
export function encoder(
  { shape, values }: Statements,
  { charset, maxAllowedPacket }: Settings,
  { escapedGrowth, checkKey, encodeSession }: Partial<Literals> = {},
): Encoder {
  const { key: keyType = "", session: sessionType = "" } = Object.fromEntries(shape.columns);
  const binary = keyType.startsWith("varbinary");
  const encode = (key: unknown) => binary ? Buffer.from(String(key)) : key;
  // The column is `text` in an old table that could not be upgraded.
  const columnCapacity = sessionType.startsWith("text") ? 65_535 : Infinity;
  const ascii = !sessionType.endsWith("utf8mb4");
  function row(old: Entry<string>): unknown[] {
    const entry = ascii ? { ...old, value: escaped(old.value) } : old;
    const [key, session, ...others] = values(entry);
    const bytes = Buffer.byteLength(entry.value);
    const growth = escapedGrowth?.(entry.value) ?? 0;
    const limit = Math.min(
      columnCapacity,
      maxAllowedPacket - Buffer.byteLength(entry.key) - 64 - growth,
    );
    if (bytes > limit) {
      const why = `session is ${bytes} bytes; the server's limit is ${limit}`;
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
    // Padding can double a batch, and one unit of `size` may have three bytes in UTF-8.
    limits: {
      keys: Math.min(128, maxAllowedPacket >> 13),
      bytes: Math.min(1_000_000, maxAllowedPacket >> 3),
    },
    keys(keys) {
      if (!binary && checkKey !== undefined) keys.forEach(checkKey);
      const values = [...keys].sort().map(encode);
      return padToPowerOfTwo(values, values.at(-1));
    },
    rows(entries) {
      const all = sortByKey(entries);
      const smallest = all.reduce((a, b) => a.value.length <= b.value.length ? a : b);
      return padToPowerOfTwo(all, smallest).map(row);
    },
  };
}

/**
 * Codes of transient errors, by name, or by number for errors of MariaDB that mysql2 has no name for.
 * `docs/errors.md` gives the reason for each.
 */
const transientCodes = new Set<unknown>([
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
  return disconnected(error) || transientCodes.has(code) || transientCodes.has(errno) ||
    transientMessages.test(message);
}

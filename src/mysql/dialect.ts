/**
 * The table in MySQL and MariaDB, and its upgrade.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  type Dialect,
  type LeaseStatements,
  quoted,
  type Shape,
  splitName,
} from "../sql/dialect.ts";
import { prepareTable, type SchemaOptions } from "../sql/schema.ts";
import type { Row, Script } from "../sql/script.ts";
import { memoized, type Statements } from "../sql/statements.ts";
import { rowNumber, transient } from "./errors.ts";

/** Overrides `sql_select_limit`, which the application may have set. */
const unlimited = "LIMIT 1000000";

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
export function dialect({ schema, table: name }: TableName, settings: Settings): Dialect {
  const { charset } = settings;
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
          // Compares bytes: without a lock, another process may have made the key text again, and as text
          // "k" equals "k ".
          `DELETE old FROM ${table} old JOIN (
            SELECT CAST(\`key\` AS BINARY) AS bytes, MAX(\`${rowNumber}\`) AS newest
            FROM ${table} GROUP BY CAST(\`key\` AS BINARY)
          ) kept ON CAST(old.\`key\` AS BINARY) = kept.bytes AND old.\`${rowNumber}\` < kept.newest`,
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
    prune(now, free): Script<number> {
      function* script(): Script<number> {
        const [[count] = []] = yield [
          `DELETE FROM ${table} WHERE expires <= ?${free} LIMIT 500`,
          now,
        ];
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
    keyInBytes: ({ columns }) =>
      columns.get("key")?.startsWith("varbinary") ? quoted("key", "`") : undefined,
    selectSuffix: unlimited,
    select(column, { columns }) {
      const name = quoted(column, "`");
      const bytes = column === "expires" || columns.get(column)?.startsWith("varbinary");
      if (bytes || charset === "utf8mb4") return name;
      return `CAST(CONVERT(${name} USING utf8mb4) AS BINARY)`;
    },
    matches: (keys) => `\`key\` IN (${Array(keys).fill("?").join(", ")})`,
    value: (column) => column !== "session" || charset === "utf8mb4" ? "?" : fromBytes,
    // A digest because the packet must not be larger than that of a write, and because collations of
    // old tables ignore case. MySQL 9.6 has no other digest by default.
    sessionIs: () => "SHA2(CONVERT(session USING utf8mb4), 256) = ?",
    overwrite: (columns) =>
      `ON DUPLICATE KEY UPDATE ${columns.map((name) => `${name} = VALUES(${name})`).join(", ")}`,
    leaseColumns: { lease: "varbinary(255)", until: "bigint", note: "varbinary(2000)" },
    now,
    leases(shape) {
      return leases(this, shape, settings);
    },
  };
}

/** Does not depend on the time zone, which may have an hour twice. */
const now = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000";

/**
 * The statements on leases. The assignments of `ON DUPLICATE KEY UPDATE` run from left to right, or all
 * at the same time in MariaDB's SQL mode SIMULTANEOUS_ASSIGNMENT.
 */
/** A session whose bytes are a value. */
const fromBytes = "CONVERT(CAST(? AS BINARY) USING utf8mb4)";

function leases(dialect: Dialect, shape: Shape, { returning }: Settings): LeaseStatements {
  const { table, value } = dialect;
  const columns = ["key", "session", "expires"].map((name) => dialect.select(name, shape));
  const selected = [...columns, "lease", "note"].join(", ");
  const marks = (count: number, marks: string) => Array(count).fill(marks).join(", ");
  const granted = `${table}.lease = VALUES(lease)
    OR ${table}.\`until\` IS NULL OR ${table}.\`until\` <= ${now}`;
  const given = value("session", 0);
  // As text it would be a VARCHAR of the derived table, and MySQL 8.0.22 and newer truncate that to 64 KB.
  const session = given === "?" ? fromBytes : given;
  const held = `SELECT ${
    columns[0]
  }, lease, \`until\` - (${now}) FROM ${table} WHERE \`until\` > ${now}`;
  const remove = (count: number) =>
    `DELETE FROM ${table} WHERE note IS NULL AND (\`key\`, lease) IN (${marks(count, "(?, ?)")})`;
  return {
    most: 128,
    claimReturns: returning,
    returnsKeys: false,
    claim: memoized((count) =>
      `INSERT INTO ${table} (\`key\`, lease, \`until\`)
      VALUES ${marks(count, `(?, ?, (${now}) + ?)`)}
      ON DUPLICATE KEY UPDATE
        lease = IF(${granted}, VALUES(lease), ${table}.lease),
        \`until\` = IF(${granted}, VALUES(\`until\`), ${table}.\`until\`)
      ${returning ? `RETURNING ${selected}` : ""}`
    ),
    settle: memoized((count) => {
      const row =
        `SELECT ? AS k, ? AS t, ? AS length, ? AS \`write\`, ${session} AS s, ? AS e, ? AS n`;
      // ROW and STORED are reserved words.
      return `UPDATE (${Array(count).fill(row).join(" UNION ALL ")}) AS new
      STRAIGHT_JOIN ${table} AS kept ON kept.\`key\` = new.k AND kept.lease = new.t
      SET kept.session = IF(new.\`write\` = 1, new.s, kept.session),
        kept.expires = IF(new.\`write\` = 1, new.e, kept.expires),
        kept.note = IFNULL(new.n, kept.note),
        kept.\`until\` = IF(new.length > 0, (${now}) + new.length, 0)`;
    }),
    remove: memoized(remove),
    removeAbsent: memoized((count) => `${remove(count)} AND session IS NULL`),
    // FOR UPDATE reads the newest row in any transaction, and no proxy sends it to a replica.
    read: memoized((count) =>
      `SELECT ${selected} FROM ${table} WHERE \`key\` IN (${
        marks(count, "?")
      }) ${unlimited} FOR UPDATE`
    ),
    held: memoized((size) => `${held} AND \`key\` > ? ORDER BY \`key\` LIMIT ${size}`),
    find: memoized((count) => `${held} AND \`key\` IN (${marks(count, "?")}) ${unlimited}`),
  };
}

/** A table that is ready, and the settings of the connection on which it was prepared. */
export interface Prepared {
  readonly statements: Statements;
  readonly settings: Settings;
}

/** Creates or upgrades the table. */
export function* prepare(
  place: TableName,
  options: Omit<SchemaOptions, "transient">,
  adapt: (dialect: Dialect) => Dialect = (dialect) => dialect,
): Script<Prepared> {
  const settings = yield* readSettings();
  // Before 5.6 the time has no fractions.
  if (options.leasing) requireVersion(settings, "the lease of a session");
  const own = adapt(dialect(place, settings));
  return { statements: yield* prepareTable(own, { transient, ...options }), settings };
}

/** @throws {Error} if the server is older than MySQL 5.6. MariaDB and others have other numbers. */
export function requireVersion({ version }: Settings, feature: string): void {
  const [, major, minor] = /^(\d+)\.(\d+)\.\d+(?!.*MariaDB)/i.exec(version) ?? [];
  if (major === undefined || Number(major) * 100 + Number(minor) >= 506) return;
  throw new Error(`${feature} needs MySQL 5.6 or newer, but the server is MySQL ${version}`);
}

/** Settings of a connection. */
export interface Settings {
  /** The character set of results. */
  readonly charset: string | null;
  /** The most bytes of one message to the server. */
  readonly maxAllowedPacket: number;
  readonly version: string;
  /** Whether the server has INSERT … RETURNING: MariaDB 10.5 or newer. */
  readonly returning: boolean;
}

function* readSettings(): Script<Settings> {
  const [[charset, size, version] = []] =
    yield "SELECT @@character_set_results, @@max_allowed_packet, @@version";
  return {
    charset: charset as string | null,
    maxAllowedPacket: Number(size),
    version: String(version),
    returning: /^(1[1-9]\.|10\.([5-9]|1\d)\.).*MariaDB/.test(String(version)),
  };
}

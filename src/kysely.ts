/**
 * Kysely: the family of its database, running statements through it, and how they differ from those of
 * the entries with a driver. The tables are the same.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { isError } from "./errors.ts";
import * as mysql from "./mysql.ts";
import { described } from "./options.ts";
import * as pg from "./pg.ts";
import * as sql from "./sql.ts";
import type { Dialect, Row, Script, Statements } from "./sql.ts";
import * as sqlite from "./sqlite.ts";

/** The part of a Kysely that is used. */
export interface Database {
  readonly isTransaction: boolean;
  withoutPlugins(): Database;
  updateTable(table: string): { set(values: object): { compile(): { sql: string } } };
  executeQuery(query: object): Promise<{ rows: object[]; numAffectedRows?: bigint }>;
  connection(): Builder;
  transaction(): Builder;
  destroy(): Promise<void>;
}

/** Runs work on one connection, or in a transaction. */
interface Builder {
  execute<T>(work: (database: Database) => Promise<T>): Promise<T>;
}

/** The properties by which a Kysely is recognized. */
export interface KyselyDatabase {
  connection: (...args: never[]) => unknown;
  executeQuery: (...args: never[]) => unknown;
  withoutPlugins: (...args: never[]) => unknown;
}

/** The properties by which a dialect of Kysely is recognized. */
export interface KyselyDialect {
  createDriver: (...args: never[]) => unknown;
  createQueryCompiler: (...args: never[]) => unknown;
}

/**
 * Checks a Kysely by duck typing because a user may have another installed version. Returns it without
 * its plugins because they may change statements and sessions.
 *
 * @throws {TypeError} if the Kysely or its database is not supported.
 */
export function checkDatabase(given: KyselyDatabase, schema?: string): Database {
  const { connection, executeQuery, withoutPlugins, isTransaction } = given as unknown as Database;
  const methods = [connection, executeQuery, withoutPlugins];
  if (isTransaction || !methods.every((method) => typeof method === "function")) {
    const found = isTransaction ? "a transaction" : described(given);
    throw new TypeError(`KyselyStore: option "db" must be a Kysely, but is ${found}`);
  }
  const db = (given as unknown as Database).withoutPlugins();
  familyOf(db, schema);
  return db;
}

/** The supported families of databases. */
export type Family = "PostgreSQL" | "MySQL" | "SQLite";

/** A statement as each family compiles it. The query compiler is more reliable than the adapter. */
const families: ReadonlyMap<string, Family> = new Map([
  ['update "t" set "c" = $1', "PostgreSQL"],
  ["update `t` set `c` = ?", "MySQL"],
  ['update "t" set "c" = ?', "SQLite"],
]);

/**
 * The family of a database.
 *
 * @throws {TypeError} if it is none of these, or if it has no schemas and one is given.
 */
export function familyOf(db: Database, schema?: string): Family {
  const family = families.get(db.updateTable("t").set({ c: 1 }).compile().sql);
  if (family === undefined) {
    const names = [...families.values()].join(", ");
    throw new TypeError(`KyselyStore: the dialect must be of one of these families: ${names}`);
  }
  if (schema !== undefined && family === "SQLite") {
    throw new TypeError(
      'KyselyStore: option "schema" is for PostgreSQL and MySQL, but this is SQLite',
    );
  }
  return family;
}

/** Runs a statement. */
export async function rows(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  // The same as Kysely's `CompiledQuery.raw` makes.
  const query = { kind: "RawNode", sqlFragments: [sql], parameters: [] };
  const queryId = { queryId: "telegraf-session" };
  const { rows, numAffectedRows } = await db.executeQuery({ sql, parameters, query, queryId });
  if (prunes.test(sql)) return [[numAffectedRows]];
  return rows.map((row) => Object.values(row));
}

/** The statement that prunes in MySQL. It returns no rows, only their number. */
const prunes = /^DELETE .* LIMIT \d+$/;

/**
 * Runs a statement in its own transaction, in databases like MySQL. Autocommit may be off, or the
 * application may have left a transaction open, which the store must not commit.
 */
function runCommitted(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await runAfterRollback(connection, sql, parameters);
    await rows(connection, "COMMIT", []);
    return result;
  });
}

/** Ends a transaction that the application left open. Its snapshot would hide newer rows. */
async function runAfterRollback(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  await rows(db, "ROLLBACK", []);
  return await rows(db, sql, parameters);
}

/** Selects the ID of the transaction if one is open and has changed something, otherwise NULL. */
const openTransaction = "SELECT txid_current_if_assigned()";

/**
 * Runs a statement that changes sessions, in databases like PostgreSQL. Repeats it if the application had
 * left a transaction open, which the store must not commit.
 */
function runOutsideTransaction(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await rows(connection, sql, parameters);
    const [[open] = []] = await rows(connection, openTransaction, []);
    if (open === null || open === undefined) return result;
    await rows(connection, "ROLLBACK", []);
    return await rows(connection, sql, parameters);
  });
}

/** Whether the database knows this function. A database that is only like PostgreSQL may not. */
function* reportsTransactions(): Script<boolean> {
  try {
    yield openTransaction;
    return true;
  } catch (error) {
    if (transient(error)) throw error;
    return false;
  }
}

/** Runs a script on one connection. */
export function runScript<T>(db: Database, script: Script<T>): Promise<T> {
  return db.connection().execute((connection) => {
    const run = async (text: string, values: unknown[]): Promise<Row[]> => {
      if (prunes.test(text)) return await runCommitted(connection, text, values);
      if (text !== transaction) return await rows(connection, text, values);
      const [script] = values as [Script<unknown>];
      return [[
        await connection.transaction().execute((it) => sql.runScript(script, rows.bind(null, it))),
      ]];
    };
    return sql.runScript(script, run);
  });
}

/** Stands for a script in a transaction. Kysely begins it because some dialects have no BEGIN. */
const transaction = "BEGIN";

/** A table that is ready, with the encoder for the values of its statements. */
export interface Table extends mysql.Encoder {
  readonly statements: Statements;
  /** Runs a query of sessions. */
  read: typeof rows;
  /** Runs a statement that changes sessions. */
  write: typeof rows;
}

/** Creates or upgrades the table in a database of any family. */
export function* prepare(
  family: Family,
  table: string,
  schema: string | undefined,
  opening: Omit<sql.SchemaOptions, "transient">,
): Script<Table> {
  yield* checkRows();
  if (family !== "MySQL") {
    const dialect = family === "SQLite"
      ? sqliteDialect(table)
      : postgresDialect(yield* pg.locate(table, schema));
    const statements = yield* sql.prepareTable(dialect, { ...opening, transient });
    return {
      statements,
      read: rows,
      write: family === "PostgreSQL" && (yield* reportsTransactions())
        ? runOutsideTransaction
        : rows,
      // D1 takes 100 values in a statement, and an entry has three.
      limits: { keys: family === "SQLite" ? 32 : 128, bytes: 1_000_000 },
      keys: (keys) => [...keys].sort(),
      rows: (entries) => sql.sortByKey(entries).map(statements.values),
    };
  }
  const options = { ...opening, transient };
  const { statements, settings } = yield* mysql.prepareTable(table, schema, options, mysqlDialect);
  const [[autocommit] = []] = yield "SELECT @@autocommit";
  const encoder = mysql.encoder(statements, settings, literals);
  const { keys, bytes } = encoder.limits;
  return {
    statements,
    read: Number(autocommit) === 1
      ? (db, ...query) =>
        db.connection().execute((connection) => runAfterRollback(connection, ...query))
      : runCommitted,
    write: runCommitted,
    ...encoder,
    limits: { keys, bytes: bytes / 2 },
  };
}

/**
 * Checks that settings of the driver under Kysely do not change rows.
 *
 * @throws {TypeError} if they do.
 */
function* checkRows(): Script<void> {
  const [row = []] = yield "SELECT 'telegraf' AS a, 1 AS b";
  if (row.length === 2 && row[0] === "telegraf" && Number(row[1]) === 1) return;
  throw new TypeError(
    "the driver changes the rows that it returns: expected text and a number; remove its settings for rows and types " +
      "(nestTables, typeCast, a parser for text)",
  );
}

/**
 * mysql2 writes values as literals into the text of a statement and escapes text by backslashes. With
 * `NO_BACKSLASH_ESCAPES` a quotation mark would end the literal, and the text after it would be SQL.
 * Base64 needs no escaping, and bytes become hexadecimal digits.
 */
const literals: mysql.Literals = {
  escapedGrowth: (session) => 1024 + Math.ceil(Buffer.byteLength(session) / 3),
  encodeSession: (session) => Buffer.from(session).toString("base64"),
  checkKey(key) {
    // deno-lint-ignore no-control-regex
    if (!/[\x00-\x1f"'\\]/.test(key)) return;
    throw new TypeError(
      `a key in a table of an older version must not have quotes, backslashes or control characters: ${key}`,
    );
  },
};

function mysqlDialect(dialect: Dialect): Dialect {
  return {
    ...dialect,
    value: (column) => column === "session" ? "CONVERT(FROM_BASE64(?) USING utf8mb4)" : "?",
  };
}

/** The condition with one placeholder per key, because not every driver takes an array as a value. */
function matches(dialect: Dialect): Dialect["matches"] {
  return (keys, first) => {
    const marks = Array.from({ length: keys }, (_, i) => dialect.value("key", first + i));
    return `key IN (${marks.join(", ")})`;
  };
}

function postgresDialect(name: string): Dialect {
  const own = pg.dialect(name);
  const among = matches(own);
  return {
    ...own,
    matches: among,
    matchesInOrder: (keys, first) =>
      `key IN (SELECT key FROM ${own.table} WHERE ${among(keys, first)} ` +
      'ORDER BY key COLLATE "C" FOR UPDATE)',
    *underSchemaLock<T>(script: Script<T>): Script<T> {
      const [[result] = []] = yield [transaction, pg.underSchemaLock(own.table, script)];
      return result as T;
    },
  };
}

/**
 * Without transactions because D1 does not have them. Each statement is atomic, and the statements of two
 * processes at the same time do no harm.
 */
function sqliteDialect(table: string): Dialect {
  const own = sqlite.dialect(table);
  return {
    ...own,
    matches: matches(own),
    index: own.index.replace(" INDEX ", " INDEX IF NOT EXISTS "),
    underSchemaLock: (script) => script,
  };
}

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

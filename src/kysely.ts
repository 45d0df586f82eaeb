/**
 * What Kysely has of its own: which database it speaks to, how statements run on it, and how they
 * differ from those of the entries with a driver. The tables are the same.
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

/** What is used of a Kysely. */
export interface Database {
  readonly isTransaction: boolean;
  withoutPlugins(): Database;
  updateTable(table: string): { set(values: object): { compile(): { sql: string } } };
  executeQuery(query: object): Promise<{ rows: object[]; numAffectedRows?: bigint }>;
  connection(): Builder;
  transaction(): Builder;
  destroy(): Promise<void>;
}

/** What Kysely gives to work on one connection, or in a transaction. */
interface Builder {
  execute<T>(work: (database: Database) => Promise<T>): Promise<T>;
}

/** A Kysely, as far as it tells that it is one. */
export interface KyselyDatabase {
  connection: (...args: never[]) => unknown;
  executeQuery: (...args: never[]) => unknown;
  withoutPlugins: (...args: never[]) => unknown;
}

/** A dialect of Kysely, as far as it tells that it is one. */
export interface KyselyDialect {
  createDriver: (...args: never[]) => unknown;
  createQueryCompiler: (...args: never[]) => unknown;
}

/**
 * Takes a Kysely by its shape, for copies differ; without its plugins, which may change statements
 * and sessions.
 */
export function checked(given: KyselyDatabase, schema?: string): Database {
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

/** The families of databases that there are tables for. */
export type Family = "PostgreSQL" | "MySQL" | "SQLite";

/** How a statement looks in each. A dialect's query compiler tells more reliably than its adapter. */
const families: ReadonlyMap<string, Family> = new Map([
  ['update "t" set "c" = $1', "PostgreSQL"],
  ["update `t` set `c` = ?", "MySQL"],
  ['update "t" set "c" = ?', "SQLite"],
]);

/** The family of a database. */
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
  // As Kysely's `CompiledQuery.raw` makes it.
  const query = { kind: "RawNode", sqlFragments: [sql], parameters: [] };
  const queryId = { queryId: "telegraf-session" };
  const { rows, numAffectedRows } = await db.executeQuery({ sql, parameters, query, queryId });
  if (prunes.test(sql)) return [[numAffectedRows]];
  return rows.map((row) => Object.values(row));
}

/** How MySQL prunes, which returns no rows but a number. */
const prunes = /^DELETE .* LIMIT \d+$/;

/**
 * Runs a statement in a transaction of its own in databases like MySQL, where autocommit may be off,
 * or the application may have left a transaction open: what is in that is not for the store to commit.
 */
function alone(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await afresh(connection, sql, parameters);
    await rows(connection, "COMMIT", []);
    return result;
  });
}

/** Reads what is stored now, not what was stored when the application left a transaction open. */
async function afresh(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  await rows(db, "ROLLBACK", []);
  return await rows(db, sql, parameters);
}

/** Returns nothing outside a transaction, and in one in which something was changed its number. */
const openTransaction = "SELECT txid_current_if_assigned()";

/**
 * Runs a statement that changes sessions in databases like PostgreSQL, and runs it again if the
 * application had left a transaction open: what is in that is not for the store to commit.
 */
function outside(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await rows(connection, sql, parameters);
    const [[open] = []] = await rows(connection, openTransaction, []);
    if (open === null || open === undefined) return result;
    await rows(connection, "ROLLBACK", []);
    return await rows(connection, sql, parameters);
  });
}

/** Whether the database tells about its transactions; what is only like PostgreSQL may not. */
function* tellsTransactions(): Script<boolean> {
  try {
    yield openTransaction;
    return true;
  } catch (error) {
    if (transient(error)) throw error;
    return false;
  }
}

/** Runs a script on one connection. */
export function play<T>(db: Database, script: Script<T>): Promise<T> {
  return db.connection().execute((connection) => {
    const run = async (text: string, values: unknown[]): Promise<Row[]> => {
      if (prunes.test(text)) return await alone(connection, text, values);
      if (text !== transaction) return await rows(connection, text, values);
      const [script] = values as [Script<unknown>];
      return [[
        await connection.transaction().execute((it) => sql.play(script, rows.bind(null, it))),
      ]];
    };
    return sql.play(script, run);
  });
}

/** Stands for a script to run in a transaction, which not every dialect begins by a statement. */
const transaction = "BEGIN";

/** A table that is ready, and how keys and entries become values of its statements. */
export interface Table extends mysql.Encoder {
  readonly statements: Statements;
  /** Runs a query of sessions. */
  read: typeof rows;
  /** Runs a statement that changes sessions. */
  write: typeof rows;
}

/** Prepares the table in a database of any family. */
export function* prepare(
  family: Family,
  table: string,
  schema: string | undefined,
  tools: Omit<sql.Tools, "transient">,
): Script<Table> {
  yield* checkRows();
  if (family !== "MySQL") {
    const dialect = family === "SQLite"
      ? sqliteDialect(table)
      : postgresDialect(yield* pg.locate(table, schema));
    const statements = yield* sql.prepareTable(dialect, { ...tools, transient });
    return {
      statements,
      read: rows,
      write: family === "PostgreSQL" && (yield* tellsTransactions()) ? outside : rows,
      // D1 takes 100 values in a statement, and three of them are an entry.
      limits: { keys: family === "SQLite" ? 32 : 128, bytes: 1_000_000 },
      keys: (keys) => [...keys].sort(),
      rows: (entries) => sql.sorted(entries).map(statements.values),
    };
  }
  const options = { ...tools, transient };
  const { statements, setting } = yield* mysql.prepareTable(table, schema, options, mysqlDialect);
  const [[autocommit] = []] = yield "SELECT @@autocommit";
  const encoder = mysql.encoder(statements, setting, literals);
  const { keys, bytes } = encoder.limits;
  return {
    statements,
    read: Number(autocommit) === 1
      ? (db, ...query) => db.connection().execute((connection) => afresh(connection, ...query))
      : alone,
    write: alone,
    ...encoder,
    limits: { keys, bytes: bytes / 2 },
  };
}

/**
 * Checks that rows arrive as they are: settings of the driver beneath Kysely may change them.
 *
 * @throws {TypeError} where they do not.
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
 * mysql2 writes values into the text of a statement and escapes text by backslashes, which is wrong
 * with `NO_BACKSLASH_ESCAPES`: the text would end its literal, and what follows would be SQL. Base64
 * has nothing to escape, and bytes become hexadecimal digits.
 */
const literals: mysql.Literals = {
  growth: (session) => 1024 + Math.ceil(Buffer.byteLength(session) / 3),
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

/** The condition that a row has one of so many keys: not every driver takes an array as one value. */
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
    locks: (keys, first) =>
      `key IN (SELECT key FROM ${own.name} WHERE ${among(keys, first)} ` +
      'ORDER BY key COLLATE "C" FOR UPDATE)',
    *alone<T>(script: Script<T>): Script<T> {
      const [[result] = []] = yield [transaction, pg.locked(own.name, script)];
      return result as T;
    },
  };
}

/**
 * Without transactions, which D1 has not: each statement is atomic by itself, and those of two
 * processes do not harm each other.
 */
function sqliteDialect(table: string): Dialect {
  const own = sqlite.dialect(table);
  return {
    ...own,
    matches: matches(own),
    index: own.index.replace(" INDEX ", " INDEX IF NOT EXISTS "),
    alone: (script) => script,
  };
}

/** Codes of errors of postgres.js, libSQL and `fetch`. */
const codes = /^(CONNECT(ION)?_\w+|HRANA_(CLOSED|WEBSOCKET)_ERROR|UND_ERR_(SOCKET|\w+_TIMEOUT))$/;

/** Messages of D1, `fetch`, PlanetScale, and SQLite where another process made the same change. */
const messages = new RegExp([
  "Network connection lost",
  "caused object to be reset",
  "reset because its code was updated",
  "^fetch failed$",
  "\\(errno 1(205|213)\\)", // lock wait, deadlock
  "already exists",
  "duplicate column name",
  "UNIQUE constraint failed",
].join("|"));

/** Whether another attempt may succeed. Drivers of any family, and what they were caused by. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { code, message, cause } = error as Error & { code?: unknown };
  const known = [pg, mysql, sqlite].some(({ transient }) => transient(error));
  return known || codes.test(String(code)) || messages.test(message) || transient(cause);
}

/**
 * The tables of the other SQL stores, with statements that every driver of Kysely can run.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import * as mysql from "../mysql/dialect.ts";
import { type Encoder, encoder, type Literals } from "../mysql/encoder.ts";
import * as pg from "../pg/dialect.ts";
import type { Dialect } from "../sql/dialect.ts";
import { plainValues } from "../sql/leases.ts";
import { prepareTable, type SchemaOptions } from "../sql/schema.ts";
import type { Script } from "../sql/script.ts";
import { sortByKey, type Statements } from "../sql/statements.ts";
import * as sqlite from "../sqlite/dialect.ts";
import {
  endTransaction,
  type Family,
  rows,
  runAfterRollback,
  runCommitted,
  runOutsideTransaction,
  transaction,
} from "./driver.ts";
import { transient } from "./errors.ts";

/** A table that is ready, with the encoder for the values of its statements. */
export interface Table extends Encoder {
  readonly statements: Statements;
  /** Runs a query of sessions. */
  read: typeof rows;
  /** Runs a statement that changes sessions. */
  write: typeof rows;
}

type Options = Omit<SchemaOptions, "transient">;

/** Creates or upgrades a table. */
export type Prepare = (options: Options) => Script<Table>;

/** Finds the table in a database of any family. */
export function* locate(
  family: Family,
  table: string,
  schema: string | undefined,
): Script<Prepare> {
  yield* checkRows();
  if (family === "SQLite") return (options) => prepare(sqliteDialect(table), options);
  if (family === "PostgreSQL") {
    const place = yield* pg.explainingVersion(pg.locate(table, schema));
    return (options) => pg.explainingVersion(preparePostgres(place, options));
  }
  const place = yield* mysql.locate(table, schema);
  return (options) => prepareMySQL(place, options);
}

/** Creates or upgrades a table in SQLite or a database like it. */
function* prepare(
  dialect: Dialect,
  options: Options,
): Script<Table> {
  const statements = yield* prepareTable(dialect, { ...options, transient });
  return {
    statements,
    leases: plainValues,
    replacement: ({ key, before, after }) => [after, key, before],
    read: rows,
    write: rows,
    // D1 takes 100 values in a statement, and an entry has three.
    limits: { keys: 32, bytes: 1_000_000 },
    keys: (keys) => [...keys].sort(),
    rows: (entries) => sortByKey(entries).map(statements.values),
  };
}

function* preparePostgres(
  place: string,
  options: Options,
): Script<Table> {
  const write = (yield* endTransaction()) ? runOutsideTransaction : rows;
  const table = yield* prepare(postgresDialect(place), options);
  return { ...table, write, limits: { keys: 128, bytes: 1_000_000 } };
}

function* prepareMySQL(
  place: mysql.TableName,
  options: Options,
): Script<Table> {
  yield "ROLLBACK"; // a change of the table would commit the application's transaction
  const { statements, settings } = yield* mysql.prepare(place, options, mysqlDialect);
  mysql.requireVersion(settings, "the store"); // before 5.6 there is no FROM_BASE64
  const [[autocommit] = []] = yield "SELECT @@autocommit AND @@completion_type = 'NO_CHAIN'";
  const encoding = encoder(statements, settings, literals);
  const { keys, bytes } = encoding.limits;
  return {
    statements,
    read: Number(autocommit) === 1
      ? (db, ...query) =>
        db.connection().execute((connection) => runAfterRollback(connection, ...query))
      : runCommitted,
    write: runCommitted,
    ...encoding,
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
const literals: Literals = {
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

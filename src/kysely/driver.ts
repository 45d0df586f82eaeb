/**
 * The interfaces of Kysely, the family of its database, and running statements through it.
 *
 * @module
 */

import * as mysql from "../mysql/driver.ts";
import * as pg from "../pg/driver.ts";
import { serverReadOnly } from "../sql/errors.ts";
import type { Answer, Failovers } from "../sql/failover.ts";
import { executeScript, type Row, type Script } from "../sql/script.ts";
import { described } from "../validation.ts";
import { isReadOnly, transient } from "./errors.ts";

/** The part of a Kysely that is used. */
export interface Database {
  readonly isTransaction: boolean;
  withoutPlugins(): Database;
  updateTable(table: string): { set(values: object): { compile(): { sql: string } } };
  executeQuery(query: object): Promise<{ rows: object[]; numAffectedRows?: bigint }>;
  connection(): Builder;
  transaction(): Builder;
  getExecutor(): {
    provideConnection(consumer: (connection: object) => Promise<object>): Promise<object>;
  };
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

/**
 * Runs work on the database. After a failover it runs on one connection, whose server takes writes. Kysely
 * cannot discard the others, so they stay in its pool until the server or the pool closes them.
 */
export async function onPrimary<T>(
  db: Database,
  failovers: Failovers<object>,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  if (failovers.any) {
    return await db.connection().execute((connection) =>
      afterFailover(connection, failovers, work)
    );
  }
  try {
    return await work(db);
  } catch (error) {
    if (!isReadOnly(error)) throw error;
    failovers.note();
    throw serverReadOnly(error);
  }
}

async function afterFailover<T>(
  db: Database,
  failovers: Failovers<object>,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const connection = await db.getExecutor().provideConnection((it) => Promise.resolve(it));
  try {
    const isUsable = failovers.isTrusted(connection) ||
      await failovers.check(connection, () => ask(db));
    if (isUsable) return await work(db);
  } catch (error) {
    if (!isReadOnly(error)) throw error;
    failovers.note(connection);
    await end(db);
    throw serverReadOnly(error);
  }
  await end(db);
  throw serverReadOnly();
}

/** Asks the server whether it takes writes. */
async function ask(db: Database): Promise<Answer> {
  const { roleQuery, answer } = familyOf(db) === "MySQL" ? mysql : pg;
  return answer(await rows(db, roleQuery, []));
}

/**
 * Lets the server close the connection. Only MySQL, because mysql2 then removes the connection from its
 * pool, but `pg` emits an error that ends the process if nobody listens.
 */
async function end(db: Database): Promise<void> {
  if (familyOf(db) === "MySQL") await rows(db, "KILL CONNECTION_ID()", []).catch(() => {});
}

/** Runs a statement. */
export async function rows(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  // The same as Kysely's `CompiledQuery.raw` makes.
  const query = { kind: "RawNode", sqlFragments: [sql], parameters: [] };
  const queryId = { queryId: "telegraf-session" };
  const { rows, numAffectedRows } = await db.executeQuery({ sql, parameters, query, queryId });
  if (changes.test(sql)) return [[numAffectedRows]];
  return rows.map((row) => Object.values(row));
}

/** Statements of MySQL that return no rows, only the number of rows that they changed. */
const changes = /^(DELETE|UPDATE) (?![\s\S]*RETURNING)/;

/** The statement that prunes in MySQL. */
const prunes = /^DELETE .* LIMIT \d+$/;

/**
 * Runs a statement in its own transaction, in databases like MySQL. Autocommit may be off, or the
 * application may have left a transaction open, which the store must not commit.
 */
export function runCommitted(db: Database, sql: string, parameters: unknown[]): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await runAfterRollback(connection, sql, parameters);
    await rows(connection, "COMMIT", []);
    return result;
  });
}

/** Ends a transaction that the application left open. Its snapshot would hide newer rows. */
export async function runAfterRollback(
  db: Database,
  sql: string,
  parameters: unknown[],
): Promise<Row[]> {
  await rows(db, "ROLLBACK", []);
  return await rows(db, sql, parameters);
}

/** Selects the ID of the transaction if one is open and has changed something, otherwise NULL. */
const openTransaction = "SELECT txid_current_if_assigned()";

/**
 * Runs a statement that changes sessions, in databases like PostgreSQL. Repeats it if the application had
 * left a transaction open, which the store must not commit.
 */
export function runOutsideTransaction(
  db: Database,
  sql: string,
  parameters: unknown[],
): Promise<Row[]> {
  return db.connection().execute(async (connection) => {
    const result = await rows(connection, sql, parameters);
    const [[open] = []] = await rows(connection, openTransaction, []);
    if (open === null || open === undefined) return result;
    await rows(connection, "ROLLBACK", []);
    return await rows(connection, sql, parameters);
  });
}

/**
 * Ends a transaction that the application left open. Returns whether the database can tell: one that is
 * only like PostgreSQL may not know the function.
 */
export function* endTransaction(): Script<boolean> {
  try {
    const [[open] = []] = yield openTransaction;
    if (open != null) yield "ROLLBACK"; // otherwise some drivers print a warning
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
        await connection.transaction().execute((it) => executeScript(script, rows.bind(null, it))),
      ]];
    };
    return executeScript(script, run);
  });
}

/**
 * Runs a script on leases. Its statements may run on different connections, because each one commits.
 *
 * @param table runs queries and changes of sessions.
 */
export function runLease<T>(
  db: Database,
  script: Script<T>,
  table: { read: typeof rows; write: typeof rows },
): Promise<T> {
  return executeScript(script, (text, values) => {
    const run = text.startsWith("SELECT") ? table.read : table.write;
    return run(db, text, values);
  });
}

/** Closes the database. The error of a connection that is lost anyway is ignored. */
export async function destroy(db: Database): Promise<void> {
  try {
    await db.destroy();
  } catch (error) {
    if (!transient(error)) throw error;
  }
}

/** Stands for a script in a transaction. Kysely begins it because some dialects have no BEGIN. */
export const transaction = "BEGIN";

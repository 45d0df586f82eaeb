/**
 * The parts that all SQL databases share: creating and upgrading the table, the statements, and taking
 * a connection from a pool. Knows no driver.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "./abort.ts";
import type { Entry, Opening, Page } from "./backend.ts";
import { reason } from "./errors.ts";

/** The default table of 2.0.0-beta and of this version. */
export const defaultTable = "telegraf-sessions";

/** The values of a row, in the order of the selected columns. */
export type Row = readonly unknown[];

/** A statement, with the values of its parameters if it has any. */
type Statement = string | readonly [sql: string, ...values: unknown[]];

/**
 * Yields statements and receives the rows of each. A generator because SQLite runs it synchronously
 * while the other databases wait for each answer.
 */
export type Script<T> = Generator<Statement, T, Row[]>;

/** Runs a script on an asynchronous database. */
export async function runScript<T>(
  script: Script<T>,
  run: (sql: string, values: unknown[]) => Promise<Row[]>,
): Promise<T> {
  let step = script.next();
  while (!step.done) {
    let rows: Row[];
    try {
      const [sql, ...values] = [step.value].flat() as [string, ...unknown[]];
      rows = await run(sql, values);
    } catch (error) {
      step = script.throw(error);
      continue;
    }
    step = script.next(rows);
  }
  return step.value;
}

/** Runs a script on a synchronous database. */
export function runScriptSync<T>(
  script: Script<T>,
  run: (sql: string, values: unknown[]) => Row[],
): T {
  let step = script.next();
  while (!step.done) {
    let rows: Row[];
    try {
      const [sql, ...values] = [step.value].flat() as [string, ...unknown[]];
      rows = run(sql, values);
    } catch (error) {
      step = script.throw(error);
      continue;
    }
    step = script.next(rows);
  }
  return step.value;
}

/** The state of a table. */
export interface Shape {
  /** The types of its columns, by name. */
  readonly columns: ReadonlyMap<string, string>;
  /** Whether keys are unique. */
  readonly unique: boolean;
  /** Whether there is an index on `expires`. */
  readonly indexed: boolean;
}

/** The SQL that differs between databases. */
export interface Dialect {
  /** The table's name, quoted. */
  readonly table: string;
  /**
   * Selects a row per column: its name, its type, and whether it is indexed. `key` counts as indexed
   * if a unique index consists of it, another column if it is the first of an index.
   */
  readonly inspect: Statement;
  /** The statements that create or upgrade the table; empty if the table is current. */
  changes(shape: Shape | undefined): string[];
  /** The statement that creates the index on `expires`. */
  readonly index: string;
  /** Runs the script while no other process prepares the table. */
  underSchemaLock<T>(script: Script<T>): Script<T>;
  /** A column's name, quoted if necessary. */
  column(name: string): string;
  /** The order that makes the newest row of a key count, in a table whose keys are not unique. */
  readonly duplicateOrder?: string;
  /** Ends each query of sessions, in databases that may otherwise limit the number of rows. */
  readonly selectSuffix?: string;
  /** The expression that reads a column. */
  select(name: string, shape: Shape): string;
  /** The condition that a row has one of `keys` keys. `first` is the index of the first value. */
  matches(keys: number, first: number): string;
  /** The same for deletes and updates, if they must be told to lock rows in the order of keys. */
  matchesInOrder?(keys: number, first: number): string;
  /** The placeholder of a value. `index` counts from 1 through the values of all rows. */
  value(name: string, index: number): string;
  /** Wraps the VALUES list of an insert of several rows, for example to filter padding rows. */
  insertSource?(rows: string, columns: string): string;
  /** The clause of an insert that overwrites the row of an existing key. */
  overwrite(names: string[]): string;
  /** Deletes some expired rows, unless another process is doing so. Returns how many. */
  prune(now: number): Script<number>;
}

/**
 * Creates the table, or upgrades a table of an older version. If the table is current, this only reads
 * the catalog, so that a user without the right to create or alter tables can use it.
 */
export function* prepareTable(dialect: Dialect, options: SchemaOptions): Script<Statements> {
  const changes = (shape: Shape | undefined) => {
    const index = options.expiring && !shape?.indexed ? [dialect.index] : [];
    return [...dialect.changes(shape), ...index];
  };
  const shape = yield* inspect(dialect);
  if (options.plan !== undefined) {
    const { unique = true } = shape ?? {};
    options.plan({ exists: shape !== undefined, unique, changes: dialect.changes(shape) });
    return statements(dialect, shape ?? { columns: new Map(), unique, indexed: false });
  }
  if (shape !== undefined && changes(shape).length === 0) return statements(dialect, shape);
  try {
    return statements(dialect, yield* dialect.underSchemaLock(applyChanges(dialect, changes)));
  } catch (error) {
    if (options.transient(error)) throw error;
    const cause = { cause: error };
    if (shape === undefined) {
      throw new Error(`table ${dialect.table} cannot be created: ${reason(error)}`, cause);
    }
    const old = `table ${dialect.table} is of an older version and cannot be upgraded`;
    if (!shape.unique) {
      throw new Error(`${old}, but the store needs a unique key: ${reason(error)}`, cause);
    }
    const what = dialect.changes(shape).length > 0
      ? `${old}; its old limits still apply`
      : `table ${dialect.table} has no index on "expires" and cannot get one, so pruning is slow`;
    options.report(new Error(`${what}: ${reason(error)}`, cause));
    return statements(dialect, shape);
  }
}

/** Options of `prepareTable`. */
export interface SchemaOptions extends Pick<Opening, "expiring" | "report" | "plan"> {
  transient(error: unknown): boolean;
}

function* inspect(dialect: Dialect): Script<Shape | undefined> {
  const rows = yield dialect.inspect;
  if (rows.length === 0) return undefined;
  const indexed = (column: string) =>
    rows.some(([name, , indexed]) => name === column && Number(indexed) > 0);
  return {
    columns: new Map(rows.map(([name, type]) => [String(name), String(type).toLowerCase()])),
    unique: indexed("key"),
    indexed: indexed("expires"),
  };
}

/** Inspects the table again because another process may have changed it meanwhile. */
function* applyChanges(dialect: Dialect, changes: Dialect["changes"]): Script<Shape> {
  for (const statement of changes(yield* inspect(dialect))) yield statement;
  return (yield* inspect(dialect))!;
}

/** The statements on sessions, and the values of their parameters. */
export interface Statements {
  readonly shape: Shape;
  /** Whether the table has the column `expires`. An old table that cannot be upgraded lacks it. */
  readonly expiring: boolean;
  /** Selects rows for `toEntries`. */
  readonly read: (keys: number) => string;
  readonly write: (entries: number) => string;
  readonly remove: (keys: number) => string;
  /** Its values are the new expiry, then the keys. */
  readonly renew: (keys: number) => string;
  /** Up to `size` rows after a key, in the order of keys, with NULL in place of the session. */
  readonly page: (size: number) => string;
  /** Deletes some expired rows. Returns how many. */
  prune(now: number): Script<number>;
  /** The values of an entry, in the order of its columns. */
  values(entry: Entry<string>): unknown[];
}

function statements(dialect: Dialect, shape: Shape): Statements {
  const { table, column, select, matches, matchesInOrder = matches, value, overwrite } = dialect;
  const { selectSuffix = "" } = dialect;
  const columns = ["key", "session", "expires"].filter((name) => shape.columns.has(name));
  const selected = (names: string[]) => names.map((name) => select(name, shape)).join(", ");
  const listed = columns.map((name) => name === "session" ? "NULL" : select(name, shape)).join(
    ", ",
  );
  const names = columns.map(column).join(", ");
  const order = shape.unique || dialect.duplicateOrder === undefined
    ? ""
    : ` ORDER BY ${dialect.duplicateOrder}`;
  const row = (_: unknown, i: number) =>
    `(${columns.map((name, j) => value(name, i * columns.length + j + 1)).join(", ")})`;
  return {
    shape,
    expiring: shape.columns.has("expires"),
    *prune(now) {
      return shape.columns.has("expires") ? yield* dialect.prune(now) : 0;
    },
    read: memoized((keys) => {
      // For a single key the caller knows the key, and each column costs time to decode.
      const list = selected(keys === 1 ? columns.slice(1) : columns);
      return `SELECT ${list} FROM ${table} WHERE ${matches(keys, 1)}${order} ${selectSuffix}`;
    }),
    write: memoized((entries) => {
      const rows = `VALUES ${Array.from({ length: entries }, row).join(", ")}`;
      const source = entries > 1 && dialect.insertSource?.(rows, names) || rows;
      return `INSERT INTO ${table} (${names}) ${source} ${overwrite(columns.slice(1))}`;
    }),
    remove: memoized((keys) => `DELETE FROM ${table} WHERE ${matchesInOrder(keys, 1)}`),
    renew: memoized((keys) =>
      `UPDATE ${table} SET expires = ${value("expires", 1)} WHERE ${matchesInOrder(keys, 2)}`
    ),
    page: memoized((size) =>
      `SELECT ${listed} FROM ${table} WHERE ${column("key")} > ${value("key", 1)} ` +
      `ORDER BY ${column("key")} LIMIT ${size}`
    ),
    values: ({ key, value, expires = null }) => [key, value, expires].slice(0, columns.length),
  };
}

/** The page of the rows that `page(size)` selected. */
export function toPage(rows: Row[], size: number): Page {
  const entries = rows.map(toEntry);
  return { entries, next: rows.length < size ? undefined : entries.at(-1)!.key };
}

/** Makes the text of each count only once. */
function memoized(make: (count: number) => string): (count: number) => string {
  const made = new Map<number, string>();
  return (count) => {
    let text = made.get(count);
    if (text === undefined) made.set(count, text = make(count));
    return text;
  };
}

/** The entries of the rows that `read` selected. For a single key the rows do not contain the key. */
export function toEntries(keys: string[], rows: Row[]): Entry<string>[] {
  return rows.map(keys.length === 1 ? (row) => toEntry([keys[0], ...row]) : toEntry);
}

/**
 * The entry of a row with its key. NULL as a session becomes empty text.
 *
 * @throws {TypeError} if a value is neither text nor bytes. Settings of a driver can change what it
 * returns, and a session that cannot be read must not be taken for a missing one.
 */
export function toEntry([key, session, expires]: Row): Entry<string> {
  const end = expires == null ? undefined : Number(expires);
  if (!isText(key) || session !== null && !isText(session) || Number.isNaN(end)) {
    const found = [key, session, expires].map((value) => typeof value).join(", ");
    throw new TypeError(
      "the driver returned a row in a form that the store cannot read: expected key, session and " +
        `expiry, got ${found}; check the driver's settings for rows and types`,
    );
  }
  return { key: String(key), value: session === null ? "" : String(session), expires: end };
}

/** Whether the value is text, or the bytes of text. */
function isText(value: unknown): boolean {
  return typeof value === "string" || ArrayBuffer.isView(value);
}

/**
 * Sorts by key: a consistent lock order prevents deadlocks between processes. (Except for characters
 * outside the Basic Multilingual Plane, it is the order of bytes too.)
 */
export function sortByKey<T extends { readonly key: string }>(entries: readonly T[]): T[] {
  return [...entries].sort((a, b) => a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
}

/** Pads to a power of two because each count needs its own prepared statement. */
export function padToPowerOfTwo<T>(items: T[], item: T): T[] {
  const all = [...items];
  while (all.length & (all.length - 1)) all.push(item);
  return all;
}

/** Quotes an identifier. Doubles quotation marks inside it, so that none can end it early. */
export function quoted(name: string, mark: string): string {
  return mark + name.replaceAll(mark, mark + mark) + mark;
}

/** The schema and table in a name with a dot, as 2.0.0-beta reads it. */
export function splitName(name: string): [schema: string, table: string] | undefined {
  const [schema, table] = name.split(".").map((part) => part.trim());
  return schema && table ? [schema, table] : undefined;
}

/** Overwrites the row of an existing key, in PostgreSQL and SQLite. */
export function onConflict(columns: string[]): string {
  return `ON CONFLICT (key) DO UPDATE SET ${columns.map((name) => `${name} = excluded.${name}`)}`;
}

/** How `withConnection` uses a pool. */
export interface PoolAdapter<Connection> {
  acquire(callback: (error: unknown, connection: Connection) => void): void;
  /** Whether a transaction is open on the connection, if the driver can tell. */
  inTransaction?(connection: Connection): boolean;
  /** Returns the connection to the pool. Destroys it after an error. */
  release(connection: Connection, error?: unknown): void;
}

/** Runs work on a connection of a pool. Discards the connection when the signal aborts. */
export function withConnection<Connection, T>(
  pool: PoolAdapter<Connection>,
  signal: AbortSignal,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) =>
    pool.acquire((error, connection) => {
      if (error) return reject(error);
      let held = true;
      const release = (error?: unknown) => {
        if (!held) return;
        held = false;
        clearAbortHandler(signal);
        pool.release(connection, error);
      };
      const fail = (error: unknown) => {
        release(error);
        reject(error);
      };
      if (signal.aborted) return fail(signal.reason);
      if (pool.inTransaction?.(connection)) return fail(transactionOpen());
      setAbortHandler(signal, () => fail(signal.reason));
      work(connection).then((result) => {
        // In a transaction of the application nothing is stored yet, and reads may be outdated.
        if (pool.inTransaction?.(connection)) return fail(transactionOpen());
        release();
        resolve(result);
      }, fail);
    })
  );
}

/** The error for a connection or database on which the application has a transaction open. */
export function transactionOpen(): Error {
  const error = new Error("the application has a transaction open on the connection");
  return Object.assign(error, { code: "TRANSACTION_OPEN" });
}

/** Whether it is the error of `transactionOpen`. */
export function isTransactionOpen(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "TRANSACTION_OPEN";
}

/**
 * How long the store's own pool waits for a connection, in ms: half of the operation's timeout, which
 * leaves time for a second attempt.
 */
export function connectTimeout({ timeout = 10_000 }: { timeout?: number }): number {
  return Math.min(5_000, Math.ceil(timeout / 2));
}

/** A pool or a connection. */
interface Emitter {
  on(event: "error", listener: (error: unknown) => void): unknown;
}

const reporters = new WeakMap<object, Set<(error: unknown) => void>>();

/** Reports errors of a pool and its connections, until the returned function is called. */
export function reportErrors(pool: Emitter, report: (error: unknown) => void): () => void {
  addErrorListener(pool, pool);
  let all = reporters.get(pool);
  if (all === undefined) reporters.set(pool, all = new Set());
  all.add(report);
  return () => all.delete(report);
}

const withListener = new WeakSet<Emitter>();

/**
 * Adds the error listener of a pool or of one of its connections, unless it has one. Without a listener
 * an error would end the process. One listener serves all stores.
 */
export function addErrorListener(emitter: Emitter, pool: object): void {
  if (withListener.has(emitter)) return;
  withListener.add(emitter);
  emitter.on("error", (error) => {
    // Errors of a pool carry the client, and logs would show it with its password.
    delete (error as { client?: unknown }).client;
    reporters.get(pool)?.forEach((report) => report(error));
  });
}

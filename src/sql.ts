/**
 * What the SQL databases share: the table and how it gets its shape, the statements, and how a
 * connection is taken from a pool. Knows no driver.
 *
 * @module
 */

import { clearAbortHandler, setAbortHandler } from "./abort.ts";
import type { Entry, Opening, Page } from "./backend.ts";
import { reason } from "./errors.ts";

/** The table of upstream and ours. */
export const defaultTable = "telegraf-sessions";

/** The values of a row, in the order of the columns asked for. */
export type Row = readonly unknown[];

/** A statement and the values of its parameters, if it has any. */
type Statement = string | readonly [sql: string, ...values: unknown[]];

/**
 * Statements, each of which gets its rows back. A generator, because SQLite runs it in one go while
 * the others wait for every answer.
 */
export type Script<T> = Generator<Statement, T, Row[]>;

/** Runs a script on a database that answers later. */
export async function play<T>(
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

/** Runs a script on a database that answers at once. */
export function playSync<T>(
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

/** What a table is like. */
export interface Shape {
  /** The types of its columns, by name. */
  readonly columns: ReadonlyMap<string, string>;
  /** Whether no key can be there twice. */
  readonly unique: boolean;
  /** Whether what has expired is found by an index. */
  readonly indexed: boolean;
}

/** What one database has of its own. */
export interface Dialect {
  /** The table's name, quoted. */
  readonly name: string;
  /** Its columns: name, type, and whether `key` is unique, or another one the first of an index. */
  readonly inspect: Statement;
  /** The statements that make the table what it should be; none when it is. */
  changes(shape: Shape | undefined): string[];
  /** The statement that makes the index on `expires`. */
  readonly index: string;
  /** Runs the script while no other process prepares a table of this name. */
  alone<T>(script: Script<T>): Script<T>;
  /** A column's name, quoted where it must be. */
  column(name: string): string;
  /** The order in which the newest row of a key counts, where a table lets keys be there twice. */
  readonly age?: string;
  /** What ends a query of sessions, where it returned only some of them without it. */
  readonly limit?: string;
  /** How a column is read. */
  select(name: string, shape: Shape): string;
  /** The condition that a row has one of so many keys; `first` is the index of the first value. */
  matches(keys: number, first: number): string;
  /** The same for deletes and updates, where that would lock rows in an order of its own. */
  locks?(keys: number, first: number): string;
  /** The placeholder of a value; `index` counts from 1 through all rows. */
  value(name: string, index: number): string;
  /** What an insert takes from several rows, where that is not all of them as they are. */
  source?(rows: string, columns: string): string;
  /** What an insert does where the key is there already. */
  overwrite(names: string[]): string;
  /** Deletes some rows that have expired, unless another process is at it; returns how many. */
  prune(now: number): Script<number>;
}

/**
 * Creates the table, or upgrades one that an older version made. Does nothing but look where it is
 * as it should be, so a user without the right to create or alter can work with it.
 */
export function* prepareTable(dialect: Dialect, tools: Tools): Script<Statements> {
  const changes = (shape: Shape | undefined) => {
    const index = tools.expiring && !shape?.indexed ? [dialect.index] : [];
    return [...dialect.changes(shape), ...index];
  };
  const shape = yield* inspect(dialect);
  if (tools.plan !== undefined) {
    const { unique = true } = shape ?? {};
    tools.plan({ exists: shape !== undefined, unique, changes: dialect.changes(shape) });
    return statements(dialect, shape ?? { columns: new Map(), unique, indexed: false });
  }
  if (shape !== undefined && changes(shape).length === 0) return statements(dialect, shape);
  try {
    return statements(dialect, yield* dialect.alone(change(dialect, changes)));
  } catch (error) {
    if (tools.transient(error)) throw error;
    const cause = { cause: error };
    if (shape === undefined) {
      throw new Error(`table ${dialect.name} cannot be created: ${reason(error)}`, cause);
    }
    const old = `table ${dialect.name} is of an older version and cannot be upgraded`;
    if (!shape.unique) {
      throw new Error(`${old}, but the store needs a unique key: ${reason(error)}`, cause);
    }
    const what = dialect.changes(shape).length > 0
      ? `${old}; its old limits still apply, such as 32 characters per key`
      : `table ${dialect.name} has no index on "expires" and cannot get one, so pruning is slow`;
    tools.report(new Error(`${what}: ${reason(error)}`, cause));
    return statements(dialect, shape);
  }
}

/** What `prepareTable` needs to know. */
export interface Tools extends Pick<Opening, "expiring" | "report" | "plan"> {
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

/** Looks again, for another process may have been first. */
function* change(dialect: Dialect, changes: Dialect["changes"]): Script<Shape> {
  for (const statement of changes(yield* inspect(dialect))) yield statement;
  return (yield* inspect(dialect))!;
}

/** The statements that carry sessions, and the values that they take. */
export interface Statements {
  readonly shape: Shape;
  /** Whether the table has a place for `expires`; an old one that could not be upgraded has none. */
  readonly expiring: boolean;
  /** Makes rows for `entries`. */
  readonly read: (keys: number) => string;
  readonly write: (entries: number) => string;
  readonly remove: (keys: number) => string;
  /** Takes the new time, then the keys. */
  readonly renew: (keys: number) => string;
  /** So many keys after a given one, in order, each as its row but without the session. */
  readonly page: (size: number) => string;
  /** Deletes some rows that have expired, if there are such; returns how many. */
  prune(now: number): Script<number>;
  /** The values of an entry, in the order of its columns. */
  values(entry: Entry<string>): unknown[];
}

function statements(dialect: Dialect, shape: Shape): Statements {
  const { name: table, column, select, matches, locks = matches, value, overwrite } = dialect;
  const { limit = "" } = dialect;
  const columns = ["key", "session", "expires"].filter((name) => shape.columns.has(name));
  const selected = (names: string[]) => names.map((name) => select(name, shape)).join(", ");
  const listed = columns.map((name) => name === "session" ? "NULL" : select(name, shape)).join(
    ", ",
  );
  const names = columns.map(column).join(", ");
  const order = shape.unique || dialect.age === undefined ? "" : ` ORDER BY ${dialect.age}`;
  const row = (_: unknown, i: number) =>
    `(${columns.map((name, j) => value(name, i * columns.length + j + 1)).join(", ")})`;
  return {
    shape,
    expiring: shape.columns.has("expires"),
    *prune(now) {
      return shape.columns.has("expires") ? yield* dialect.prune(now) : 0;
    },
    read: once((keys) => {
      // Who asks for one key knows it; each column costs the driver time.
      const some = selected(keys === 1 ? columns.slice(1) : columns);
      return `SELECT ${some} FROM ${table} WHERE ${matches(keys, 1)}${order} ${limit}`;
    }),
    write: once((entries) => {
      const rows = `VALUES ${Array.from({ length: entries }, row).join(", ")}`;
      const source = entries > 1 && dialect.source?.(rows, names) || rows;
      return `INSERT INTO ${table} (${names}) ${source} ${overwrite(columns.slice(1))}`;
    }),
    remove: once((keys) => `DELETE FROM ${table} WHERE ${locks(keys, 1)}`),
    renew: once((keys) =>
      `UPDATE ${table} SET expires = ${value("expires", 1)} WHERE ${locks(keys, 2)}`
    ),
    page: once((size) =>
      `SELECT ${listed} FROM ${table} WHERE ${column("key")} > ${value("key", 1)} ` +
      `ORDER BY ${column("key")} LIMIT ${size}`
    ),
    values: ({ key, value, expires = null }) => [key, value, expires].slice(0, columns.length),
  };
}

/** The page of these rows, if so many were asked for. */
export function page(rows: Row[], size: number): Page {
  const entries = rows.map(entry);
  return { entries, next: rows.length < size ? undefined : entries.at(-1)!.key };
}

/** Makes each text once. */
function once(make: (count: number) => string): (count: number) => string {
  const made = new Map<number, string>();
  return (count) => {
    let text = made.get(count);
    if (text === undefined) made.set(count, text = make(count));
    return text;
  };
}

/** The entries of rows that `read` made for these keys: a single one is not among the columns. */
export function entries(keys: string[], rows: Row[]): Entry<string>[] {
  return rows.map(keys.length === 1 ? (row) => entry([keys[0], ...row]) : entry);
}

/**
 * The entry of a row with its key; a session that is NULL is none.
 *
 * @throws {TypeError} for a row in another form than text: settings of a driver can change what it
 * returns, and a session that cannot be read must not pass for one that is missing.
 */
export function entry([key, session, expires]: Row): Entry<string> {
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

/** Whether it is text, or the bytes of text. */
function isText(value: unknown): boolean {
  return typeof value === "string" || ArrayBuffer.isView(value);
}

/**
 * Sorts by key, for processes that lock rows in one order do not wait for each other in a circle.
 * (It is the order of bytes as well, but for the rarest of characters.)
 */
export function sorted<T extends { readonly key: string }>(entries: readonly T[]): T[] {
  return [...entries].sort((a, b) => a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
}

/** Adds an item until their number is a power of two, for each number is a statement to prepare. */
export function padded<T>(items: T[], item: T): T[] {
  const all = [...items];
  while (all.length & (all.length - 1)) all.push(item);
  return all;
}

/** Quotes an identifier; whatever it holds, it ends where it should. */
export function quoted(name: string, mark: string): string {
  return mark + name.replaceAll(mark, mark + mark) + mark;
}

/** The schema and table that upstream takes a name with a dot for. */
export function splitName(name: string): [schema: string, table: string] | undefined {
  const [schema, table] = name.split(".").map((part) => part.trim());
  return schema && table ? [schema, table] : undefined;
}

/** What an insert does where the key is there already, in PostgreSQL and SQLite. */
export function onConflict(columns: string[]): string {
  return `ON CONFLICT (key) DO UPDATE SET ${columns.map((name) => `${name} = excluded.${name}`)}`;
}

/** What a pool does for `hold`. */
export interface Lender<Connection> {
  acquire(callback: (error: unknown, connection: Connection) => void): void;
  /** Whether a transaction is open on the connection, as far as the driver knows. */
  inTransaction?(connection: Connection): boolean;
  /** Takes the connection back, or destroys it where it met an error. */
  release(connection: Connection, error?: unknown): void;
}

/** Works on a connection of a pool, and gives it up when the signal aborts. */
export function hold<Connection, T>(
  pool: Lender<Connection>,
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
      if (pool.inTransaction?.(connection)) return fail(leftOpen());
      setAbortHandler(signal, () => fail(signal.reason));
      work(connection).then((result) => {
        // In a transaction of the application nothing is stored yet, and what is read may be old.
        if (pool.inTransaction?.(connection)) return fail(leftOpen());
        release();
        resolve(result);
      }, fail);
    })
  );
}

/** The application left a transaction open on a connection, or has one open on its database. */
export function leftOpen(): Error {
  const error = new Error("the application has a transaction open on the connection");
  return Object.assign(error, { code: "TRANSACTION_OPEN" });
}

/** Whether the error says that a transaction of the application is in the way. */
export function isLeftOpen(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === "TRANSACTION_OPEN";
}

/**
 * How long to wait for a connection of ours, in ms: half of what an operation has, to leave time for
 * another try.
 */
export function patience({ timeout = 10_000 }: { timeout?: number }): number {
  return Math.min(5_000, Math.ceil(timeout / 2));
}

/** What has listeners: pools and connections. */
interface Emitter {
  on(event: "error", listener: (error: unknown) => void): unknown;
}

const reports = new WeakMap<object, Set<(error: unknown) => void>>();

/** Reports the errors of a pool and its connections, until the returned function is called. */
export function watch(pool: Emitter, report: (error: unknown) => void): () => void {
  listen(pool, pool);
  let all = reports.get(pool);
  if (all === undefined) reports.set(pool, all = new Set());
  all.add(report);
  return () => all.delete(report);
}

const heard = new WeakSet<Emitter>();

/**
 * Listens to a pool or one of its connections. Without a listener an error ends the process; one is
 * enough, however many stores and attempts to open.
 */
export function listen(emitter: Emitter, pool: object): void {
  if (heard.has(emitter)) return;
  heard.add(emitter);
  emitter.on("error", (error) => {
    // A log would show the whole client that hangs on errors of a pool, the password with it.
    delete (error as { client?: unknown }).client;
    reports.get(pool)?.forEach((report) => report(error));
  });
}

/**
 * The statements on sessions, and how their rows become entries.
 *
 * @module
 */

import type { Entry, Page, Replacement } from "../backend.ts";
import type { Dialect, LeaseStatements, Shape } from "./dialect.ts";
import type { Row, Script } from "./script.ts";

/** The statements on sessions, and the values of their parameters. */
export interface Statements {
  readonly shape: Shape;
  /** Whether the table has the column `expires`. An old table that cannot be upgraded lacks it. */
  readonly expiring: boolean;
  /** Selects rows for `toEntries`. */
  readonly read: (keys: number) => string;
  readonly write: (entries: number) => string;
  readonly remove: (keys: number) => string;
  /** Its values are the new session, the key, and the value that `sessionIs` of the dialect compares. */
  readonly replace: string;
  /** Its values are the new expiry, then the keys. */
  readonly renew: (keys: number) => string;
  /** Reads a page, without sessions. The arguments are those of the contract. */
  page(start: string | undefined, size: number, prefix?: string): PageQuery;
  /** Deletes some expired rows. Returns how many. */
  prune(now: number): Script<number>;
  /** Claims and settles leases. Present if the table has their columns. */
  readonly leases?: LeaseStatements | undefined;
  /** The values of an entry, in the order of its columns. */
  values(entry: Entry<string>): unknown[];
}

/** A query of a page. */
export interface PageQuery {
  readonly text: string;
  /** The key that is its value. */
  readonly key: string;
  /** The page of its rows. */
  page(rows: Row[]): Page;
}

export function statements(dialect: Dialect, shape: Shape): Statements {
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
  const leasing = Object.keys(dialect.leaseColumns).every((name) => shape.columns.has(name));
  const until = column("until");
  return {
    shape,
    leases: leasing ? dialect.leases(shape) : undefined,
    expiring: shape.columns.has("expires"),
    *prune(now) {
      if (!shape.columns.has("expires")) return 0;
      return yield* dialect.prune(
        now,
        leasing ? ` AND (${until} IS NULL OR ${until} <= ${dialect.now})` : "",
      );
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
    replace: `UPDATE ${table} SET session = ${value("session", 1)} ` +
      `WHERE ${matches(1, 2)} AND ${dialect.sessionIs(3)}`,
    remove: memoized((keys) => `DELETE FROM ${table} WHERE ${matchesInOrder(keys, 1)}`),
    renew: memoized((keys) =>
      `UPDATE ${table} SET expires = ${value("expires", 1)} WHERE ${matchesInOrder(keys, 2)}`
    ),
    page(start, size, prefix = "") {
      // In the order of bytes, the keys with a prefix follow each other.
      const inBytes = prefix === "" ? undefined : dialect.keyInBytes(shape);
      const key = inBytes ?? column("key");
      const first = inBytes !== undefined && start === undefined;
      return {
        text: `SELECT ${listed} FROM ${table} ` +
          `WHERE ${key} ${first ? ">=" : ">"} ${value("key", 1)} ` +
          // Another process may use leases: a row that only has a lease is no session.
          `AND session IS NOT NULL ORDER BY ${key} LIMIT ${size}`,
        key: first ? prefix : start ?? "",
        page(rows) {
          const entries = rows.map(toEntry);
          const last = entries.at(-1)?.key;
          const ends = rows.length < size || inBytes !== undefined && !last?.startsWith(prefix);
          return { entries, next: ends ? undefined : last };
        },
      };
    },
    values: ({ key, value, expires = null }) => [key, value, expires].slice(0, columns.length),
  };
}

/** Replaces sessions, each by a statement of its own. */
export function* replaceAll(
  { replace }: Statements,
  replacements: Replacement<string>[],
): Script<void> {
  for (const { key, before, after } of replacements) yield [replace, after, key, before];
}

/** Makes the text of each count only once. */
export function memoized(make: (count: number) => string): (count: number) => string {
  const made = new Map<number, string>();
  return (count) => {
    let text = made.get(count);
    if (text === undefined) made.set(count, text = make(count));
    return text;
  };
}

/** The entries of the rows that `read` selected. For a single key the rows do not contain the key. */
export function toEntries(keys: string[], rows: Row[]): Entry<string>[] {
  return rows.map(keys.length === 1 ? (row) => toEntry([keys[0], ...row]) : toEntry)
    .filter(({ value }) => value !== "");
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

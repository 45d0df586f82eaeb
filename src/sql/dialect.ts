/**
 * The SQL that differs between databases.
 *
 * @module
 */

import type { Script, Statement } from "./script.ts";

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
  /**
   * The key as an expression that is compared byte by byte, with an index unless the table is old. Absent
   * if the database cannot do that with a table of this shape.
   */
  keyInBytes(shape: Shape): string | undefined;
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
  /** The condition that a session is a value, byte by byte. `index` is that of the value. */
  sessionIs(index: number): string;
  /** Wraps the VALUES list of an insert of several rows, for example to filter padding rows. */
  insertSource?(rows: string, columns: string): string;
  /** The clause of an insert that overwrites the row of an existing key. */
  overwrite(names: string[]): string;
  /**
   * Deletes some expired rows, unless another process is doing so. Returns how many.
   *
   * @param free the condition that nobody holds a lease on the row; empty in a table without leases.
   */
  prune(now: number, free: string): Script<number>;
  /** The columns of leases and their types. */
  readonly leaseColumns: Readonly<Record<"lease" | "until" | "note", string>>;
  /** The server's time in ms since the epoch, as an integer, at the moment when it is evaluated. */
  readonly now: string;
  leases(shape: Shape): LeaseStatements;
}

/** The statements on leases that differ between databases. Each takes any number of rows. */
export interface LeaseStatements {
  /** The most rows of a statement. */
  readonly most: number;
  /** Grants free leases. Its values are key, token and length of each claim. */
  claim(claims: number): string;
  /** Whether `claim` returns the rows of granted claims: key, session, expiry, token and note. */
  readonly claimReturns: boolean;
  /** Whether the statements below return the keys of the rows that they change, or else their number. */
  readonly returnsKeys: boolean;
  /**
   * Changes rows with the token. Its values are key, token, length, 1 or 0 for whether to write the
   * session, the session, its expiry, and the note or NULL to leave it.
   */
  settle(settlements: number): string;
  /** Deletes rows with the token and without a note. Its values are key and token. */
  remove(settlements: number): string;
  /** The same for rows without a session. */
  removeAbsent(settlements: number): string;
  /** Selects key, session, expiry, token and note. Its values are the keys. */
  read(keys: number): string;
  /** Selects key and token of leases that others hold. Its values are key and own token. Only in SQLite. */
  holders?(claims: number): string;
  /** Selects key, token and remaining ms of up to `size` leases that are held, after a key. */
  held(size: number): string;
  /** Selects the same of leases that are held. Its values are the keys. */
  find(keys: number): string;
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

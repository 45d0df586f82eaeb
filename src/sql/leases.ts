/**
 * Leases in the session's own row: the column `lease` has the token of the last holder, `until` the end
 * of the lease in ms since the epoch, or 0 if it was released, and `note` the text that holders note.
 *
 * @module
 */

import type {
  Claim,
  Claimed,
  Held,
  LeasePage,
  Leases,
  MaybePromise,
  Refusal,
  Settlement,
} from "../backend.ts";
import type { LeaseStatements } from "./dialect.ts";
import type { Row, Script } from "./script.ts";
import { padToPowerOfTwo, sortByKey, type Statements, toEntry } from "./statements.ts";

/** How keys and sessions become values. */
export interface LeaseValues {
  key(key: string): unknown;
  /** The session and expiry of an entry. */
  session(entry: { key: string; value: string; expires?: number | undefined }): unknown[];
  /**
   * Makes the values of a padding row from those of a real one. Present if the number of rows must be a
   * power of two, because each number needs its own prepared statement.
   */
  readonly pad?: (values: unknown[]) => unknown[];
}

/** Values that need no conversion. */
export const plainValues: LeaseValues = {
  key: (key) => key,
  session: ({ value, expires = null }) => [value, expires],
};

/** The same for prepared statements. A padding row has no key. */
export const paddedValues: LeaseValues = {
  ...plainValues,
  pad: ([, ...others]) => [null, ...others],
};

/**
 * The leases of a database.
 *
 * @param statements returns the statements, if the table has the columns of leases.
 * @param run runs a script on some keys. The database has its changes when this resolves.
 * @param peek reads without the lock that a claim takes, where such a lock exists.
 */
export function sqlLeases(
  statements: () => Pick<Statements, "leases">,
  values: () => LeaseValues,
  run: <T>(script: Script<T>, signal: AbortSignal, keys: number) => MaybePromise<T>,
  peek?: <T>(script: Script<T>) => T,
): Leases<string> {
  const leases = () => new SqlLeases(statements().leases!, values());
  return {
    claim(claims, signal) {
      const held = peek?.(leases().refuse(claims));
      if (held?.length === claims.length) return held;
      return run(leases().claim(claims), signal, claims.length);
    },
    settle: (settlements, signal) => run(leases().settle(settlements), signal, settlements.length),
    held(start = "", size, signal) {
      // The command line opens tables without the columns.
      if (statements().leases === undefined) return { leases: [] };
      return run(leases().held(start, size), signal, 1);
    },
    find(keys, signal) {
      if (statements().leases === undefined) return [];
      const script = leases().find(keys);
      return peek?.(script) ?? run(script, signal, keys.length);
    },
  };
}

/** Claims and settles leases. Each script makes one statement per kind of settlement. */
class SqlLeases {
  readonly #statements: LeaseStatements;
  readonly #values: LeaseValues;

  constructor(statements: LeaseStatements, values: LeaseValues) {
    this.#statements = statements;
    this.#values = values;
  }

  *claim(claims: Claim[]): Script<Claimed<string>[]> {
    const { claim, read, claimReturns } = this.#statements;
    const rows = yield* this.#run(claim, claims, ({ key, token, length }) => [
      this.#values.key(key),
      token,
      length,
    ]);
    const found = new Map<string, Row>();
    const note = (rows: Row[]) => rows.forEach((row) => found.set(String(row[0]), row));
    if (claimReturns) note(rows);
    const others = claims.filter(({ key }) => !found.has(key));
    note(yield* this.#run(read, others, ({ key }) => [this.#values.key(key)]));
    return claims.map(({ key, token }) => {
      const row = found.get(key);
      const holder = row?.[3] == null ? "" : String(row[3]);
      if (holder !== token) return { key, token: holder };
      const [, session, , , note] = row!;
      const entry = session === null ? undefined : toEntry(row!);
      return { key, token, entry, note: note === null ? undefined : String(note) };
    });
  }

  /** The answers to claims that would be refused now. */
  *refuse(claims: Claim[]): Script<Claimed<string>[]> {
    const rows = yield* this.#run(this.#statements.holders!, claims, ({ key, token }) => [
      this.#values.key(key),
      token,
    ]);
    return rows.map(([key, token]) => ({ key: String(key), token: String(token) }));
  }

  *settle(settlements: Settlement<string>[]): Script<Refusal[]> {
    const { settle, remove, removeAbsent, read } = this.#statements;
    const identify = ({ key, token }: Claim) => [this.#values.key(key), token];
    const all = new Set(settlements);
    const done = (rows: Row[], items: Settlement<string>[]) => {
      const keys = new Set(rows.map(([key]) => String(key)));
      const changed = this.#statements.returnsKeys
        ? items.filter(({ key }) => keys.has(key))
        : rows.reduce((sum, [count]) => sum + Number(count), 0) === items.length
        ? items
        : [];
      for (const settlement of changed) all.delete(settlement);
    };
    const removable = settlements.filter((it) => it.length === 0 && it.note === undefined);
    const absent = removable.filter((it) => it.absent && it.change === undefined);
    done(yield* this.#run(removeAbsent, absent, identify), absent);
    const removed = removable.filter((it) => it.change === null);
    done(yield* this.#run(remove, removed, identify), removed);
    const changed = [...all]; // among them rows that keep a note
    const values = (it: Settlement<string>) => [
      ...identify(it),
      it.length,
      it.change === undefined ? 0 : 1,
      ...it.change ? this.#values.session(it.change) : [null, null],
      it.note ?? null,
    ];
    done(yield* this.#run(settle, changed, values), changed);
    // Those that are left are refused, or the database did not tell which ones are. In that case a token
    // that is still there was there during the change, because a lost token does not come back. Otherwise
    // the row comes from a replica that is behind.
    const rows = yield* this.#run(read, [...all], ({ key }) => [this.#values.key(key)]);
    const found = new Map(rows.map((row) => [String(row[0]), row[3]]));
    return [...all].flatMap(({ key, token, length, change }) => {
      const holder = found.get(key);
      const nothing = !found.has(key) && length === 0 && !change;
      const isHeld = holder != null && String(holder) === token;
      if (nothing || isHeld && !this.#statements.returnsKeys) return [];
      return { key, token: holder == null || isHeld ? undefined : String(holder) };
    });
  }

  *held(start: string, size: number): Script<LeasePage> {
    const rows = yield [this.#statements.held(size), this.#values.key(start)];
    const leases = rows.map(toHeld);
    return { leases, next: rows.length < size ? undefined : leases.at(-1)!.key };
  }

  *find(keys: string[]): Script<Held[]> {
    const items = keys.map((key) => ({ key }));
    const rows = yield* this.#run(this.#statements.find, items, ({ key }) => [
      this.#values.key(key),
    ]);
    return rows.map(toHeld);
  }

  /** Runs a statement for items, in the order of their keys, so that processes do not deadlock. */
  *#run<T extends { readonly key: string }>(
    statement: (rows: number) => string,
    items: T[],
    values: (item: T) => unknown[],
  ): Script<Row[]> {
    const { most } = this.#statements;
    const all = sortByKey(items);
    const rows: Row[] = [];
    for (let i = 0; i < all.length; i += most) {
      let batch = all.slice(i, i + most).map(values);
      const { pad } = this.#values;
      if (pad !== undefined) batch = padToPowerOfTwo(batch, pad(batch.at(-1)!));
      rows.push(...yield [statement(batch.length), ...batch.flat()]);
    }
    return rows;
  }
}

function toHeld([key, token, left]: Row): Held {
  return { key: String(key), token: String(token), left: Number(left) };
}

/** The rows of a VALUES list, with the placeholder of each value. */
export function rowsOf(
  count: number,
  columns: readonly string[],
  value: (column: string, index: number) => string,
): string {
  const row = (_: unknown, i: number) =>
    `(${columns.map((name, j) => value(name, i * columns.length + j + 1)).join(", ")})`;
  return Array.from({ length: count }, row).join(", ");
}

/**
 * Creating and upgrading the table.
 *
 * @module
 */

import type { Opening } from "../backend.ts";
import { reason } from "../errors.ts";
import type { Dialect, Shape } from "./dialect.ts";
import type { Script } from "./script.ts";
import { type Statements, statements } from "./statements.ts";

/**
 * Creates the table, or upgrades a table of an older version. If the table is current, this only reads
 * the catalog, so that a user without the right to create or alter tables can use it.
 */
export function* prepareTable(dialect: Dialect, options: SchemaOptions): Script<Statements> {
  const changes = (shape: Shape | undefined) => {
    const index = options.expiring && !shape?.indexed ? [dialect.index] : [];
    return [...dialect.changes(shape), ...index, ...leaseColumns(shape)];
  };
  const leaseColumns = (shape: Shape | undefined) =>
    options.leasing ? addLeaseColumns(dialect, shape) : [];
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
    const missing = leaseColumns(shape);
    if (missing.length > 0) {
      const why = `table ${dialect.table} has no columns for leases and cannot get them`;
      throw new Error(`${why}; run: ${missing.join("; ")}: ${reason(error)}`, cause);
    }
    const what = dialect.changes(shape).length > 0
      ? `${old}; its old limits still apply`
      : `table ${dialect.table} has no index on "expires" and cannot get one, so pruning is slow`;
    options.report(new Error(`${what}: ${reason(error)}`, cause));
    return statements(dialect, shape);
  }
}

/** Options of `prepareTable`. */
export interface SchemaOptions extends Pick<Opening, "expiring" | "leasing" | "report" | "plan"> {
  transient(error: unknown): boolean;
}

/** The statements that add the columns of leases. They are at the end, and NULL until they are used. */
function addLeaseColumns({ table, column, leaseColumns }: Dialect, shape?: Shape): string[] {
  return Object.entries(leaseColumns).flatMap(([name, type]) =>
    shape?.columns.has(name) ? [] : `ALTER TABLE ${table} ADD COLUMN ${column(name)} ${type}`
  );
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

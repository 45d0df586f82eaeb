/**
 * Scripts: generators of statements that run on synchronous and asynchronous databases.
 *
 * @module
 */

/** The values of a row, in the order of the selected columns. */
export type Row = readonly unknown[];

/** A statement, with the values of its parameters if it has any. */
export type Statement = string | readonly [sql: string, ...values: unknown[]];

/**
 * Yields statements and receives the rows of each. A generator because SQLite runs it synchronously
 * while the other databases wait for each answer.
 */
export type Script<T> = Generator<Statement, T, Row[]>;

/** Runs a script on an asynchronous database. */
export async function executeScript<T>(
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
export function executeScriptSync<T>(
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

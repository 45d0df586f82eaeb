/**
 * Checks whether the database user has the permissions that the first operation of a store needs: to
 * create or upgrade the table or collection. Changes nothing.
 *
 * @module
 */

import { accessSync, constants, existsSync } from "node:fs";
import { dirname } from "node:path";
import type { Plan } from "../backend.ts";
import type { Context } from "./context.ts";
import { type Location, parametersOf } from "./url.ts";

/**
 * Tries the change in a way that has no effect, or asks the server.
 *
 * @throws {Error} if the user lacks a permission.
 */
export async function checkPlan(location: Location, plan: Plan, context: Context): Promise<void> {
  switch (location.kind) {
    case "pg":
      return await checkPostgres(location, plan, context);
    case "mysql":
      return await checkMySQL(location, plan, context);
    case "mongodb":
      return await checkMongo(location, context);
    case "sqlite":
    case "denokv":
      // A missing file is created, which needs write access to its folder.
      accessSync(existsSync(location.url) ? location.url : dirname(location.url), constants.W_OK);
  }
}

/**
 * Creates a missing table and rolls back. An existing table is not altered, because that would lock
 * it: it is enough to check that the user owns it.
 */
async function checkPostgres({ url }: Location, plan: Plan, context: Context): Promise<void> {
  const { default: { Client } } = await context.drivers.pg();
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: context.timeout,
    query_timeout: context.timeout,
  });
  client.on("error", () => {}); // the running query rejects as well
  try {
    await client.connect();
    if (plan.exists) {
      const owner =
        "SELECT pg_has_role(relowner, 'USAGE') AS yes FROM pg_class WHERE oid = $1::regclass";
      const name = tableOf(plan);
      const { rows: [{ yes } = { yes: true }] } = await client.query(owner, [name]);
      if (!yes) throw new Error(`must be owner of table ${name}`);
      return;
    }
    await client.query("BEGIN");
    for (const statement of plan.changes) await client.query(statement);
    await client.query("ROLLBACK");
  } finally {
    // The end of the connection rolls back an open transaction.
    await client.end();
  }
}

/**
 * MySQL cannot roll back changes of a schema, and permissions come from roles, patterns and levels.
 * So this runs a statement that repeats a column name: the server checks the permissions first, and
 * refuses the repeated name afterwards.
 */
async function checkMySQL({ url }: Location, plan: Plan, context: Context): Promise<void> {
  const { createConnection } = await context.drivers.mysql();
  const given = createConnection({ uri: url, connectTimeout: context.timeout });
  given.on("error", () => {}); // the running query rejects as well
  const connection = given.promise();
  const name = tableOf(plan);
  try {
    await connection.query("SET SESSION lock_wait_timeout = 1");
    await connection.query(
      plan.exists
        ? `ALTER TABLE ${name} ADD COLUMN \`key\` int`
        : `CREATE TABLE ${name} (\`key\` int, \`key\` int)`,
    );
  } catch (error) {
    if ((error as { code?: string }).code !== "ER_DUP_FIELDNAME") throw error;
  } finally {
    connection.destroy();
  }
}

/** The quoted name of the table that a plan creates or changes. */
function tableOf({ changes }: Plan): string {
  const name =
    /^(?:CREATE TABLE|ALTER TABLE|DELETE (?:old )?FROM) ((?:(["`])(?:(?!\2).|\2\2)+\2\.?)+)/s;
  return name.exec(changes[0]!)![1]!;
}

/** A privilege of a MongoDB user. */
interface Privilege {
  readonly resource: {
    readonly db?: string;
    readonly collection?: string;
    readonly anyResource?: boolean;
  };
  readonly actions: readonly string[];
}

/** The first insert creates a collection. A server without authentication permits everything. */
async function checkMongo(location: Location, context: Context): Promise<void> {
  const { MongoClient } = await context.drivers.mongodb();
  const client = new MongoClient(location.url, { serverSelectionTimeoutMS: context.timeout });
  try {
    const db = client.db();
    const { authInfo } = await db.command({ connectionStatus: 1, showPrivileges: true });
    const { authenticatedUsers = [], authenticatedUserPrivileges: all } = authInfo;
    if (authenticatedUsers.length === 0 || all === undefined) return;
    const { collection } = parametersOf(location);
    const may = (action: string) =>
      (all as Privilege[]).some(({ resource, actions }) =>
        actions.includes(action) && (resource.anyResource === true ||
          ["", db.databaseName].includes(resource.db!) &&
            ["", collection].includes(resource.collection))
      );
    const missing = ["find", "insert", "update", "remove"].filter((action) => !may(action));
    if (missing.length > 0) throw new Error(`the user has no permission to ${missing.join(", ")}`);
  } finally {
    await client.close();
  }
}

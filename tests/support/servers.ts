/** Where the servers of the test run are; `deno task test` starts them and says so here. */

import { randomBytes } from "node:crypto";
import process from "node:process";

export type Server = "redis" | "mongodb" | "postgres" | "mysql";

/** The URL of the server of this test run. Without one the tests fail: nothing is skipped. */
export function serverUrl(server: Server): string {
  const variable = `TEST_${server.toUpperCase()}_URL`;
  const url = process.env[variable];
  if (!url) throw new Error(`${variable} is not set: run the tests with "npx -y deno task test"`);
  return url;
}

/** A name for data of its own: a table, collection or prefix. */
export function place(): string {
  return `test-${randomBytes(6).toString("hex")}`;
}

/** The servers of the test run. `deno task test` starts them and sets their URLs. */

import { randomBytes } from "node:crypto";
import process from "node:process";

export type Server = "redis" | "mongodb" | "postgres" | "mysql";

/** The URL of the server of this test run. Without it the tests fail; they are not skipped. */
export function serverUrl(server: Server): string {
  const variable = `TEST_${server.toUpperCase()}_URL`;
  const url = process.env[variable];
  if (!url) throw new Error(`${variable} is not set: run the tests with "npx -y deno task test"`);
  return url;
}

/** A new name for a table, collection or prefix. */
export function place(): string {
  return `test-${randomBytes(6).toString("hex")}`;
}

/**
 * Drivers that are not installed.
 *
 * @module
 */

import process from "node:process";
import type { Context } from "./context.ts";
import { Failure } from "./failure.ts";
import { kinds } from "./url.ts";

/** Whether the error, or one of its causes, says that the driver is not installed. */
export function isMissing(error: unknown, driver: string): boolean {
  const { code, message = "", cause } = Object(error) as {
    code?: unknown;
    message?: string;
    cause?: unknown;
  };
  return /MODULE_NOT_FOUND/.test(String(code)) && message.includes(`'${driver}'`) ||
    message.startsWith(`${driver} is not installed`) ||
    cause !== undefined && isMissing(cause, driver);
}

/** The failure for a driver that is not installed, with the command that helps. */
export function missingDriver(name: string, driver: string, { npx }: Context): Failure {
  const needs = `${name} needs the package "${driver}", which is not installed; run`;
  if (npx === undefined) return new Failure(`${needs}: npm install ${driver}`);
  // npx installs only the packages that are named, so name the drivers of the other URLs as well.
  const schemes = npx.map((argument) => /^([a-z][a-z\d+.-]+):/i.exec(argument)?.[1] ?? "");
  const others = Object.values(kinds).filter(({ driver: other, schemes: known }) =>
    other === driver || other !== "better-sqlite3" && schemes.some((scheme) => known.test(scheme))
  );
  // better-sqlite3 13 needs Node.js 22.
  const old = Number.parseInt(process.versions.node) < 22;
  const packages = others.map(({ driver }) =>
    ` -p ${driver}${old && driver === "better-sqlite3" ? "@12" : ""}`
  ).join("");
  return new Failure(`${needs}: npx -p @telegraf/session${packages} telegraf-session …`);
}

/**
 * The tokens of leases. A token names its holder, so that an error can say who it is.
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { isatty } from "node:tty";
import type { LeaseHolder } from "../errors.ts";

// Not imported because the import evaluates all exports of node:process: 5 ms of the start-up time.
// deno-lint-ignore no-process-global
const { pid, versions } = process;

/** Different in each process, also in two containers with the same host name and process ID. */
const processId = randomBytes(9).toString("base64url");

const host = readHost();

let count = 0;

/** A new token. The name of the host comes last because it may contain dots. */
export function newToken(date: number): string {
  return `${processId}.${(count++).toString(36)}.${date}.${pid}.${host}`;
}

/** The holder in a token, if the token is one of this package. */
export function holderOf(token: string | undefined): LeaseHolder | undefined {
  const [, since, pid, host] = /^[\w-]+\.\w+\.(\d+)\.(\d+)\.(.*)$/.exec(token ?? "") ?? [];
  if (since === undefined) return undefined;
  return { host: host!, pid: Number(pid), since: new Date(Number(since)) };
}

/** The holder in words, for errors. */
export function describeHolder(holder: LeaseHolder | undefined): string {
  if (holder === undefined) return "another process";
  return `${describeProcess(holder)}, since ${holder.since.toISOString()}`;
}

/** The process with the token, which has all sessions in memory, in words. */
export function describeOwner(token: string): string {
  return `${describeHolder(holderOf(token))}, has all sessions in memory, by the option "cache"`;
}

/** The process of a holder, with the name of its machine if it is known. */
export function describeProcess({ pid, host }: LeaseHolder): string {
  return `process ${pid}${host && ` on ${host}`}`;
}

/** The name of the machine, which needs no escaping; empty if Deno does not allow to read it. */
function readHost(): string {
  try {
    if (versions.deno !== undefined && isatty(0)) return ""; // Deno would ask for the permission
    return hostname().replace(/[^\w.-]/g, "?").slice(0, 150);
  } catch {
    return "";
  }
}

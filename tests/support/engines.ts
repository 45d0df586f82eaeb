/** Servers of a cluster, for tests of failovers. A server that this machine cannot have fails the test. */

import process from "node:process";
import { canUnpack, type Packages, unpackedPackages } from "../../scripts/servers/debian.ts";
import { findProgram } from "../../scripts/servers/index.ts";
import { launch } from "../../scripts/servers/launch.ts";
import type { Recipe, Scope, Server } from "../../scripts/servers/recipe.ts";
import { family } from "../suites/faults.ts";
import type { Cleanup } from "./cleanup.ts";

/** What servers need, until the cleanup ends them. */
export function scopeOf(cleanup: Cleanup): Scope {
  const aborter = new AbortController();
  const scope: Scope = {
    install: true,
    own: true,
    log: console.log,
    signal: aborter.signal,
    cleanups: [],
  };
  return cleanup.of(scope, async ({ cleanups }) => {
    aborter.abort();
    await Promise.allSettled(cleanups.map((end) => end()));
  });
}

/** The folder of programs of Debian's packages. */
export async function unpacked(scope: Scope, name: string, wanted: Packages): Promise<string> {
  if (!canUnpack(scope)) {
    throw new Error(`${name} is missing, and only Debian has it for this test`);
  }
  return await unpackedPackages(scope, name, wanted);
}

/**
 * Starts a server of a recipe.
 *
 * @param change adapts its command line, and may prepare its data.
 * @param command its program; by default the one that the other tests have.
 */
export async function startServer(
  scope: Scope,
  recipe: Recipe,
  change: (command: string[], folder: string) => string[] | Promise<string[]>,
  command?: string,
): Promise<Server> {
  const program = command === undefined
    ? await findProgram(scope, recipe)
    : { command, source: command };
  if (program === undefined) throw new Error(`${recipe.name} is missing: ${recipe.hint}`);
  const startCommand: Recipe["startCommand"] = async (launch) =>
    await change(await recipe.startCommand(launch), launch.folder);
  return await launch(scope, { ...recipe, startCommand }, program);
}

/** Kills a server and its processes, as the death of its machine does. */
export async function kill(server: Server): Promise<void> {
  const [, ...children] = family(server.pid!);
  const stopped = server.stop("SIGKILL");
  for (const pid of children) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
  await stopped;
}

/** Temporary servers from a program of this machine. */

import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isRoot, run, succeeds, tail } from "./process.ts";
import type { Program, Recipe, Scope, Server, User } from "./recipe.ts";

/** Starts a program as a temporary server on a free port, with its data in a temporary folder. */
export async function launch(scope: Scope, recipe: Recipe, program: Program): Promise<Server> {
  scope.signal.throwIfAborted();
  const folder = await fs.promises.mkdtemp(join(tmpdir(), `telegraf-session-${recipe.backend}-`));
  let stop = () => Promise.resolve();
  scope.cleanups.push(async () => {
    await stop();
    await fs.promises.rm(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  const user = isRoot && recipe.refusesRoot ? await unprivileged() : undefined;
  if (user) await fs.promises.chown(folder, user.uid, user.gid);
  const port = await freePort();
  const [command, ...args] = await recipe.startCommand({
    command: program.command,
    folder,
    port,
    user,
    run: (command, args) => run(command, args, { ...user, cwd: folder, signal: scope.signal }),
  });

  const log = join(folder, "log");
  let child: ChildProcess;
  const ended = () => child.pid === undefined || child.exitCode !== null || child.signalCode;
  const server = {
    url: recipe.url(port),
    product: "",
    version: "",
    source: program.source,
    command: program.command,
    get pid() {
      return child.pid;
    },
    async start() {
      const output = fs.openSync(log, "a");
      child = spawn(command!, args, { ...user, cwd: folder, stdio: ["ignore", output, output] });
      child.on("error", (error) => fs.appendFileSync(log, error.message));
      fs.closeSync(output);
      [server.product, server.version] = await ready(scope, recipe, server.url, () => {
        if (ended()) throw new Error(`${program.source} exited: ${tail(fs.readFileSync(log))}`);
      });
    },
    async stop(signal: NodeJS.Signals = recipe.stopSignal ?? "SIGTERM") {
      if (ended()) return;
      const exit = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await exit;
      clearTimeout(timer);
    },
  };
  scope.signal.throwIfAborted();
  stop = () => server.stop();
  await server.start();
  return server;
}

/** Connects until the server answers, `check` throws, or a minute has passed. */
export async function ready(
  scope: Scope,
  recipe: Recipe,
  url: string,
  check = () => {},
): Promise<[product: string, version: string]> {
  for (const deadline = Date.now() + 60_000;;) {
    try {
      return await recipe.describe(url);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    check();
    await sleep(50, undefined, { signal: scope.signal });
  }
}

/**
 * A free port below the range of outgoing connections. An outgoing connection could take a port of
 * that range while its server is down.
 *
 * @param offset if given, the port that is higher by as much is free too
 */
export async function freePort(offset = 0): Promise<number> {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * (15_000 - offset));
    if (await isFree(port) && await isFree(port + offset)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer().once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

async function unprivileged(): Promise<User> {
  const name = await succeeds("id", ["postgres"]) ? "postgres" : "nobody";
  return {
    uid: Number(await run("id", ["-u", name])),
    gid: Number(await run("id", ["-g", name])),
  };
}

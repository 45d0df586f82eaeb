/** Finding and running programs. */

import { spawn, type SpawnOptions } from "node:child_process";
import * as fs from "node:fs";
import { basename, delimiter, join } from "node:path";
import process from "node:process";

export const isRoot = process.getuid?.() === 0;

/** The path of a program on the `PATH`, in one of the folders, or in the folders of servers. */
export function which(program: string, ...folders: string[]): string | undefined {
  return (process.env.PATH ?? "").split(delimiter)
    .concat(folders, "/usr/sbin", "/usr/local/sbin")
    .map((folder) => join(folder, program))
    .find((file) => fs.existsSync(file));
}

export type RunOptions =
  & Pick<SpawnOptions, "cwd" | "env" | "uid" | "gid">
  & { signal?: AbortSignal };

/** Runs a command without input and returns its output. */
export function run(
  command: string,
  args: string[],
  { signal, ...options }: RunOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const child = spawn(command, args, {
      ...options,
      stdio: ["ignore", "pipe", "pipe"],
      // A process group, so that the abort also ends the children of a script.
      detached: true,
    });
    const abort = () => child.pid && process.kill(-child.pid, "SIGTERM");
    signal?.addEventListener("abort", abort);
    let output = "";
    let errors = "";
    child.stdout.on("data", (data) => output += data);
    child.stderr.on("data", (data) => errors += data);
    child.on("error", reject);
    child.on("close", (code) => {
      signal?.removeEventListener("abort", abort);
      if (code === 0) return resolve(output);
      reject(new Error(`${basename(command)} failed: ${tail(errors || output)}`));
    });
  });
}

export function succeeds(command: string, args: string[], options?: RunOptions): Promise<boolean> {
  return run(command, args, options).then(() => true, () => false);
}

/** The last lines of an output. */
export function tail(output: string | Uint8Array): string {
  return output.toString().trim().split("\n").slice(-10).join("\n");
}

/** A signal that aborts with the given one, and after this many ms. */
export function within({ signal }: { signal: AbortSignal }, ms: number): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(ms)]);
}

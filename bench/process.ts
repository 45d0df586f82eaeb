/** Runs parts of the benchmark in processes of their own. */

import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import type { Readable, Writable } from "node:stream";

/** Runs a file with these arguments. It can collect garbage by `gc()`. */
export function start(
  file: string,
  args: string[],
): ChildProcess & { stdin: Writable; stdout: Readable } {
  const flags = "deno" in process.versions
    ? ["run", "-A", "--no-check", "--v8-flags=--expose-gc"]
    : ["--expose-gc"];
  return spawn(process.execPath, [...flags, file, ...args], {
    stdio: ["pipe", "pipe", "inherit"],
  });
}

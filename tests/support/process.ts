/** Runs programs in a separate process, to test effects on a whole process. */

import { spawn } from "node:child_process";
import process from "node:process";
import { clearTimeout, setTimeout } from "node:timers";

/**
 * Removes what is not from the program: Telegraf uses deprecated features of Node.js, and Deno may wait for
 * another process.
 */
export function withoutNoise(output: string): string {
  return output.replace(/^.*(\[DEP0040\]|--trace-deprecation|waiting for file lock).*\n/gm, "");
}

/** How a program ended. */
export interface Ending {
  /** The exit code, or `null` if it had to be killed. */
  code: number | null;
  /** Its output to both streams. */
  output: string;
  /** Its duration in ms. */
  duration: number;
}

/**
 * Runs a module with the runtime of this process.
 *
 * @param code its code, in JavaScript.
 * @param timeout the time in ms after which it is killed.
 */
export function run(code: string, timeout = 90_000): Promise<Ending> {
  const { bun, deno } = process.versions as { bun?: string; deno?: string };
  const args = bun ? ["-e"] : deno ? ["eval"] : ["--input-type=module", "-e"];
  const started = Date.now();
  const child = spawn(process.execPath, [...args, code], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => output += text);
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), timeout);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ code, output: withoutNoise(output), duration: Date.now() - started });
    });
  });
}

/** The URL of an entry that programs can import, relative to a test file. */
export function entry(name: string, test: string): string {
  return test.replace(/tests\/[^/]+\/[^/]*(\.\w+)$/, `${name}$1`);
}

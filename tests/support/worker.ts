/** Processes with bots that tests control. They run `bot.ts`. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { withoutNoise } from "./process.ts";

/** An error of a worker, as it is sent to the tests. */
export interface WorkerError {
  readonly name: string;
  readonly message: string;
  /** All its text that a log could show. */
  readonly dump: string;
}

interface Call {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** A process with bots. */
export class Worker implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #calls = new Map<number, Call>();
  readonly #exit: Promise<unknown>;
  #count = 0;
  /** Its output, without the answers to calls. */
  output = "";
  /** Its complete output, to search for passwords. */
  log = "";

  /** @param backend the entry's module and the factory in it: `["pg", "Postgres"]`. */
  constructor(backend: readonly [module: string, factory: string]) {
    const file = fileURLToPath(new URL("./bot.ts", import.meta.url));
    const args = process.versions.deno === undefined ? [file] : ["run", "-A", "--no-check", file];
    this.#process = spawn(process.execPath, [...args, ...backend], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", DEBUG: "" },
    });
    this.#process.stdin!.on("error", () => {}); // the process has ended
    this.#exit = once(this.#process, "close");
    this.#exit.then(() => {
      for (const { reject } of this.#calls.values()) {
        reject(new Error(`the process of the bots ended: ${this.output}`));
      }
    });
    this.#process.stderr!.setEncoding("utf8").on("data", (text) => {
      this.output += text;
      this.log += text;
    });
    createInterface({ input: this.#process.stdout! }).on("line", (line) => {
      this.log += `${line}\n`;
      if (!line.startsWith('{"id":')) {
        this.output += `${line}\n`;
        return;
      }
      const { id, result, error } = JSON.parse(line);
      const { resolve, reject } = this.#calls.get(id)!;
      this.#calls.delete(id);
      if (error === undefined) resolve(result);
      else reject(error);
    });
  }

  /** Makes a bot on a store with the options. */
  open(name: string, options: object): Promise<unknown> {
    return this.call("open", name, options);
  }

  /** Sends an update of the user to the bot. */
  update(name: string, user = 1): Promise<unknown> {
    return this.call("update", name, user);
  }

  /** Sends an update that must fail; returns its error. */
  async failure(name: string, user = 1): Promise<WorkerError> {
    try {
      await this.update(name, user);
    } catch (error) {
      return error as WorkerError;
    }
    throw new Error(`the update of ${name} did not fail`);
  }

  call(call: string, ...args: unknown[]): Promise<unknown> {
    const id = this.#count++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#process.stdin!.write(JSON.stringify({ id, call, args }) + "\n");
    });
  }

  /** Ends the process; asserts that it exits with code 0 and without other output. */
  async end(): Promise<void> {
    this.#process.stdin!.end();
    await this.#exit;
    assert.equal(withoutNoise(this.output), "");
    assert.equal(this.#process.exitCode, 0);
  }

  /** Sends a signal to the process, which must still run. */
  signal(signal: NodeJS.Signals): void {
    process.kill(this.#process.pid!, signal); // `kill` of Deno's child sends only one signal
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#exit;
  }
}

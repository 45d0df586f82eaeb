/**
 * Two processes at the same time under `exclusive()` and `update()`: no update is lost, each process's
 * updates stay in order, and every update reads what the last one stored.
 */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Harness, Test } from "./harness.ts";
import type { History, Update, Work } from "./worker.ts";

/** A process that sends updates. */
class Worker {
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #ready: Promise<unknown>;
  #output = "";

  constructor(program: string | URL, ...args: string[]) {
    const file = typeof program === "string" ? program : fileURLToPath(program);
    const { deno } = process.versions;
    const words = deno === undefined ? [file] : ["run", "-A", "--no-check", file];
    this.#process = spawn(process.execPath, [...words, ...args], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    this.#process.stdin!.on("error", () => {}); // the process has ended
    this.#ended = once(this.#process, "close");
    const lines = createInterface({ input: this.#process.stdout! });
    this.#ready = once(lines, "line");
    lines.on("line", (line) => this.#add(`${line}\n`));
    this.#process.stderr!.setEncoding("utf8").on("data", (text) => this.#add(text));
  }

  #add(text: string): void {
    this.#output += text;
  }

  /** Waits until its store is open. */
  async ready(): Promise<void> {
    await Promise.race([this.#ready, this.#ended]);
    assert.match(this.#output, /^ready$/m);
  }

  /** Lets it send updates; asserts that it ends without an error and without other output. */
  async send(work: Work): Promise<void> {
    this.#process.stdin!.end(`${JSON.stringify(work)}\n`);
    await this.#ended;
    assert.equal(withoutNoise(this.#output), "ready\n");
    assert.equal(this.#process.exitCode, 0);
  }

  async end(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#ended;
  }
}

/**
 * Removes what is not from the program: Telegraf uses deprecated features of Node.js, and Deno may wait for
 * another process.
 */
function withoutNoise(output: string): string {
  return output.replace(/^.*(\[DEP0040\]|--trace-deprecation|waiting for file lock).*\n/gm, "");
}

export function processes(test: Test, harness: Harness): void {
  for (const [chats, updates] of [[1, 100], [20, 5]] as const) {
    test(`loses no update of ${chats} chats in two processes`, async (store, where) => {
      const workers = [0, 1].map(() => new Worker(...harness.worker!(where)));
      try {
        await Promise.all(workers.map((worker) => worker.ready()));
        await Promise.all(
          workers.map((worker, process) => worker.send({ process, chats, updates })),
        );
      } finally {
        await Promise.all(workers.map((worker) => worker.end()));
      }
      for (let user = 1; user <= chats; user++) {
        const { list }: History = await store.get(`${user}:${user}`);
        assertHistory(list, updates);
      }
    }, { skip: harness.noLeases });
  }
}

/** Each update is there once, in the order of its process, and has found all that came before it. */
function assertHistory(list: readonly Update[], updates: number): void {
  const numbers = (process: number) => list.filter(([it]) => it === process).map(([, n]) => n);
  const all = Array.from({ length: updates }, (_, i) => i);
  for (const process of [0, 1]) assert.deepEqual(numbers(process), all);
  assert.deepEqual(list.map(([, , found]) => found), list.map((_, i) => i));
}

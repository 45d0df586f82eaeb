/**
 * A database of `@deno/kv` in memory, below its JavaScript: it takes and returns messages of the protocol KV
 * Connect. As a program it serves one to its parent: a call per line of its input, an answer per line.
 */

import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** A database. */
export interface KvDatabase {
  call(method: Method, message: Uint8Array): Promise<Uint8Array>;
  close(): void;
}

type Method = "snapshotRead" | "atomicWrite";

/** The native part of `@deno/kv`. */
type Native =
  & Record<Method, (id: number, message: Uint8Array, debug: boolean) => Promise<Uint8Array>>
  & {
    open(path: string, inMemory: undefined, debug: boolean): number;
    close(id: number, debug: boolean): void;
  };

const file = fileURLToPath(import.meta.url);

/**
 * Opens a database. On Deno it is in a process of its own: Deno runs each test file in a thread, and crashes
 * when one uses the native part after another has ended that had loaded it.
 */
export function openDatabase(): KvDatabase {
  return process.versions.deno === undefined ? new OwnDatabase() : new ChildDatabase();
}

class OwnDatabase implements KvDatabase {
  readonly #native: Native;
  readonly #id: number;

  constructor() {
    const load = createRequire(import.meta.url);
    this.#native = load(join(dirname(load.resolve("@deno/kv")), "_napi_index.cjs"));
    this.#id = this.#native.open(":memory:", undefined, false);
  }

  call(method: Method, message: Uint8Array): Promise<Uint8Array> {
    return this.#native[method](this.#id, message, false);
  }

  close(): void {
    this.#native.close(this.#id, false);
  }
}

class ChildDatabase implements KvDatabase {
  readonly #process: ChildProcess;
  readonly #calls: { resolve(answer: Uint8Array): void; reject(error: Error): void }[] = [];

  constructor() {
    this.#process = spawn(process.execPath, ["run", "-A", "--no-check", "--quiet", file], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    createInterface({ input: this.#process.stdout! }).on("line", (line) => {
      const { id, answer, error } = JSON.parse(line);
      const { resolve, reject } = this.#calls[id]!;
      if (error === undefined) resolve(Buffer.from(answer, "base64"));
      else reject(new Error(error));
    });
  }

  call(method: Method, message: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const id = this.#calls.push({ resolve, reject }) - 1;
      const text = Buffer.from(message).toString("base64");
      this.#process.stdin!.write(JSON.stringify({ id, method, message: text }) + "\n");
    });
  }

  close(): void {
    this.#process.stdin!.end();
  }
}

/** Serves a database to the parent. */
function serve(): void {
  const database = new OwnDatabase();
  createInterface({ input: process.stdin }).on("line", (line) => {
    const { id, method, message } = JSON.parse(line);
    database.call(method, Buffer.from(message, "base64")).then(
      (answer) =>
        console.log(JSON.stringify({ id, answer: Buffer.from(answer).toString("base64") })),
      (error) => console.log(JSON.stringify({ id, error: String(error.message ?? error) })),
    );
  }).on("close", () => process.exit());
}

if (process.argv[1] === file) serve();

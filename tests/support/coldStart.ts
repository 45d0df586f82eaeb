/** Processes that open the same data at the same time, like the workers of a bot at its start. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";

/** The stores that the processes open. */
export interface ColdStart {
  /** The URL of the entry's module. */
  readonly module: string;
  /** The name of its factory. */
  readonly factory: string;
  /** The factory's options, without the place. */
  readonly options: object;
  /** The option for the place. */
  readonly place: "table" | "collection" | "prefix" | "filename" | "path";
}

/** The number of processes. */
export const processes = 12;

/**
 * Opens each place in all processes at the same time. Each process stores its own session under
 * `"process:0"` and so on, and one under the common key `"shared"`.
 *
 * @param places new places, or old data to upgrade.
 * @returns the errors.
 */
export async function coldStart(what: ColdStart, places: string[]): Promise<string[]> {
  const children = Array.from({ length: processes }, (_, i) => new Child(program(what, i)));
  try {
    const errors: string[] = [];
    await Promise.all(children.map((child) => child.answer())); // wait until all have started
    for (const place of places) {
      children.forEach((child) => child.tell(place));
      errors.push(...await Promise.all(children.map((child) => child.answer())));
    }
    return errors.filter((error) => error !== "");
  } finally {
    await Promise.all(children.map((child) => child.end()));
  }
}

/** Opens each place from its input, and prints a line with the errors or an empty line. */
function program({ module, factory, options, place }: ColdStart, number: number): string {
  return `
    import process from "node:process";
    import { createInterface } from "node:readline";
    import { ${factory} } from "${module}";
    console.log("");
    for await (const place of createInterface({ input: process.stdin })) {
      const errors = [];
      const store = ${factory}({
        ...${JSON.stringify(options)},
        ${place}: place,
        onError: (error) => errors.push(error),
        onInitError: (error) => errors.push(error),
      });
      try {
        await store.ready();
        await Promise.all([store.set("process:${number}", ${number}), store.set("shared", ${number})]);
        const stored = await store.get("process:${number}");
        if (stored !== ${number}) throw new Error("stored " + stored);
        await store.close();
      } catch (error) {
        errors.push(error);
      }
      console.log(errors.map(String).join("; ").replaceAll("\\n", " "));
    }
  `;
}

class Child {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #exit: Promise<unknown>;

  constructor(code: string) {
    const { bun, deno } = process.versions as { bun?: string; deno?: string };
    const args = bun ? ["-e"] : deno ? ["eval"] : ["--input-type=module", "-e"];
    this.#process = spawn(process.execPath, [...args, code], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#exit = once(this.#process, "exit");
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  tell(line: string): void {
    this.#process.stdin!.write(`${line}\n`);
  }

  async answer(): Promise<string> {
    const { value, done } = await this.#lines.next();
    return done ? `process ended with code ${this.#process.exitCode}` : value;
  }

  async end(): Promise<void> {
    this.#process.stdin!.end();
    await this.#exit;
  }
}

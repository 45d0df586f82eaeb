/**
 * Measures the CPU time of the client per update. Each store has a process of its own, so that the
 * garbage, the timers and the compiled code of another store do not count.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline/promises";
import type { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { type Backend, bare, type Contender, contenders, required } from "./contenders.ts";
import { start } from "./process.ts";
import { type Quartiles, quartiles, shuffled } from "./runner.ts";
import { tableName, within } from "./throughput.ts";
import { fill, type Workload, workloads } from "./workloads.ts";

/** What an update costs the process of a store. */
export interface Usage {
  store: string;
  /** CPU time of the process, in µs. */
  cpu: Quartiles;
  /** CPU time relative to bare drivers in the same round, by their names: 1.1 is 10 % more. */
  relative: Record<string, Quartiles>;
  /** Instructions outside of the kernel, if `perf` can count them. */
  instructions?: Quartiles;
}

export interface CPUPlan {
  /** How often each store gets a new process. The compiled code of one may be unusually slow. */
  processes: number;
  /** Rounds with each process. */
  rounds: number;
}

/** The time of a round, in ms. Less would measure how a process awakes. */
const slice = 50;
/** The time before the first round, in ms. Bots run for days, with warm code. */
const warmUp = 2000;

/** One round of one store, per update. */
interface Sample {
  cpu: number;
  instructions?: number;
}

/** Measures the stores in one workload, with sessions of 300 bytes. */
export async function cpu(
  backend: Backend,
  url: string,
  contenders: Contender[],
  workload: Workload,
  plan: CPUPlan,
): Promise<Usage[]> {
  const counting = canCount() ? "perf" : "";
  const samples = new Map<string, Sample[]>(contenders.map(({ name }) => [name, []]));
  for (let i = 0; i < plan.processes; i++) {
    const processes = new Map<string, Process>();
    for (const name of [...samples.keys()]) {
      const one = new Process([backend, url, name, workload.name, tableName(), counting]);
      try {
        await one.run(warmUp);
        processes.set(name, one);
      } catch (error) {
        if (required.includes(name)) throw error;
        console.error(`${name} is skipped: ${(error as Error).message}`);
        samples.delete(name);
      }
    }
    const names = [...samples.keys()];
    for (let round = 0; round < plan.rounds; round++) {
      for (const i of shuffled(names.length)) {
        samples.get(names[i]!)!.push(await processes.get(names[i]!)!.run(slice));
      }
    }
    for (const one of processes.values()) one.end();
  }
  const references = [...samples].filter(([name]) => name.startsWith(bare));
  return Array.from(samples, ([store, own]) => ({
    store,
    cpu: quartiles(own.map(({ cpu }) => cpu)),
    relative: Object.fromEntries(
      references.map(([name, other]) => [
        name,
        quartiles(own.map(({ cpu }, i) => cpu / other[i]!.cpu)),
      ]),
    ),
    ...(counting && { instructions: quartiles(own.map(({ instructions }) => instructions!)) }),
  }));
}

/** The process of a store. It runs updates for as many ms as it is told, and prints a sample. */
class Process {
  readonly #child: ReturnType<typeof start>;
  readonly #lines: AsyncIterator<string>;

  constructor(args: string[]) {
    this.#child = start(fileURLToPath(import.meta.url), args);
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  async run(time: number): Promise<Sample> {
    this.#child.stdin.write(`${time}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("the measured process failed");
    return JSON.parse(value);
  }

  end(): void {
    this.#child.stdin.end();
  }
}

/** Measures a store in this process. */
async function measured([backend, url, name, work, place, counting]: string[]): Promise<void> {
  const { open } = contenders[backend as Backend].find((one) => one.name === name)!;
  const workload = workloads.find((one) => one.name === work)!;
  const store = await within(20_000, open(url!, place!));
  await within(20_000, fill(store, workload.keys, 300));
  const run = workload.prepare(store, 300);
  for await (const line of createInterface(process.stdin)) {
    const counter = counting ? await Counter.start() : undefined;
    const end = performance.now() + Number(line);
    const before = process.cpuUsage();
    let done = 0;
    for (; performance.now() < end; done += workload.count) await run();
    const { user, system } = process.cpuUsage(before);
    const instructions = await counter?.stop();
    const sample: Sample = {
      cpu: (user + system) / done,
      ...(instructions && { instructions: instructions / done }),
    };
    console.log(JSON.stringify(sample));
  }
}

const counted = ["stat", "-x,", "-e", "instructions:u"];

/** Whether this machine can count instructions. */
function canCount(): boolean {
  const { status, stderr } = spawnSync("perf", [...counted, "true"], { encoding: "utf8" });
  return status === 0 && Number.parseInt(stderr) > 0;
}

/** Counts the instructions of this process. */
class Counter {
  static async start(): Promise<Counter> {
    const args = [...counted, "-D", "-1", "--control", "fd:3,4", "-p", `${process.pid}`];
    const perf = spawn("perf", args, { stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"] });
    const counter = new Counter(perf);
    await counter.#send("enable");
    return counter;
  }

  readonly #perf: ChildProcess;

  private constructor(perf: ChildProcess) {
    this.#perf = perf;
  }

  async stop(): Promise<number> {
    await this.#send("disable");
    this.#perf.kill("SIGINT");
    return Number(/^\d+/m.exec(await text(this.#perf.stderr!))![0]);
  }

  /** Sends a command to perf, and resolves when perf has done it. */
  async #send(command: string): Promise<void> {
    (this.#perf.stdio[3] as Writable).write(`${command}\n`);
    await new Promise((resolve) => (this.#perf.stdio[4] as Readable).once("data", resolve));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await measured(process.argv.slice(2));
  process.exit(); // some stores leave connections open
}

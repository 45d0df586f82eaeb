/**
 * How far a long command has come: a bar where there is a terminal, a line now and then elsewhere.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { Output } from "./context.ts";
import type { Database } from "./database.ts";

/** How far it has come. */
export interface Progress {
  add(sessions: number): void;
  /** Leaves the line, so that something else can be written. */
  pause(): void;
  stop(): void;
}

/** How often a line is written, in ms. */
const interval = 5_000;

/** Begins to show how far it has come; without a total, how much is done. */
export async function startProgress(output: Output, total: number | undefined): Promise<Progress> {
  return output.isTTY && total !== undefined ? await bar(output, total) : lines(output, total);
}

/** The same for all sessions of a database. They are counted only if there is a bar to draw. */
export async function startProgressOf(database: Database, output: Output): Promise<Progress> {
  let total: number | undefined;
  if (output.isTTY) {
    total = 0;
    for await (const page of database.pages()) total += page.length;
  }
  return await startProgress(output, total);
}

async function bar(output: Output, total: number): Promise<Progress> {
  const { default: { SingleBar } } = await import("cli-progress");
  const started = performance.now();
  let done = 0;
  const single = new SingleBar({
    stream: output as NodeJS.WriteStream,
    format: "{bar} {percentage} % | {value} of {total} | {rate} per s | {eta_formatted} left",
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    fps: 5,
  });
  single.start(total, 0, { rate: 0 });
  return {
    add(sessions) {
      done += sessions;
      const seconds = Math.max(0.001, (performance.now() - started) / 1000);
      single.update(Math.min(done, total), { rate: Math.round(done / seconds) });
    },
    pause: () => void output.write("\n"),
    stop: () => single.stop(),
  };
}

function lines(output: Output, total: number | undefined): Progress {
  const of = total === undefined ? "" : ` of ${total.toLocaleString("en")}`;
  let last = performance.now();
  let done = 0;
  return {
    add(sessions) {
      done += sessions;
      if (performance.now() - last < interval) return;
      last = performance.now();
      output.write(`${done.toLocaleString("en")}${of} sessions\n`);
    },
    pause() {},
    stop() {},
  };
}

/**
 * Shows the progress of a long command: as a bar on a terminal, elsewhere as a line from time to time.
 *
 * @module
 */

import { performance } from "node:perf_hooks";
import type { Output } from "./context.ts";
import type { Database } from "./database.ts";
import { duration } from "./text.ts";

/** The progress of a command, until `stop`. */
export interface Progress {
  /** Counts sessions that have been processed. */
  add(sessions: number): void;
  /** Removes the bar, so that something else can be printed. A later `add` shows it again. */
  clear(): void;
  /** Shows the final state, and ends its line. */
  stop(): void;
}

/** The shortest time between two lines where there is no terminal, in ms. */
const lineInterval = 5_000;
/** The shortest time between two states of the bar, in ms. */
const barInterval = 200;
/** The length of the bar on a terminal that is wide enough. */
const barLength = 40;

/**
 * Starts to show progress.
 *
 * @param total the number of sessions, if it is known. The bar needs it.
 */
export function startProgress(output: Output, total: number | undefined): Progress {
  return output.isTTY && total !== undefined ? bar(output, total) : lines(output, total);
}

/** Starts to show progress through a database. Sessions are counted only if there is a bar. */
export async function startProgressOf(database: Database, output: Output): Promise<Progress> {
  let total: number | undefined;
  if (output.isTTY) {
    total = 0;
    for await (const page of database.pages()) total += page.length;
  }
  return startProgress(output, total);
}

function bar(output: Output, total: number): Progress {
  const clear = "\r\x1b[K"; // to the start of the line, and erase it
  const started = performance.now();
  let done = 0;
  let drawn = 0;
  let longest = 0; // of the texts so far, so that the bar does not grow and shrink all the time
  const draw = () => {
    drawn = performance.now();
    const text = numbers(done, total, (drawn - started) / 1000);
    longest = Math.max(longest, text.length);
    // A terminal of unknown width reports 0. Some terminals wrap a line that fills all columns.
    const width = (output.columns || 80) - 1;
    const length = Math.max(0, Math.min(barLength, width - longest - 1));
    const filled = total === 0 ? length : Math.round(done / total * length);
    const line = `${"█".repeat(filled)}${"░".repeat(length - filled)} ${text}`.trimStart();
    output.write(clear + line.slice(0, width));
  };
  draw();
  return {
    add(sessions) {
      done = Math.min(done + sessions, total); // more may have been stored after the count
      if (performance.now() - drawn >= barInterval) draw();
    },
    clear: () => void output.write(clear),
    stop() {
      draw();
      output.write("\n");
    },
  };
}

/** The text after the bar. */
function numbers(done: number, total: number, seconds: number): string {
  const percent = total === 0 ? 100 : Math.floor(done / total * 100);
  const rate = done / Math.max(0.001, seconds);
  const left = done === 0 ? "?" : duration((total - done) / rate);
  return `${percent} % | ${done} of ${total} | ${Math.round(rate)} per s | ${left} left`;
}

function lines(output: Output, total: number | undefined): Progress {
  const of = total === undefined ? "" : ` of ${total.toLocaleString("en")}`;
  let last = performance.now();
  let done = 0;
  return {
    add(sessions) {
      done += sessions;
      if (performance.now() - last < lineInterval) return;
      last = performance.now();
      output.write(`${done.toLocaleString("en")}${of} sessions\n`);
    },
    clear() {},
    stop() {},
  };
}

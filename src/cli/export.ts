/**
 * `export URL`.
 *
 * @module
 */

import { isAlive } from "../store/entry.ts";
import type { Context, Output } from "./context.ts";
import { jsonText, Tally } from "./convert.ts";
import { Database } from "./database.ts";
import { exit, Failure, interruption, refusal } from "./failure.ts";
import { isAbsent } from "./readable.ts";
import { startProgress } from "./progress.ts";
import { count } from "./text.ts";
import { sourceOf } from "./transfer.ts";
import { locate } from "./url.ts";

/** Prints each session as one line of JSON. */
export async function exportLines(url: string, context: Context): Promise<number> {
  const { stdout, stderr, signal } = context;
  await using database = await Database.open(locate(url), context);
  const progress = startProgress(stderr, undefined);
  const tally = new Tally();
  let exported = 0;
  let refused = 0;
  try {
    for await (const { entries, read } of sourceOf(database).batches()) {
      if (signal.aborted) break;
      const lines: string[] = [];
      for (const entry of await read(entries.map(({ key }) => key))) {
        const { key, value, expires } = entry;
        if (isAbsent(value) || !isAlive(entry)) continue;
        try {
          const json = jsonText(database.format, value, tally);
          lines.push(line(key, json, expires, value.version));
        } catch (error) {
          refused++;
          stderr.write(`Not exported: session ${JSON.stringify(key)}: ${refusal(error)}\n`);
        }
      }
      await write(stdout, lines.join(""));
      exported += lines.length;
      progress.add(entries.length);
    }
  } catch (error) {
    if (!signal.aborted) throw error; // after Ctrl-C, still report what was exported
  }
  stderr.write(`Exported ${count(exported, "session")} from ${database.title}.\n`);
  for (const sentence of tally.sentences()) stderr.write(`${sentence}\n`);
  if (signal.aborted) throw interruption();
  if (refused > 0) {
    throw new Failure(`${count(refused, "session was", "sessions were")} not exported`);
  }
  return exit.ok;
}

function line(key: string, json: string, expires: number | undefined, version: number): string {
  const end = `${expires === undefined ? "" : `,"expires":${expires}`}${
    version === 0 ? "" : `,"version":${version}`
  }}`;
  const session = /[\r\n]/.test(json) ? JSON.stringify(JSON.parse(json)) : json;
  return `{"key":${JSON.stringify(key)},"session":${session}${end}\n`;
}

/** Waits until the output has taken the text, so that text does not pile up in memory. */
function write(output: Output, text: string): Promise<void> {
  return new Promise((resolve) => {
    if (text === "") resolve();
    else output.write(text, () => resolve());
  });
}

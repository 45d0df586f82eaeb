/** Writes the results of `engines.ts` into `docs/engines.md`. */

import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import process from "node:process";
import { count, type Run } from "./results.ts";

/** What one engine showed. */
export interface Result extends Run {
  name: string;
  /** Product and version, and the source in parentheses; or why it could not be had. */
  engine: string;
}

const file = "docs/engines.md";

/** Puts the results into the document, in place of older ones of the same engines. */
export function document(results: Result[]): void {
  let text = fs.readFileSync(file, "utf8");
  for (const result of results) {
    text = within(text, "engines", (table) => withRow(table, result));
    const lines = [...result.output.matchAll(/^failover (.*)$/gm)].map(([, line]) => line!);
    if (lines.length === 0) continue;
    text = within(text, "failovers", (sections) => withSection(sections, result.name, lines));
  }
  fs.writeFileSync(file, text);
  execFileSync(process.execPath, ["fmt", "--quiet", file]);
}

/** Changes the part of a text between `<!-- NAME -->` and `<!-- /NAME -->`. */
function within(text: string, name: string, change: (part: string) => string): string {
  const [start, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [before, rest] = text.split(start) as [string, string];
  const [part, after] = rest.split(end) as [string, string];
  return `${before}${start}\n\n${change(part.trim())}\n\n${end}${after}`;
}

const today = new Date().toISOString().slice(0, 10);

const inOrder = (a: string, b: string) => a.localeCompare(b, "en", { numeric: true });

function withRow(table: string, { name, engine, tests }: Result): string {
  const numbers = (["passed", "failed", "skipped"] as const).map((it) => count(tests, it));
  const product = engine.replace(/ \([^)]*\)$/, "");
  const [head, line, ...rows] = table.split("\n");
  const others = rows.filter((row) => !row.startsWith(`| ${name} `));
  others.push(`| ${[name, product, ...numbers, today].join(" | ")} |`);
  return [head, line, ...others.sort(inOrder)].join("\n");
}

/** A section per engine, with a table per client. */
function withSection(sections: string, name: string, lines: string[]): string {
  const others = sections.split(/^(?=### )/m).map((section) => section.trim())
    .filter((section) => section && !section.startsWith(`### ${name}\n`));
  const failovers = lines.map(parse);
  const tables = [...new Set(failovers.map(({ client }) => client))].map((client) => {
    const own = failovers.filter((it) => it.client === client);
    const rows = own.map(({ fault, lost, all, after }) =>
      `| ${fault} | ${lost} / ${all} | ${after} |`
    );
    const codes = new Set(own.flatMap((it) => it.codes));
    const retried = codes.size > 0 ? `\n\nRetried: ${[...codes].join(", ")}.` : "";
    return `${client}:\n\n| fault | lost | after |\n| --- | --- | --- |\n${
      rows.join("\n")
    }${retried}`;
  });
  others.push([`### ${name}`, `On ${today}.`, ...tables].join("\n\n"));
  return others.sort(inOrder).join("\n\n");
}

/** The numbers in the line that the test of a failover prints. */
function parse(line: string) {
  const [client, fault, ...fields] = line.split(" | ");
  const value = (label: string) =>
    fields.find((field) => field.startsWith(`${label} `))?.slice(label.length + 1) ?? "";
  const ms = Number.parseInt(value("all chats after"));
  return {
    client,
    fault,
    lost: value("lost"),
    all: value("acknowledged"),
    after: `${(ms / 1000).toFixed(1)} s`,
    // Some drivers give a message instead of a code.
    codes: [...value("codes").matchAll(/([\w ().:-]+?) ×\d+/g)].map(([, code]) =>
      `\`${code!.trim()}\``
    ),
  };
}

/** Draws the chart of the README from the stored results. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ours } from "./contenders.ts";
import type { Report } from "./report.ts";

// GitHub has a white and a nearly black background; these colors are readable on both.
const colors = { ours: "#2f81f7", other: "#8b949e", text: "#7d8590" };
const names: Record<string, string> = {
  redis: "Redis",
  postgres: "PostgreSQL",
  mysql: "MySQL",
  sqlite: "SQLite",
  mongodb: "MongoDB",
};
const [width, left, bar, row, head] = [880, 320, 440, 20, 46];

/** Draws how many updates per second each store takes in bursts of 100 chats. */
export function chart(folder: string): string {
  const shapes: string[] = [];
  let y = 34;
  const reports = Object.keys(names).flatMap((backend) => {
    const file = join(folder, `${backend}.json`);
    return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) as Report : [];
  });
  for (const { backend, server, cells, remark } of reports) {
    const cell = cells.find(({ workload, size, delay }) =>
      workload === "burst" && size === 300 && delay === 0
    );
    // Skips FerretDB, because its speed is not the speed of MongoDB.
    if (cell === undefined || remark !== undefined) continue;
    y += head - row;
    shapes.push(text(left, y, names[backend]!, 'font-weight="600" font-size="15"'));
    shapes.push(text(width - 10, y, server, 'text-anchor="end" font-size="12"'));
    y += 10;
    const rates = cell.results
      .map(({ store, time }) => ({ store, rate: 1e6 / time.median }))
      .sort((a, b) => b.rate - a.rate);
    for (const { store, rate } of rates) {
      const length = Math.max(1, bar * rate / rates[0]!.rate);
      const mine = store.startsWith(ours);
      const weight = mine ? 'font-weight="600"' : "";
      shapes.push(
        text(left - 10, y + 13, store, `text-anchor="end" font-size="13" ${weight}`),
        `<rect x="${left}" y="${y + 2}" width="${length.toFixed(1)}" height="${row - 6}" rx="2" ` +
          `fill="${mine ? colors.ours : colors.other}"/>`,
        text(left + length + 8, y + 13, rounded(rate), `font-size="12" ${weight}`),
      );
      y += row;
    }
  }
  const title = "Updates per second, bursts of 100 chats (a get and a set of 300 bytes each)";
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + 14}" ` +
    `viewBox="0 0 ${width} ${y + 14}" font-family="system-ui, sans-serif" ` +
    `fill="${colors.text}" role="img" aria-label="${title}">\n` +
    [text(10, 22, title, 'font-size="16" font-weight="600"'), ...shapes].join("\n") + "\n</svg>\n";
}

function text(x: number, y: number, content: string, attributes: string): string {
  const escaped = content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${escaped}</text>`;
}

function rounded(rate: number): string {
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(rate)) - 1);
  return (Math.round(rate / digits) * digits).toLocaleString("en-US");
}

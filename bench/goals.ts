/** Goals of the speed of our store, and whether it reached them. Less is better. */

import { bare, cached, ours } from "./contenders.ts";
import { grid, number, type Report } from "./report.ts";
import { inMemory, uncached } from "./throughput.ts";

interface Goal {
  title: string;
  measured: number | undefined;
  most: number;
}

/** A table of the goals that were measured; empty if none was. */
export function goals(report: Report): string {
  const { backend, cells, cpu } = report;
  /** The time with `cache`, relative to another store. */
  const time = (workload: string, reference: string, delay = 0) => {
    const cell = cells.find((one) =>
      one.workload === workload && one.size === 300 && one.delay === delay
    );
    const speedup = cell?.results.find(({ store }) => store === cached)?.speedup[reference];
    return speedup && 1 / speedup.median;
  };
  const used = (workload: string) =>
    cpu?.[workload]?.find(({ store }) => store === ours)?.relative[bare]?.median;
  const embedded = backend === "sqlite";
  const fast = embedded || backend === "redis";
  const all: Goal[] = [
    ...(embedded ? [] : [
      { title: "one update: cache / no cache", measured: time("one", uncached), most: 0.6 },
      {
        title: "one update, 1 ms more per round trip: cache / no cache",
        measured: time("one", uncached, 1),
        most: 0.55,
      },
      {
        title: "session only read, 1 ms more per round trip: cache / no cache",
        measured: time("unchanged", uncached, 1),
        most: 0.05,
      },
    ]),
    {
      title: "whole bot, 100 chats: cache / Telegraf in memory",
      measured: time("bot", inMemory),
      most: fast ? 2 : 3.5,
    },
    { title: "CPU of one update: no cache / bare driver", measured: used("one"), most: 1.15 },
    {
      title: "CPU in bursts of 100 chats: no cache / bare driver",
      measured: used("burst"),
      most: 1,
    },
  ];
  const rows = all.flatMap(({ title, measured, most }) =>
    measured === undefined
      ? []
      : [[title, number(measured), number(most), measured <= most ? "reached" : "missed"]]
  );
  return rows.length === 0 ? "" : grid("goals", ["", "measured", "at most", ""], rows);
}

/**
 * Compares our stores with those of version 2.0.0-beta.7 (`upstream`), those of other packages
 * ("peers"), and the bare drivers.
 *
 * Runs on Deno (`deno task bench`) and on Node 24 (`node bench/main.ts`).
 *
 * @module
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type Server, startServers } from "../scripts/servers/index.ts";
import { Proxy } from "../tests/support/proxy.ts";
import { chart } from "./chart.ts";
import { cleanUp } from "./cleanup.ts";
import { countCommands } from "./commands.ts";
import { cpu } from "./cpu.ts";
import {
  type Backend,
  backends,
  cached,
  type Contender,
  contenders,
  folder,
  ours,
  required,
} from "./contenders.ts";
import { exclusive } from "./exclusive.ts";
import { goals } from "./goals.ts";
import { cachedSize, growth, memory } from "./growth.ts";
import { installPeers, peerVersions } from "./peers.ts";
import { cpuTable, machine, memoryTable, type Report, runtime, summary, table } from "./report.ts";
import { startup } from "./startup.ts";
import { tableNames, throughput } from "./throughput.ts";
import { workloads } from "./workloads.ts";

const parts = [
  "throughput",
  "cpu",
  "exclusive",
  "delay",
  "startup",
  "memory",
  "growth",
  "commands",
];

const usage = `Usage: deno task bench [options]        (or: node bench/main.ts [options])

  --quick               about a minute: sessions of 300 bytes, few rounds, no peers
  --backends <list>     of ${backends.join(", ")}
  --parts <list>        of ${parts.join(", ")}
  --workloads <list>    of ${workloads.map(({ name }) => name).join(", ")}
  --sizes <list>        of sessions, in bytes; 300,4000,60000 by default
  --delays <list>       added to each round trip, in ms; 1,5 by default
  --stores <list>       beginnings of the names of stores; only these stores are measured
  --sessions <list>     numbers of stored sessions, for growth; 1000,100000,1000000 by default
  --rounds <number>     per opening of the stores, 10 by default; no round begins after 5 s; the
                        stores are opened 4 times, or 2 times for more than 10,000 bytes
  --output <folder>     for JSON and the chart; bench/results by default, no files with --quick
  --no-install          do not install missing servers with apt-get
  --help

Uses the servers of TEST_REDIS_URL, TEST_POSTGRES_URL, TEST_MYSQL_URL and TEST_MONGODB_URL. Starts
temporary servers for those that are not set.
`;

const { values } = parseArgs({
  options: {
    help: { type: "boolean", short: "h" },
    quick: { type: "boolean", default: false },
    backends: { type: "string", default: backends.join() },
    parts: { type: "string" },
    workloads: { type: "string", default: workloads.map(({ name }) => name).join() },
    sizes: { type: "string" },
    delays: { type: "string", default: "1,5" },
    stores: { type: "string" },
    sessions: { type: "string", default: "1000,100000,1000000" },
    rounds: { type: "string" },
    output: { type: "string" },
    "no-install": { type: "boolean", default: false },
  },
});

async function main(): Promise<void> {
  if (values.help) return console.log(usage);
  const chosen = list(values.backends, backends);
  await installPeers(console.error);
  await using servers = await startServers({
    backends: chosen.filter((backend) => backend !== "sqlite"),
    install: !values["no-install"],
    log: console.error,
  });
  const reports: Report[] = [];
  try {
    for (const backend of chosen) {
      const server = backend === "sqlite" ? undefined : servers.servers[backend];
      const report = await measure(backend, server);
      await cleanUp(backend, server?.url ?? "", tableNames.splice(0));
      reports.push(report);
      keep(report);
    }
  } finally {
    folder.remove();
  }
  for (const report of reports) {
    const name = `${report.server} on ${report.runtime}`;
    if (report.cells.length > 0) console.log(`\n${name}: ${ours}\n${summary(report)}`);
    const reached = goals(report);
    if (reached !== "") console.log(`\n${name}: ${reached}`);
  }
}

async function measure(backend: Backend, server?: Server): Promise<Report> {
  const url = server?.url ?? folder.path();
  const fake = server?.product === "FerretDB";
  const report: Report = {
    backend,
    server: server ? `${server.product} ${server.version}` : `SQLite ${await sqliteVersion()}`,
    remark: fake
      ? "FerretDB scans the collection for every filter: its times do not apply to MongoDB"
      : undefined,
    runtime: runtime(),
    machine: machine(),
    date: new Date().toISOString().slice(0, 10),
    versions: peerVersions,
    cells: [],
  };
  const { quick } = values;
  const stores = contenders[backend].filter(({ name }) =>
    values.stores === undefined
      // Some peers do not work with FerretDB, and version 1 has no leases, which a cache needs.
      ? !(quick || fake) || required.includes(name) && !(fake && name === cached)
      : values.stores.split(",").some((beginning) => name.startsWith(beginning))
  );
  const chosenParts = list(values.parts ?? (quick ? "throughput,commands" : parts.join()), parts);
  const chosenWorkloads = workloads.filter(({ name }) =>
    list(values.workloads, workloads.map(({ name }) => name)).includes(name)
  );
  const sizes = numbers(values.sizes ?? (quick || fake ? "300" : "300,4000,60000"));
  const print = (text: string) =>
    console.log(`\n${report.server}: ${text}${report.remark ? `(${report.remark})\n` : ""}`);
  const cells = async (url: string, delay: number, names: string[], stores: Contender[]) => {
    for (const size of delay ? [sizes[0]!] : sizes) {
      for (const workload of chosenWorkloads.filter(({ name }) => names.includes(name))) {
        // A whole bot also holds sessions in memory, so large ones are not a measure of the store.
        if (workload.name === "bot" && size !== sizes[0]) continue;
        // FerretDB scans all stored sessions for every operation.
        if (fake && workload.keys > 100) continue;
        const plan = {
          openings: fake ? 1 : quick || size > 10_000 ? 2 : 4,
          rounds: Number(values.rounds ?? 10),
          slice: 15,
          warmUp: 30,
          limit: 5000,
        };
        if (quick) plan.rounds = Number(values.rounds ?? 5);
        const results = await throughput(url, stores, workload, size, plan);
        report.cells.push({ workload: workload.name, size, delay, results });
        const round = delay ? `, ${delay} ms more per round trip` : "";
        print(table(`${workload.title}, ${size} bytes${round}`, results));
      }
    }
  };
  if (chosenParts.includes("throughput")) {
    await cells(url, 0, workloads.map(({ name }) => name), stores);
  }
  if (chosenParts.includes("cpu")) {
    const plan = quick
      ? { processes: 1, rounds: Number(values.rounds ?? 20) }
      : { processes: 3, rounds: Number(values.rounds ?? 100) };
    report.cpu = {};
    for (const workload of chosenWorkloads.filter(({ name }) => ["one", "burst"].includes(name))) {
      const results = await cpu(backend, url, stores, workload, plan);
      report.cpu[workload.name] = results;
      const embedded = server ? "" : ", with that of the database";
      print(cpuTable(`CPU time of the client per update${embedded}: ${workload.title}`, results));
    }
  }
  if (chosenParts.includes("exclusive") && !fake) { // FerretDB 1 has no leases
    const own = contenders[backend].find(({ name }) => name === ours)!;
    const effort = { rounds: Number(values.rounds ?? 20), slice: 30, warmUp: 30, limit: 20_000 };
    report.exclusive = await exclusive(url, own, effort);
    for (const [title, results] of Object.entries(report.exclusive)) print(table(title, results));
  }
  if (chosenParts.includes("delay") && server) {
    const few = stores.filter(({ name }) => required.includes(name));
    for (const delay of numbers(values.delays)) {
      await using proxy = await Proxy.to(url);
      proxy.delay = delay;
      const delayed = Object.assign(new URL(url), { host: proxy.host }).href;
      await cells(delayed, delay, ["one", "burst", "loops", "same", "unchanged"], few);
    }
  }
  if (chosenParts.includes("startup")) {
    report.startup = await startup(backend, url, quick ? 5 : 15);
    print(table("start of a process to its first get", report.startup, "ms"));
  }
  // FerretDB scans all stored sessions for every operation: this part would take days.
  if (chosenParts.includes("memory") && !fake) {
    const count = 100_000;
    report.memory = await memory(backend, url, count);
    console.log(`\n${memoryTable(`${count.toLocaleString("en-US")} sessions`, report.memory)}`);
    report.cachedSize = await cachedSize(backend, url);
    console.log(
      `Each session of 300 bytes in the cache: ${report.cachedSize.toFixed(0)} bytes of heap`,
    );
  }
  if (chosenParts.includes("growth") && !fake) {
    const effort = { rounds: Number(values.rounds ?? 40), slice: 15, warmUp: 30, limit: 60_000 };
    report.growth = await growth(backend, url, numbers(values.sessions), effort);
    print(table("one update at a time, random chats", report.growth.one));
    print(table("bursts of 100 random chats", report.growth.burst));
  }
  if (chosenParts.includes("commands") && backend === "mongodb") {
    report.commands = await countCommands(url);
    const lines = Object.entries(report.commands).map(([store, count]) => `  ${store}: ${count}`);
    console.log(`\nCommands of a burst of 100 chats\n${lines.join("\n")}`);
  }
  return report;
}

/** Writes the report, and the chart of all reports in the folder. */
function keep(report: Report): void {
  const results = fileURLToPath(new URL("results", import.meta.url));
  const target = values.output ?? (values.quick ? undefined : results);
  if (target === undefined) return;
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, `${report.backend}.json`), JSON.stringify(report, null, 1) + "\n");
  writeFileSync(join(target, "chart.svg"), chart(target));
}

async function sqliteVersion(): Promise<string> {
  const { default: Database } = await import("better-sqlite3");
  const database = new Database(":memory:");
  try {
    return database.prepare("SELECT sqlite_version()").pluck().get() as string;
  } finally {
    database.close();
  }
}

function list<T extends string>(text: string, known: readonly T[]): T[] {
  const names = text.split(",");
  const unknown = names.find((name) => !known.includes(name as T));
  if (unknown !== undefined) {
    throw new TypeError(`Unknown name "${unknown}"; expected one or more of ${known.join(", ")}`);
  }
  return names as T[];
}

function numbers(text: string): number[] {
  return text.split(",").map((part) => {
    if (!(Number(part) > 0)) {
      throw new TypeError(`Invalid number "${part}"; expected a number above 0`);
    }
    return Number(part);
  });
}

await main();
// Some peers leave timers behind.
process.exit();

/**
 * Runs all stores under load on its own servers, and cuts connections from time to time. With
 * `--operations`, runs this number of operations on each store, one store after the other.
 *
 * Usage: `deno run -A scripts/soak.ts [--seconds 600 | --operations 1000000 [store …]]`
 *
 * @module
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { growth } from "../tests/support/heap.ts";
import { clients, operate } from "../tests/suites/leaks.ts";
import { soak } from "../tests/suites/soak.ts";
import { startServers } from "./servers/index.ts";

const { values: { seconds, operations }, positionals } = parseArgs({
  options: { seconds: { type: "string", default: "600" }, operations: { type: "string" } },
  allowPositionals: true,
});

/** Prints the used heap over time. Throws if it has grown too much. */
function report(heap: number[]): void {
  console.log("heap in MB:", heap.map((bytes) => (bytes / 1e6).toFixed(1)).join(" "));
  const grown = growth(heap);
  if (grown > 10e6) {
    throw new Error(`the heap has grown by ${grown} bytes; up to 10 MB were expected`);
  }
}

const servers = await startServers({ own: true, log: console.log });
try {
  if (operations === undefined) {
    const { updates, heap } = await soak(servers.urls, Number(seconds) * 1000);
    console.table(updates);
    report(heap);
  } else {
    for (const name of positionals.length > 0 ? positionals : Object.keys(clients)) {
      await using client = await clients[name]!(servers.urls);
      const started = Date.now();
      const heap = await operate(client, Number(operations));
      console.log(`${name}: ${operations} operations in ${(Date.now() - started) / 1000} s`);
      report(heap);
    }
  }
} finally {
  await servers.stop();
}
process.exit();

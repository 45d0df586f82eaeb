/**
 * All stores under load, with connections cut now and then, on servers of its own.
 *
 * Usage: `deno run -A scripts/soak.ts [--seconds 600]`
 *
 * @module
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { growth, soak } from "../tests/soak.ts";
import { startServers } from "./servers.ts";

const { values: { seconds } } = parseArgs({
  options: { seconds: { type: "string", default: "600" } },
});
const servers = await startServers({ own: true, log: console.log });
try {
  const { updates, heap } = await soak(servers.urls, Number(seconds) * 1000);
  console.table(updates);
  const grown = growth(heap);
  console.log("heap in MB:", heap.map((bytes) => (bytes / 1e6).toFixed(1)).join(" "));
  if (grown > 10e6) throw new Error(`the heap has grown by ${grown} bytes`);
} finally {
  await servers.stop();
}
process.exit();

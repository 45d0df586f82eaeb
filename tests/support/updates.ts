/** Sends updates to a store of any entry. Its arguments: the entry, the factory in it, and options as JSON. */

import process from "node:process";
import { fileURLToPath } from "node:url";
import { runUpdates } from "../../testing.ts";
import { entry } from "./process.ts";

const [module, factory, options] = process.argv.slice(2) as [string, string, string];
const { [factory]: make } = await import(fileURLToPath(entry(module, import.meta.url)));
await runUpdates(make({ ...JSON.parse(options), timeout: 300_000 }));

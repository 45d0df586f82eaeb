/** Sends updates to a store of any entry. Its arguments: the entry, the factory in it, and options as JSON. */

import process from "node:process";
import { fileURLToPath } from "node:url";
import { runUpdates } from "../../testing.ts";
import { entry } from "./process.ts";

const [path, factory, options] = process.argv.slice(2) as [string, string, string];
import(fileURLToPath(entry(path, import.meta.url)))
  .then(({ [factory]: make }) => runUpdates(make({ ...JSON.parse(options), timeout: 300_000 })));

/** What SQLite survives. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { SQLite } from "../sqlite.ts";
import { processes, type ProcessHarness } from "./faults.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-sqlite-"));
after(() => rmSync(folder, { recursive: true }));

const harness: ProcessHarness = {
  name: "SQLite",
  backend: ["sqlite", "SQLite"],
  options: (folder, name) => ({ filename: join(folder, `${name}.sqlite`) }) as object,
  store: (options) => SQLite(options),
};

processes(harness, () => folder);

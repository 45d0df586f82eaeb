/**
 * Checks the workflows of GitHub Actions with actionlint, if Go is on this machine.
 *
 * Usage: `deno run -A scripts/workflows.ts`.
 *
 * @module
 */
import { spawnSync } from "node:child_process";
import { globSync } from "node:fs";
import process from "node:process";
import { findGo } from "./servers/go.ts";

const go = findGo();
if (go === undefined) {
  console.log("Workflows: not checked, because Go is missing");
} else {
  const actionlint = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7";
  const workflows = globSync(".github/workflows/*.yml");
  const { status } = spawnSync(go, ["run", actionlint, ...workflows], { stdio: "inherit" });
  if (status === 0) console.log(`${workflows.length} workflows checked with actionlint`);
  process.exitCode = status ?? 1;
}

/**
 * Starts a real server per database and runs the tests against them.
 *
 * Usage: `deno task test [--no-install] [--runtime <name>]… [file or folder …]`.
 * The names of runtimes are in `runtimes.ts`.
 *
 * @module
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { count, describe, runTests, type Test, testFiles, variables } from "./results.ts";
import { findRuntime, type Runtime } from "./runtimes.ts";
import { startServers } from "./servers/index.ts";

/** The tests of other engines, in `tests/engines`, run with `deno task test:engines`. */
const folders = ["tests/cli", "tests/core", "tests/databases", "tests/package"];

/** The title of a test begins with the name of its store. */
const stores = ["Memory", "Redis", "MongoDB", "SQLite", "PostgreSQL", "MySQL", "Kysely", "Deno KV"];

async function main(): Promise<number> {
  const { values: { "no-install": noInstall, runtime: names }, positionals } = parseArgs({
    options: {
      "no-install": { type: "boolean" },
      runtime: { type: "string", multiple: true, default: ["deno"] },
    },
    allowPositionals: true,
  });
  const files = (positionals.length > 0 ? positionals : folders).flatMap(testFiles);

  await using servers = await startServers({
    documentdb: files.some((file) => file.endsWith("mongodb.leases.test.ts")),
    install: !noInstall,
    log: console.log,
  });
  console.log(servers.describe());
  const aborter = new AbortController();
  servers.defer(() => Promise.resolve(aborter.abort()));
  const runtimes: Runtime[] = [];
  servers.defer(() => Promise.resolve(runtimes.forEach(({ remove }) => remove())));
  for (const name of names) {
    const scope = { log: console.log, signal: aborter.signal };
    runtimes.push(await findRuntime(scope, name));
  }

  const results: { title: string; tests: Test[] }[] = [];
  for (const runtime of runtimes) {
    console.log(`\n${runtime.title}\n`);
    results.push({
      title: runtime.title,
      ...await runTests(runtime, files, variables(servers), servers.defer),
    });
    if (aborter.signal.aborted) return 1;
  }

  let passed = 0, failed = 0, untested = 0;
  for (const { title, tests } of results) {
    console.log(`\n${title}`);
    // Only a run of all files has to test every store.
    untested += summarize(tests, positionals.length > 0 ? [] : stores);
    passed += count(tests, "passed");
    failed += count(tests, "failed");
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed + untested === 0 ? 0 : 1;
}

/** Prints a summary of the results. Returns the number of required stores without a test. */
function summarize(tests: Test[], required: string[]): number {
  const storeOf = ({ path }: Test) =>
    path.toReversed().map((title) => stores.find((store) => title.startsWith(store)))
      .find((store) => store !== undefined) ?? "other";
  const table = Object.fromEntries(
    [...stores, "other"].map((store) => [store, { passed: 0, failed: 0, skipped: 0 }]),
  );
  for (const test of tests) table[storeOf(test)]![test.outcome]++;
  console.table(table);

  // The failed ones last, where they are seen.
  const noted = ["skipped", "failed"].flatMap((it) =>
    tests.filter(({ outcome }) => outcome === it)
  );
  for (const test of noted) console.log(`${test.outcome}: ${describe(test)}`);
  const untested = required.filter((store) => table[store]!.passed + table[store]!.failed === 0);
  for (const store of untested) console.log(`${store}: no test ran`);
  return untested.length;
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});

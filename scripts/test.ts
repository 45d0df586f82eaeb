/**
 * Starts a real server per database and runs the tests against them.
 *
 * Usage: `deno task test [--no-install] [--runtime <name>]… [file or folder …]`.
 * The names of runtimes are in `runtimes.ts`.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { parseArgs, stripVTControlCharacters } from "node:util";
import { concurrency, findRuntime, type Runtime } from "./runtimes.ts";
import { backends, type Servers, startServers } from "./servers/index.ts";

/** The title of a test begins with the name of its store. */
const stores = ["Memory", "Redis", "MongoDB", "SQLite", "PostgreSQL", "MySQL", "Kysely"];

interface Test {
  /** The titles of its suites, then its own. */
  path: string[];
  outcome: "passed" | "failed" | "skipped";
  /** Why it was skipped or failed. */
  reason?: string;
}

async function main(): Promise<number> {
  const { values: { "no-install": noInstall, runtime: names }, positionals } = parseArgs({
    options: {
      "no-install": { type: "boolean" },
      runtime: { type: "string", multiple: true, default: ["deno"] },
    },
    allowPositionals: true,
  });
  const files = (positionals.length > 0 ? positionals : ["tests"]).flatMap(testFiles);

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
    results.push({ title: runtime.title, tests: await run(runtime, files, servers) });
    if (aborter.signal.aborted) return 1;
  }

  let passed = 0, failed = 0, untested = 0;
  for (const { title, tests } of results) {
    console.log(`\n${title}`);
    // Only a run of all files has to test every store.
    untested += summarize(tests, positionals.length > 0 ? [] : stores);
    passed += tests.filter(({ outcome }) => outcome === "passed").length;
    failed += tests.filter(({ outcome }) => outcome === "failed").length;
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed + untested === 0 ? 0 : 1;
}

/** Runs the test files on a runtime. */
async function run(runtime: Runtime, testFiles: string[], servers: Servers): Promise<Test[]> {
  const files = runtime.files(testFiles);
  if (files.length === 0) {
    return [{
      path: testFiles,
      outcome: "failed",
      reason: "these files do not test the npm package",
    }];
  }
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-report-"));
  const report = join(folder, "junit.xml");
  const [program, ...args] = runtime.command(report);
  const child = spawn(program!, [...args, ...files], {
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      ...process.env,
      DENO_JOBS: String(concurrency),
      TEST_DOCUMENTDB_URL: servers.documentdb?.url,
      TEST_MONGODB_KIND: servers.servers.mongodb.product === "MongoDB" ? "mongod" : "ferretdb",
      ...Object.fromEntries(
        backends.map((name) => [`TEST_${name.toUpperCase()}_URL`, servers.urls[name]]),
      ),
    },
    // Its own process group, so that Ctrl-C does not reach it: on SIGINT `deno test` exits before
    // the tests can clean up.
    detached: true,
  });
  let output = "";
  child.stdout.on("data", (data) => {
    process.stdout.write(data);
    output += data;
  });
  const ended = once(child, "close");
  servers.defer(async () => {
    if (child.pid && child.exitCode === null && child.signalCode === null) {
      process.kill(-child.pid, "SIGTERM");
      await ended;
    }
    rmSync(folder, { recursive: true });
  });
  const [code] = await ended;

  const tests = existsSync(report) ? readReport(readFileSync(report, "utf8"), files) : [];
  // Deno's report does not contain files that failed to load.
  for (
    const [, file] of stripVTControlCharacters(output).matchAll(/^Uncaught error from (\S+)/gm)
  ) {
    tests.push({ path: [file!], outcome: "failed", reason: "uncaught error" });
  }
  if (code !== 0 && !tests.some(({ outcome }) => outcome === "failed")) {
    tests.push({ path: [runtime.title], outcome: "failed", reason: `exit code ${code}` });
  }
  return tests;
}

/** All `*.test.ts` in a folder, or the one file. */
function testFiles(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts")).sort().map((file) => join(path, file));
}

/** Reads the JUnit report of `deno test`, `node --test` or `bun test`. */
function readReport(xml: string, files: string[]): Test[] {
  const tests: (Test & { name: string })[] = [];
  const suites: string[] = [];
  const tags = /<(\/?)(testsuite|testcase|failure|error|skipped)\b((?:\s+\w+="[^"]*")*)\s*(\/?)>/g;
  for (const [, closing, tag, text, empty] of xml.matchAll(tags)) {
    const { name = "", message } = attributes(text!);
    if (tag === "testsuite") {
      if (closing) suites.pop();
      else if (!empty) suites.push(name);
    } else if (closing) {
      continue;
    } else if (tag === "testcase") {
      tests.push({ name, path: [...suites, ...name.split(" > ")], outcome: "passed" });
    } else {
      const outcome = tag === "skipped" ? "skipped" : "failed";
      Object.assign(tests.at(-1)!, { outcome, reason: message });
    }
  }
  // Deno also reports each suite as a test. The names of the suite's tests begin with its name.
  const containers = new Set(tests.flatMap(({ name }) => {
    const titles = name.split(" > ");
    return titles.slice(1).map((_, i) => titles.slice(0, i + 1).join(" > "));
  }));
  const paths = new Set(files.map((file) => resolve(file)));
  return tests.filter(({ name, outcome, reason = "" }) =>
    // Counts a failed suite only if the suite itself failed, for example in a hook. Its failed
    // tests are counted already.
    !(containers.has(name) && /^(\d+ test steps? failed|)$/.test(reason)) &&
    // Node reports a file without tests as a test that passed.
    !(outcome === "passed" && paths.has(resolve(name)))
  );
}

function attributes(text: string): Record<string, string> {
  const entities: Record<string, string> = {
    lt: "<",
    gt: ">",
    quot: '"',
    apos: "'",
    amp: "&",
    "#10": "\n",
  };
  return Object.fromEntries(
    Array.from(text.matchAll(/(\w+)="([^"]*)"/g), ([, name, value]) => [
      name,
      value!.replace(/&(#?\w+);/g, (entity, name) => entities[name] ?? entity),
    ]),
  );
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

  const noted = tests.filter(({ outcome }) => outcome !== "passed");
  for (const { path, outcome, reason = "" } of noted) {
    // Deno reports no reason for a skip; there the title contains the reason.
    const why = /^(|true|TODO)$/.test(reason) ? "" : `: ${reason.split("\n")[0]}`;
    console.log(`${outcome}: ${path.at(-1)}${why}`);
  }
  const untested = required.filter((store) => table[store]!.passed + table[store]!.failed === 0);
  for (const store of untested) console.log(`${store}: no test ran`);
  return untested.length;
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});

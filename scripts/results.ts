/** Running tests on a runtime, and reading their results. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { stripVTControlCharacters } from "node:util";
import { concurrency, type Runtime } from "./runtimes.ts";
import { backends, type Servers } from "./servers/index.ts";

export interface Test {
  /** The titles of its suites, then its own. */
  path: string[];
  outcome: "passed" | "failed" | "skipped";
  /** Why it was skipped or failed. */
  reason?: string;
}

/** How many tests ended in this way. */
export function count(tests: Test[], wanted: Test["outcome"]): number {
  return tests.filter(({ outcome }) => outcome === wanted).length;
}

/** The first line of the reason. Deno reports none for a skip; there the title contains it. */
export function reasonOf({ reason = "" }: Test): string | undefined {
  return /^(|true|TODO)$/.test(reason) ? undefined : reason.split("\n")[0];
}

/** A failed or skipped test in one line. */
export function describe(test: Test): string {
  return [test.path.at(-1), reasonOf(test)].filter((it) => it !== undefined).join(": ");
}

/** What a run of tests gave. */
export interface Run {
  tests: Test[];
  /** What it wrote to its standard output. */
  output: string;
}

/** The variables that tell tests where the servers are. */
export function variables(servers: Servers): NodeJS.ProcessEnv {
  return {
    ...process.env,
    DENO_JOBS: String(concurrency),
    TEST_DOCUMENTDB_URL: servers.documentdb?.url,
    TEST_MONGODB_KIND: servers.servers.mongodb.product === "MongoDB" ? "mongod" : "ferretdb",
    ...Object.fromEntries(
      backends.map((name) => [`TEST_${name.toUpperCase()}_URL`, servers.urls[name]]),
    ),
  };
}

/**
 * Runs test files on a runtime.
 *
 * @param defer registers a cleanup that runs when the run is interrupted, or else at its end
 * @param filter runs only the tests whose titles match; for Deno
 */
export async function runTests(
  runtime: Runtime,
  testFiles: string[],
  env: NodeJS.ProcessEnv,
  defer: Servers["defer"],
  filter?: RegExp,
): Promise<Run> {
  const files = runtime.files(testFiles);
  if (files.length === 0) {
    const reason = "these files do not test the npm package";
    return { tests: [{ path: testFiles, outcome: "failed", reason }], output: "" };
  }
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-report-"));
  const report = join(folder, "junit.xml");
  const [program, ...args] = runtime.command(report);
  if (filter) args.push(`--filter=${filter}`);
  const child = spawn(program!, [...args, ...files], {
    stdio: ["ignore", "pipe", "inherit"],
    env,
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
  defer(async () => {
    if (child.pid && child.exitCode === null && child.signalCode === null) {
      process.kill(-child.pid, "SIGTERM");
      await ended;
    }
    rmSync(folder, { recursive: true });
  });
  const [code] = await ended;
  output = stripVTControlCharacters(output);

  const tests = existsSync(report) ? readReport(readFileSync(report, "utf8"), files) : [];
  // Deno's report does not contain files that failed to load.
  for (
    const [, file] of output.matchAll(/^Uncaught error from (\S+)/gm)
  ) {
    tests.push({ path: [file!], outcome: "failed", reason: "uncaught error" });
  }
  if (code !== 0 && !tests.some(({ outcome }) => outcome === "failed")) {
    tests.push({ path: [runtime.title], outcome: "failed", reason: `exit code ${code}` });
  }
  // Deno reports the tests that the filter excludes as skipped.
  const matches = ({ path }: Test) => !filter || path.some((title) => filter.test(title));
  return { tests: tests.filter(matches), output };
}

/** All `*.test.ts` in a folder, or the one file. */
export function testFiles(path: string): string[] {
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

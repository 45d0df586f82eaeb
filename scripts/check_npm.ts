/**
 * Checks the npm package in `npm/` in the form that users install: the tarball, the reports of
 * publint and attw, and new projects, one per entry, each with only the driver of that entry.
 *
 * @module
 */

import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import ts from "typescript";
import { findNode, transpile } from "./runtimes.ts";
import { startServers } from "./servers/index.ts";

const tools = [
  "publint@0.3",
  "@arethetypeswrong/cli@0.18",
  "@types/node@22",
  "esbuild@0.28",
  "rollup@4",
  "@rollup/plugin-node-resolve@16",
  "@rollup/plugin-commonjs@29",
  "@rollup/plugin-json@6",
  "webpack@5",
  "bun@1.3",
];

interface Entry {
  driver: string;
  factory: string;
  /** Options that open no connection. */
  options: string;
  /** Options with which an operation fails soon, or needs no server. */
  nowhere: string;
  /** Whether the entry also works with another driver. */
  others?: boolean;
  /** Whether a program with this entry can be bundled while the driver is missing. */
  optional?: boolean;
}

const entries: Record<string, Entry> = {
  redis: {
    driver: "redis",
    factory: "Redis",
    options: '{ url: "redis://localhost" }',
    nowhere: '{ url: "redis://127.0.0.1:1" }',
    others: true, // ioredis
    optional: true,
  },
  mongodb: {
    driver: "mongodb",
    factory: "Mongo",
    options: '{ url: "mongodb://localhost/bot" }',
    nowhere: '{ url: "mongodb://127.0.0.1:1/bot" }',
  },
  sqlite: {
    driver: "better-sqlite3",
    factory: "SQLite",
    options: '{ filename: ":memory:" }',
    nowhere: '{ filename: ":memory:" }',
    others: true, // the built-in driver of Node.js
    optional: true,
  },
  pg: {
    driver: "pg",
    factory: "Postgres",
    options: '{ host: "localhost" }',
    nowhere: '{ host: "127.0.0.1", port: 1 }',
  },
  mysql: {
    driver: "mysql2",
    factory: "MySQL",
    options: '{ host: "localhost" }',
    nowhere: '{ host: "127.0.0.1", port: 1 }',
  },
  kysely: {
    driver: "kysely",
    factory: "KyselyStore",
    options: "{ dialect: { createDriver() {}, createQueryCompiler() {} } }",
    nowhere: "{ dialect: { createDriver() {}, createQueryCompiler() {} } }",
    optional: true,
  },
  denokv: {
    driver: "@deno/kv",
    factory: "DenoKV",
    options: '{ path: ":memory:" }',
    nowhere: '{ url: "http://127.0.0.1:1" }',
    optional: true,
  },
};

const folder = fs.mkdtempSync(join(tmpdir(), "telegraf-session-check-"));
const tool = (name: string) => join(folder, "tools", "node_modules", ".bin", name);
let failures = 0;

/** Runs a check and prints its result. */
async function check(title: string, body: () => unknown): Promise<void> {
  try {
    const note = await body();
    console.log(`ok      ${title}${note ? `: ${note}` : ""}`);
  } catch (error) {
    console.log(`FAILED  ${title}`);
    console.log((error as Error).message.trim().replace(/^/gm, "        "));
    failures++;
  }
}

/** Runs a command and returns its output. */
async function run(
  cwd: string,
  command: string,
  args: string[],
  env = process.env,
): Promise<string> {
  const stdio = ["ignore", "pipe", "pipe"] as ["ignore", "pipe", "pipe"];
  const child = spawn(command, args, { cwd, env, stdio, timeout: 300_000 });
  const [output, errors, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise((resolve, reject) => child.on("error", reject).on("close", resolve)),
  ]);
  if (code === 0) return output;
  throw new Error(
    `${command} ${args.join(" ")} failed with exit code ${code}\n${output}\n${errors}`,
  );
}

const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"];

/** Creates a project and installs packages in it. */
function install(name: string, ...packages: string[]): Promise<string> {
  const project = join(folder, name);
  fs.mkdirSync(project);
  fs.writeFileSync(join(project, "package.json"), '{ "private": true }');
  return run(project, "npm", ["install", ...quiet, ...packages]);
}

/** Contains every source as ES module and as CommonJS with declarations, and little else. */
function checkTarball({ files, size, unpackedSize }: Tarball): string {
  const inner = fs.readdirSync("src", { recursive: true, encoding: "utf8" });
  const sources = [...fs.readdirSync("."), ...inner.map((name) => join("src", name))]
    .filter((name) => name.endsWith(".ts")).map((name) => name.slice(0, -".ts".length));
  const expected = ["esm", "script"].flatMap((half) => [
    `${half}/package.json`,
    ...sources.flatMap((source) => [`${half}/${source}.js`, `${half}/${source}.d.ts`]),
  ]).concat("CHANGELOG.md", "LICENSE", "README.md", "package.json");
  const paths = new Set(files.map(({ path }) => path));
  const missing = expected.filter((path) => !paths.delete(path));
  if (missing.length > 0) throw new Error(`missing files: ${missing.join(", ")}`);
  if (paths.size > 0) throw new Error(`unexpected files: ${[...paths].join(", ")}`);
  const kilobytes = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
  return `${files.length} files, ${kilobytes(size)}, unpacked ${kilobytes(unpackedSize)}`;
}

interface Tarball {
  filename: string;
  size: number;
  unpackedSize: number;
  files: { path: string }[];
}

/** Programs that use an entry, by file name. CommonJS does not allow them a top-level await. */
function programs(name: string, { factory, options, nowhere }: Entry): Record<string, string> {
  const use = `
    const store = ${factory}(${options});
    store.close().then(() => console.log(typeof store.get, typeof StoreError));`;
  const open = `
    ${factory}(${options}).set("k", 1).then(() => console.log("stored"));`;
  const tried = `
    const store = ${factory}({ timeout: 1000, ...${nowhere} });
    store.set("k", 1).then(() => "stored", (error) => error.message).then(async (outcome) => {
      await store.close().catch(() => {});
      console.log(outcome);
    });`;
  const typed = `
    import { type Store, StoreError } from "@telegraf/session";
    import { ${factory}, type ${factory}Options } from "@telegraf/session/${name}";
    interface Session { count: number }
    const options: ${factory}Options = ${options};
    const store: Store<Session> = ${factory}<Session>(options);
    export const count: Promise<number | undefined> = store.get("k").then((it) => it?.count);
    const unset: { [name in keyof Required<${factory}Options>]: undefined } = {} as never;
    export const none: Store<unknown> = ${factory}({ ...unset, ...options });
    export const made: Store<unknown> = new ${factory}({ timeout: 5, ...options });
    export const error: Error = new StoreError("", { operation: "read" });
    // @ts-expect-error: not a session
    store.set("k", { cuont: 1 });
    // @ts-expect-error: no such option
    ${factory}({ ...options, tiemout: 5 });`;
  const esm = `
    import { StoreError } from "@telegraf/session";
    import { ${factory} } from "@telegraf/session/${name}";`;
  const cjs = `
    const { StoreError } = require("@telegraf/session");
    const { ${factory} } = require("@telegraf/session/${name}");`;
  return {
    "use.mjs": esm + use,
    "use.cjs": cjs + use,
    "open.mjs": esm + open,
    "open.cjs": cjs + open,
    "tried.mjs": esm + tried,
    "tried.cjs": cjs + tried,
    "typed.ts": typed,
    "typed.mts": typed,
    "typed.cts": typed,
  };
}

/** Runs a program. Expects it to exit by itself and to print this output. */
async function expectOutput(project: string, program: string, expected = "function function") {
  const output = await run(project, "node", [program]);
  if (output.trim() !== expected) {
    throw new Error(`${program} printed "${output}" instead of "${expected}"`);
  }
}

/** Without the driver, Node.js itself reports the missing package. */
async function checkMissingDriver(project: string, program: string, driver: string) {
  if (driver === "better-sqlite3") return checkBuiltInSQLite(project, program);
  const failed = await failure(project, program);
  const [line] = failed.match(/Cannot find (package|module) '[^']+'/) ?? [];
  if (!line?.endsWith(` '${driver}'`)) throw new Error(failed);
}

/** Without better-sqlite3, the built-in driver of Node.js is used if there is one. */
async function checkBuiltInSQLite(project: string, program: string) {
  const code = 'typeof process.getBuiltinModule("node:sqlite")';
  if ((await run(project, "node", ["--print", code])).trim() === "object") {
    await expectOutput(project, program, "stored");
    return "node:sqlite is used";
  }
  const message = "better-sqlite3 is not installed; install it, or use Node.js 22.13";
  const failed = await failure(project, program);
  if (!failed.includes(message)) throw new Error(failed);
  return `refused with "${message}"`;
}

/** Runs a program that should fail, and returns the error. */
function failure(project: string, program: string): Promise<string> {
  return run(project, "node", [program]).then(
    () => Promise.reject(new Error(`${program} succeeded, but should fail`)),
    (error) => error.message,
  );
}

/** better-sqlite3 is the only driver that opens a database without a server. */
async function checkSQLite(project: string, program: string) {
  const version = await run(project, "node", ["--print", "process.versions.node"]);
  const message = "better-sqlite3 13 needs Node.js 22 or newer";
  try {
    await expectOutput(project, program, "stored");
  } catch (error) {
    const refused = Number.parseInt(version) < 22 && (error as Error).message.includes(message);
    if (!refused) throw error;
    return `on Node.js ${version.trim()} it is refused with "${message}"`;
  }
}

/** The command line, as npm installs it, without drivers. */
async function checkCommandLine(project: string) {
  const command = (...args: string[]) =>
    run(project, "npx", ["--no-install", "@telegraf/session", ...args]);
  const help = await command("--help");
  if (!help.startsWith("Usage: telegraf-session")) throw new Error(help);
  const { message } = await command("stats", "mysql://localhost/bot")
    .then(
      () => new Error("the command succeeded, but mysql2 is missing"),
      (error) => error as Error,
    );
  if (
    !/failed with exit code 1\n\nMySQL needs the package "mysql2", .*: npm install mysql2$/.test(
      message.trim(),
    )
  ) {
    throw new Error(message);
  }
}

/** The error about a missing driver names a command, and that command installs the driver. */
async function checkNpx(project: string, file: string) {
  const url = "postgres://user@127.0.0.1:1/bot"; // no server listens there
  const stats = (...packages: string[]) => {
    const named = [file, ...packages].flatMap((name) => ["-p", name]);
    const args = ["--yes", ...named, "telegraf-session", "stats", url, "--timeout", "1"];
    return run(project, "npx", args).then(() => "", (error) => (error as Error).message);
  };
  const missing = await stats();
  if (!missing.includes("npx -p @telegraf/session -p pg telegraf-session")) {
    throw new Error(missing);
  }
  const refused = await stats("pg");
  if (!refused.includes("ECONNREFUSED")) throw new Error(refused);
}

/** The README's first program runs in a folder that `npm init -y` has prepared. */
async function checkReadme(file: string): Promise<string> {
  const project = join(folder, "readme");
  fs.mkdirSync(project);
  const scope = { log: console.log, signal: AbortSignal.timeout(300_000) };
  const nodes = [await findNode(scope, "22"), await findNode(scope, "24")];
  // npm chooses versions for the Node.js that runs it.
  const env = { ...process.env, PATH: `${dirname(nodes[1]!)}:${process.env.PATH}` };
  await run(project, "npm", ["init", "-y"], env);
  await run(project, "npm", ["install", ...quiet, file, "telegraf@4.16", "better-sqlite3"], env);
  const [, program = ""] = /^```ts\n([\s\S]*?)^```$/m.exec(fs.readFileSync("README.md", "utf8"))!;
  const offline = program.replace(/^await bot\.launch.*\n/m, "");
  if (offline === program) {
    throw new Error("the first program of README.md does not call bot.launch()");
  }
  fs.writeFileSync(join(project, "bot.mts"), offline);
  const versions: string[] = [];
  for (const node of nodes) {
    await run(project, node, ["bot.mts"], { ...process.env, BOT_TOKEN: "1:token" });
    versions.push((await run(project, node, ["--version"])).trim());
  }
  return versions.join(", ");
}

/** Copies from one file to another, because that needs no server. */
async function checkCopy(project: string) {
  const version = await run(project, "node", ["--print", "process.versions.node"]);
  if (Number.parseInt(version) < 22) return `skipped on Node.js ${version.trim()}`;
  fs.writeFileSync(join(project, "sessions.jsonl"), '{"key":"1:1","session":{"count":1}}\n');
  const command = (...args: string[]) =>
    run(project, "npx", ["--no-install", "telegraf-session", ...args]);
  await command("import", "sessions.jsonl", "one.sqlite");
  await command("copy", "one.sqlite", "other.sqlite");
  const session = await command("get", "other.sqlite", "1:1");
  if (session !== '{"count":1}\n') throw new Error(session);
}

/** Type-checks files. Ignores errors in the declarations of other packages. */
function checkTypes(files: string[], module: string, moduleResolution: string): void {
  const { options, errors } = ts.convertCompilerOptionsFromJson({
    module,
    moduleResolution,
    target: "es2022",
    strict: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
    typeRoots: [join(folder, "tools", "node_modules", "@types")],
    types: ["node"],
  }, folder);
  const problems = [...errors, ...ts.getPreEmitDiagnostics(ts.createProgram(files, options))]
    .filter(({ file }) => !file || !/node_modules\/(?!@telegraf\/)/.test(file.fileName));
  if (problems.length === 0) return;
  const host = ts.createCompilerHost(options);
  throw new Error(ts.formatDiagnostics(problems, host));
}

/** Defines `require` in an ES module, as esbuild's documentation recommends. */
const banner =
  'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);';

/** The command line of each bundler and output format. No option excludes a package. */
const bundlers: Record<string, (program: string, file: string) => [string, ...string[]]> = {
  "esbuild esm": (program, file) => [
    tool("esbuild"),
    program,
    "--bundle",
    "--platform=node",
    "--target=node20",
    "--format=esm",
    `--banner:js=${banner}`,
    `--outfile=${file}`,
  ],
  "esbuild cjs": (program, file) => [
    tool("esbuild"),
    program,
    "--bundle",
    "--platform=node",
    "--target=node20",
    "--format=cjs",
    `--outfile=${file}`,
  ],
  "rollup esm": (program, file) =>
    [tool("rollup"), "-c", inTools("rollup.config.mjs"), "--silent"]
      .concat("-i", program, "-f", "es", "-o", file) as [string],
  "rollup cjs": (program, file) =>
    [tool("rollup"), "-c", inTools("rollup.config.mjs"), "--silent"]
      .concat("-i", program, "-f", "cjs", "-o", file) as [string],
  "webpack cjs": (program, file) => ["node", inTools("webpack.cjs"), program, file],
  "bun esm": (program, file) => [tool("bun"), "build", program, "--target=node", "--outfile", file],
  "bun cjs": (program, file) => [
    tool("bun"),
    "build",
    program,
    "--target=node",
    "--format=cjs",
    "--outfile",
    file,
  ],
};

const inTools = (file: string) => join(folder, "tools", file);

/** Writes the configuration of bundlers whose command line has too few options. */
function configureBundlers(): void {
  fs.writeFileSync(
    inTools("rollup.config.mjs"),
    `import commonjs from "@rollup/plugin-commonjs";
    import json from "@rollup/plugin-json";
    import resolve from "@rollup/plugin-node-resolve";
    const plugins = [
      resolve({ preferBuiltins: true, exportConditions: ["node"] }),
      commonjs({ ignoreDynamicRequires: true }),
      json(),
    ];
    export default { plugins, output: { inlineDynamicImports: true } };`,
  );
  fs.writeFileSync(
    inTools("webpack.cjs"),
    `const { basename, dirname, resolve } = require("node:path");
    const [program, file] = process.argv.slice(2);
    require("webpack")({
      mode: "production",
      optimization: { minimize: false },
      target: "node",
      context: process.cwd(),
      entry: resolve(program),
      output: { path: dirname(file), filename: basename(file) },
    }, (error, stats) => {
      if (error) throw error;
      if (stats.hasErrors()) throw new Error(stats.toString({ all: false, errors: true }));
    });`,
  );
}

/** Bundles a program and runs it in a folder without packages. Returns the output. */
async function runBundle(project: string, bundler: string, program: string): Promise<string> {
  const target = fs.mkdtempSync(join(folder, "bundle-"));
  const file = join(target, bundler.endsWith(" esm") ? "bundle.mjs" : "bundle.cjs");
  const [command, ...args] = bundlers[bundler]!(program, file);
  await run(project, command, args);
  return (await run(target, "node", [file])).trim();
}

/** In a bundle without the driver, an operation fails with a hint about the driver. */
async function checkBundleWithout(project: string, bundler: string, program: string, name: string) {
  const output = await runBundle(project, bundler, program);
  const ending = {
    redis: "npm install redis, or pass a client of ioredis as { client }",
    kysely: "npm install kysely, or pass a Kysely as { db }",
    denokv: "npm install @deno/kv, or use Deno",
    sqlite: "better-sqlite3 is not installed; install it, or use Node.js 22.13, Deno 2.2 or Bun, " +
      "which have a built-in driver",
  }[name]!;
  const stored = name === "sqlite" && output === "stored"; // with the built-in driver of Node.js
  if (!stored && !output.endsWith(ending)) throw new Error(output);
}

/** In a bundle with the driver, the driver itself fails, because it finds no server. */
async function checkBundleWith(project: string, bundler: string, program: string, name: string) {
  const output = await runBundle(project, bundler, program);
  if (name === "sqlite") return; // its native part cannot be bundled
  const expected = name === "kysely" ? /createDriver|createAdapter|undefined/ : /ECONNREFUSED/;
  if (!expected.test(output)) throw new Error(output);
}

/** How each test runner runs the conformance suite, from a file that the runner imports. */
const testRunners: Record<string, { file: string; head: string; command: string[] }> = {
  Vitest: {
    file: "vitest.test.mjs",
    head: 'import { test } from "vitest";',
    command: ["node_modules/vitest/vitest.mjs", "run", "--no-color"],
  },
  Jest: {
    file: "jest.test.cjs",
    head: 'const { test } = require("@jest/globals");',
    command: ["node_modules/jest/bin/jest.js", "--json"],
  },
  "node:test": {
    file: "node.test.mjs",
    head: 'import { test } from "node:test";',
    command: ["--test", "--test-reporter=tap"],
  },
};

/** The conformance suite runs in a new project, under the test runners that most projects have. */
async function checkTesting(file: string): Promise<void> {
  const project = join(folder, "testing");
  const node = await findNode({ log: console.log, signal: AbortSignal.timeout(300_000) }, "24");
  await check("testing: installs with Vitest and Jest", async () => {
    await install("testing", file, "telegraf@4.16", "vitest@5", "jest@30", "@jest/globals@30");
  });
  const worker = `
    import { SQLite } from "@telegraf/session/sqlite";
    import { runUpdates } from "@telegraf/session/testing";
    await runUpdates(SQLite({ filename: process.argv[2] }));`;
  fs.writeFileSync(join(project, "worker.mjs"), worker);
  const names = ["rmSync", "SQLite", "conformance"];
  const modules = ["node:fs", "@telegraf/session/sqlite", "@telegraf/session/testing"];
  const suite = `
    const file = (place) => ${JSON.stringify(project)} + "/" + place + ".sqlite";
    conformance({
      test,
      name: "SQLite",
      store: (place, options) => SQLite({ filename: file(place), ...options }),
      drop: (place) => rmSync(file(place), { force: true }),
      worker: (place) => [${JSON.stringify(join(project, "worker.mjs"))}, file(place)],
      updates: 200,
    });`;
  fs.writeFileSync(join(project, "typed.mts"), typedTesting);
  await check("testing: the types of test functions", () => {
    checkTypes([join(project, "typed.mts")], "nodenext", "nodenext");
  });
  for (const [name, { file, head, command }] of Object.entries(testRunners)) {
    const load = modules.map((module, i) =>
      file.endsWith(".cjs")
        ? `const { ${names[i]} } = require("${module}");`
        : `import { ${names[i]} } from "${module}";`
    );
    fs.writeFileSync(join(project, file), [head, ...load, suite].join("\n"));
    await check(`testing: the conformance suite under ${name}`, async () => {
      const output = await run(project, node, [...command, file]);
      const [count = ""] = /"numPassedTests":\d+|^# pass \d+$|^ *Tests +\d+ passed/m.exec(output) ??
        [];
      const passed = Number(count.match(/\d+/));
      // Without the option `backend`, its contract is not tested.
      if (passed < 80) throw new Error(output);
      return `${passed} passed`;
    });
  }
}

/** The test functions of all runners fit the option `test`. */
const typedTesting = `
  import { test as jest } from "@jest/globals";
  import { test as node } from "node:test";
  import { test as vitest } from "vitest";
  import { Memory } from "@telegraf/session";
  import { createStore, type Backend } from "@telegraf/session/backend";
  import { conformance, type TestFunction } from "@telegraf/session/testing";
  const tests: TestFunction[] = [jest, node, vitest];
  for (const test of tests) conformance({ test, store: (_place, options) => Memory(options) });
  export const onOwn = (backend: Backend) => createStore<{ count: number }>(backend, { ttl: 1 });
  // @ts-expect-error: no test function
  conformance({ store: () => Memory() });`;

/** The packages that a bot for `@telegraf/session` 2.0.0-beta.7 needs besides. */
const upstream: Record<string, string[]> = {
  redis: ["redis@4.6.12"],
  mongodb: ["mongodb@6.3.0"],
  sqlite: ["kysely@0.27.2", "better-sqlite3@13", "@types/better-sqlite3"],
  pg: ["kysely@0.27.2", "pg@8.11.3", "@types/pg"],
  mysql: ["kysely@0.27.2", "mysql2@3.9.0"],
};

/**
 * A bot that was written for version 2.0.0-beta.7 counts with that version, then continues with
 * this package. The bot is not changed. It runs as ES module and as CommonJS.
 */
async function checkUpstreamBots(file: string): Promise<void> {
  const { log } = console;
  await using servers = await startServers({ own: true, log });
  // better-sqlite3 13 needs Node.js 22 or newer.
  const node = await findNode({ log, signal: AbortSignal.timeout(300_000) }, "24");
  const env: Record<string, string> = {
    ...process.env,
    USER_ID: "1",
    REDIS_URL: servers.urls.redis,
    MONGODB_URL: servers.urls.mongodb,
    POSTGRES_URL: servers.urls.postgres,
    MYSQL_URL: servers.urls.mysql,
  };
  for (const [name, packages] of Object.entries(upstream)) {
    await check(`${name}: a bot that was written for 2.0.0-beta.7`, async () => {
      const project = join(folder, `upstream-${name}`);
      const sources = ["bot.ts", "store.ts"].map((source) => join(project, source));
      const count = (format: string) => run(project, node, [join(format, "bot.js")], env);
      const beside = ["telegraf@4.16", "@types/node@22", ...packages];
      // Version 2.0.0-beta.7 asks for better-sqlite3 9, which would have to be compiled. It
      // also works with 13.
      const flag = "--legacy-peer-deps";
      await install(`upstream-${name}`, flag, "@telegraf/session@2.0.0-beta.7", ...beside);
      fs.copyFileSync("scripts/upstream/bot.ts", sources[0]!);
      fs.copyFileSync(`scripts/upstream/${name}.ts`, sources[1]!);
      for (const [format, type] of [["esm", "module"], ["cjs", "commonjs"]] as const) {
        transpile(sources, join(project, format), format, project);
        fs.writeFileSync(join(project, format, "package.json"), JSON.stringify({ type }));
      }
      checkTypes(sources, "nodenext", "nodenext");
      const counts = [await count("esm"), await count("cjs")];
      await run(project, "npm", ["install", ...quiet, file]);
      checkTypes(sources, "nodenext", "nodenext");
      counts.push(await count("esm"), await count("cjs"));
      if (counts.join("") !== "1\n2\n3\n4\n") {
        throw new Error(`the bot counted ${counts.map((it) => it.trim())} instead of 1,2,3,4`);
      }
    });
  }
}

async function main(): Promise<void> {
  const { _generatedBy: maker } = JSON.parse(fs.readFileSync("npm/package.json", "utf8"));
  console.log(`npm/package.json: ${maker}`);
  const pack = ["pack", "--json", "--loglevel=error", "--pack-destination", folder];
  const [tarball] = JSON.parse(await run("npm", "npm", pack)) as [Tarball];
  const file = join(folder, tarball.filename);
  await check("tarball", () => checkTarball(tarball));

  await check("installs with each driver alone", () =>
    Promise.all([
      install("tools", ...tools),
      install("none", file),
      ...Object.entries(entries).map(([name, { driver }]) =>
        install(name, file, `${driver}@latest`)
      ),
    ]).then(() => {}));
  await check("installs with the oldest drivers and Telegraf", () => {
    const oldest = [
      "better-sqlite3@9",
      "kysely@0.27.0",
      "mongodb@5",
      "mysql2@3.9",
      "pg@8.11.3",
      "redis@4",
    ];
    const args = ["install", "--dry-run", ...quiet, ...oldest, "telegraf@4.12.0"];
    return run(join(folder, "none"), "npm", args).then(() => {});
  });
  await check("npx @telegraf/session", () => checkCommandLine(join(folder, "none")));
  await check("npx with packages", () => checkNpx(folder, file));
  await check("README's first program", () => checkReadme(file));
  await check("publint", () => run("npm", tool("publint"), ["--strict"]).then(() => {}));
  await check("attw", () => run(folder, tool("attw"), [file]).then(() => {}));

  configureBundlers();
  for (const [name, entry] of Object.entries(entries)) {
    for (const project of [join(folder, name), join(folder, "none", name)]) {
      fs.mkdirSync(project, { recursive: true });
      for (const [path, code] of Object.entries(programs(name, entry))) {
        fs.writeFileSync(join(project, path), code);
      }
    }
    const project = join(folder, name);
    for (const format of ["mjs", "cjs"]) {
      await check(`${name}: use.${format}`, () => expectOutput(project, `use.${format}`));
      if (entry.others) {
        await check(
          `${name}: use.${format} without the driver`,
          () => expectOutput(join(folder, "none", name), `use.${format}`),
        );
      }
      await check(
        `${name}: open.${format} without the driver`,
        () => checkMissingDriver(join(folder, "none", name), `open.${format}`, entry.driver),
      );
    }
    if (name === "sqlite") {
      await check("sqlite: open.mjs", () => checkSQLite(project, "open.mjs"));
      await check("sqlite: npx telegraf-session copy", () => checkCopy(project));
    }
    for (const bundler of Object.keys(bundlers)) {
      const own = bundler.endsWith(" esm") ? "mjs" : "cjs";
      // better-sqlite3 uses a feature of CommonJS when it loads, and Rollup does not replace it. @deno/kv
      // has a native part, which bundlers take for JavaScript.
      if (name !== "denokv" && (name !== "sqlite" || bundler !== "rollup esm")) {
        await check(
          `${name}: bundled by ${bundler}, with the driver`,
          () => checkBundleWith(project, bundler, `tried.${own}`, name),
        );
      }
      for (const format of entry.optional ? ["mjs", "cjs"] : []) {
        const without = join(folder, "none", name);
        await check(
          `${name}: bundled by ${bundler}, from ${format}, without the driver`,
          () => checkBundleWithout(without, bundler, `tried.${format}`, name),
        );
      }
    }
  }

  const typed = (...ends: string[]) =>
    Object.keys(entries).flatMap((name) => ends.map((end) => join(folder, name, `typed.${end}`)));
  for (
    const [resolution, module, files] of [
      ["node10", "commonjs", typed("ts")],
      ["node16", "node16", typed("mts", "cts")],
      ["nodenext", "nodenext", typed("mts", "cts")],
      ["bundler", "esnext", typed("ts")],
    ] as const
  ) {
    await check(
      `TypeScript ${ts.version}, moduleResolution ${resolution}`,
      () => checkTypes(files, module, resolution),
    );
  }
  await checkTesting(file);
  await checkUpstreamBots(file);
}

try {
  await main();
} finally {
  fs.rmSync(folder, { recursive: true });
}
console.log(failures === 0 ? "All checks passed" : `${failures} checks failed`);
process.exitCode = failures === 0 ? 0 : 1;

/**
 * The runtimes of the tests: Deno, Node.js or Bun with the sources, or Node.js with the built npm
 * package. A runtime that is missing on this machine is downloaded from npm.
 *
 * @module
 */

import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { arch, platform, tmpdir } from "node:os";
import { delimiter, dirname, join, relative, resolve } from "node:path";
import process from "node:process";
import ts from "typescript";
import { installPackage } from "./servers/install.ts";

type Scope = Parameters<typeof installPackage>[0];

export interface Runtime {
  /** Name and version, to be printed. */
  title: string;
  /** The command that runs test files and writes a JUnit report. */
  command(report: string): string[];
  /** The files to run for these test files. */
  files(files: string[]): string[];
  /** Removes the temporary files of this runtime. */
  remove(): void;
}

/** The kinds of runtimes, each with its default version. */
const kinds = { deno: "", node: "24", bun: "", esm: "20", cjs: "20" };
type Kind = keyof typeof kinds;

/** The names of runtimes. `esm` and `cjs` are the npm package, optionally with other drivers. */
export const runtimeNames =
  "deno, bun, node[@24], esm[@20|22|24][+<driver>@<version>]…, cjs[@20|22|24][+<driver>@<version>]…";

/** Prepares a runtime. */
export async function findRuntime(scope: Scope, name: string): Promise<Runtime> {
  const [runtime, ...drivers] = name.split("+");
  const [kind, version = kinds[kind as Kind]] = runtime!.split("@") as [Kind, string?];
  switch (kind) {
    case "deno":
      return sources(
        `Deno ${versionOf(process.execPath)}`,
        (report) => [
          ...[process.execPath, "test", "-A", "--no-check", "--parallel"],
          `--junit-path=${report}`,
        ],
      );
    case "bun": {
      const bun = await findBun(scope);
      return sources(
        `Bun ${versionOf(bun)}`,
        (report) => [
          bun,
          "test",
          "--timeout=120000", // of one test; the default is 5 s
          "--reporter=junit",
          `--reporter-outfile=${report}`,
        ],
      );
    }
    case "node": {
      const node = await findNode(scope, version!);
      return sources(`Node.js ${versionOf(node)}`, (report) => nodeTest(node, report));
    }
    case "esm":
    case "cjs": {
      const node = await findNode(scope, version!);
      const { folder, maker } = await makePackage(scope, kind, node, drivers);
      const tests = join(folder, folders[kind], "tests");
      return {
        title: [
          `Node.js ${versionOf(node)}, npm package by ${maker}, ${kind.toUpperCase()}`,
          ...drivers,
        ].join(", "),
        command: (report) => nodeTest(node, report),
        files: (files) =>
          files.filter(isAboutPackage)
            .map((file) => join(tests, relative("tests", file).replace(/\.ts$/, ".js"))),
        remove: () => fs.rmSync(folder, { recursive: true }),
      };
    }
    default:
      throw new TypeError(`Unknown runtime "${name}"; expected one of ${runtimeNames}`);
  }
}

function sources(title: string, command: Runtime["command"]): Runtime {
  return { title, command, files: (files) => files, remove() {} };
}

/** The number of test files that run at the same time. Tests mostly wait. */
export const concurrency = 3;

function nodeTest(node: string, report: string): string[] {
  return [
    node,
    "--test",
    `--test-concurrency=${concurrency}`,
    "--test-timeout=900000", // also ends a file in which a failed test left a handle open
    "--test-reporter=spec",
    "--test-reporter-destination=stdout",
    "--test-reporter=junit",
    `--test-reporter-destination=${report}`,
  ];
}

/** The version of a program, or an empty string if there is no such program. */
function versionOf(program: string): string {
  return output(program, "--version").match(/\d+\.\d+\.\d+/)?.[0] ?? "";
}

/** The output of a program, or an empty string if there is no such program or it fails. */
function output(program: string, ...args: string[]): string {
  try {
    return execFileSync(program, args, { encoding: "utf8", stdio: "pipe" }).trim();
  } catch {
    return "";
  }
}

/** Finds Node.js of this major version: `TEST_NODE`, the one of this machine, or one from npm. */
export async function findNode(scope: Scope, major: string): Promise<string> {
  for (const program of [process.env.TEST_NODE, "node"]) {
    const path = program && output(program, "--print", "process.execPath");
    if (path && versionOf(path).startsWith(`${major}.`)) return path;
  }
  const folder = await installPackage(scope, `node-${platform()}-${arch()}`, major);
  return join(folder, "bin", "node");
}

async function findBun(scope: Scope): Promise<string> {
  for (const program of [process.env.TEST_BUN, "bun"]) {
    if (program && versionOf(program)) return program;
  }
  return join(await installPackage(scope, "bun", "1"), "bin", "bun.exe"); // on all platforms
}

/** The folders of the ES modules and of the CommonJS in the package. */
const folders = { esm: "esm", cjs: "script" };

/** Whether a test file tests the package. The other test files check the repository. */
function isAboutPackage(file: string): boolean {
  const imports = fs.readFileSync(file, "utf8").matchAll(/from "(\.+\/.+)"/g);
  return Array.from(imports, ([, name]) => join(dirname(file), name!)).some((path) =>
    path.startsWith("tests/") ? isAboutPackage(path) : !path.startsWith("scripts/")
  );
}

/**
 * Copies the ES modules or the CommonJS of `npm/` to a new folder, and the tests in the same module
 * format. Returns the folder and the tool that built the package.
 */
async function makePackage(scope: Scope, kind: "esm" | "cjs", node: string, drivers: string[]) {
  if (!fs.existsSync("npm/package.json")) {
    throw new Error(
      'npm/ is missing: run "deno task build:npm", or "deno task build:npm:offline" without JSR',
    );
  }
  const { _generatedBy: maker } = JSON.parse(fs.readFileSync("npm/package.json", "utf8"));
  const built = fs.statSync("npm/package.json").mtimeMs;
  const entries = fs.readdirSync(".").filter((file) => file.endsWith(".ts"));
  const files = [...entries, ...filesOf("src")];
  const newer = files.find((file) => fs.statSync(file).mtimeMs > built);
  if (newer) {
    throw new Error(
      `npm/ is older than ${newer}: build it again, with the task that you used before`,
    );
  }

  const folder = fs.mkdtempSync(join(tmpdir(), "telegraf-session-package-"));
  try {
    fs.cpSync(join("npm", folders[kind]), join(folder, folders[kind]), { recursive: true });
    transpile(filesOf("tests"), join(folder, folders[kind]), kind);
    // Some tests start their own servers.
    transpile(filesOf("scripts/servers"), join(folder, folders[kind]), kind);
    fs.symlinkSync(resolve("scripts/ferretdb"), join(folder, folders[kind], "scripts/ferretdb"));
    await linkPackages(scope, join(folder, "node_modules"), node, drivers);
    // The tests themselves use the newest drivers. The exception is SQLite, because two copies of
    // SQLite in one process break each other's locks.
    const own = drivers.filter((driver) => driver.startsWith("better-sqlite3@"));
    await linkPackages(scope, join(folder, folders[kind], "tests/node_modules"), node, own);
  } catch (error) {
    fs.rmSync(folder, { recursive: true });
    throw error;
  }
  return { folder, maker: /^dnt@/.test(maker) ? maker : "the stand-in for dnt" };
}

/** The TypeScript files of a folder and its subfolders. */
function filesOf(folder: string): string[] {
  return fs.readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts")).map((file) => join(folder, file));
}

/** Compiles TypeScript files to JavaScript, with the same relative paths in another folder. */
export function transpile(files: string[], to: string, kind: "esm" | "cjs", from = "."): void {
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: kind === "esm" ? ts.ModuleKind.ESNext : ts.ModuleKind.CommonJS,
    esModuleInterop: true,
  };
  for (const file of files) {
    // The imports of the file, and the imports of programs that the file contains as text.
    const text = fs.readFileSync(file, "utf8").replace(/(["'`]\.\.?\/[\w./]+)\.ts\b/g, "$1.js");
    let { outputText } = ts.transpileModule(text, { compilerOptions, fileName: file });
    if (kind === "cjs") {
      const url = 'require("node:url").pathToFileURL(__filename).href';
      outputText = outputText.replaceAll("import.meta.url", url);
    }
    const output = join(to, relative(from, file).replace(/\.ts$/, ".js"));
    fs.mkdirSync(dirname(output), { recursive: true });
    fs.writeFileSync(output, outputText);
  }
}

/** Links the packages of the project, and replaces some by drivers of other versions. */
async function linkPackages(scope: Scope, to: string, node: string, drivers: string[]) {
  const from = resolve("node_modules");
  fs.mkdirSync(to);
  for (const name of fs.readdirSync(from)) {
    if (!name.startsWith(".")) fs.symlinkSync(fs.realpathSync(join(from, name)), join(to, name));
  }
  const nodeVersion = versionOf(node);
  // better-sqlite3 13 crashes older versions of Node.js.
  const fitting = Number.parseInt(nodeVersion) < 22 ? ["better-sqlite3@12"] : [];
  const PATH = [dirname(node), process.env.PATH].join(delimiter);
  for (const driver of [...fitting, ...drivers]) {
    const [name, version] = driver.split("@") as [string, string];
    const folder = await installPackage(scope, name, version, {
      cache: `${driver}-node-${nodeVersion}`, // a native module is built for one version of Node.js
      env: { ...process.env, PATH },
      timeout: 600_000, // the first install may have to compile a native module
    });
    fs.rmSync(join(to, name));
    fs.symlinkSync(folder, join(to, name));
  }
}

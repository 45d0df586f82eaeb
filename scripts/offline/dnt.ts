/**
 * A stand-in for dnt, for machines that cannot reach JSR. It has the part of `build()` that
 * `scripts/build_npm.ts` uses, on top of TypeScript's own compiler. The package that it builds is
 * for tests; npm refuses to publish it.
 *
 * @module
 */

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import ts from "typescript";
import deno from "../../deno.json" with { type: "json" };

const imports: Record<string, string> = deno.imports;

const notice =
  "npm/ is built by a stand-in for dnt (scripts/offline/dnt.ts): for tests, not for publishing.";
console.log(notice);
process.once("exit", () => console.log(notice));

/** The options of dnt that `scripts/build_npm.ts` sets. */
interface BuildOptions {
  entryPoints: { kind?: "bin"; name: string; path: string }[];
  outDir: string;
  mappings: Record<string, { name: string; version: string; peerDependency: true }>;
  compilerOptions: { target: string; lib: string[] };
  package: Record<string, unknown> & { name: string };
  postBuild(): void;
  shims: Record<never, never>;
  test: false;
  typeCheck: "both";
  declarationMap: false;
  polyfills: Record<string, false>;
}

/** Empties a folder, or creates it. */
export function emptyDir(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
}

/** Builds the package. */
export function build(options: BuildOptions): void {
  const { entryPoints, outDir, mappings, package: manifest } = options;
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(outDir, path)), { recursive: true });
    writeFileSync(join(outDir, path), text);
  };

  const { sources, packages } = collect(entryPoints.map(({ path }) => path));
  const peers = Object.values(mappings);
  for (const { name } of peers) {
    if (!packages.delete(name)) throw new Error(`${name} has a mapping, but no source imports it`);
  }
  const binaries = entryPoints.filter(({ kind }) => kind === "bin");
  const exported = entryPoints.filter(({ kind }) => kind !== "bin");
  for (const [path, text] of sources) {
    const runs = binaries.some((binary) => relative("", binary.path) === path);
    write(`src/${path}`, (runs ? "#!/usr/bin/env node\n" : "") + text);
  }
  const file = (path: string) => path.replace(/^\.\//, "").replace(/\.ts$/, ".js");
  const [main] = exported;
  write(
    "package.json",
    JSON.stringify(
      {
        private: true,
        main: `./script/${file(main!.path)}`,
        module: `./esm/${file(main!.path)}`,
        exports: Object.fromEntries(
          exported.map(({ name, path }) => [
            name,
            { import: `./esm/${file(path)}`, require: `./script/${file(path)}` },
          ]),
        ),
        bin: Object.fromEntries(binaries.map(({ name, path }) => [name, `./esm/${file(path)}`])),
        scripts: {},
        dependencies: Object.fromEntries(
          [...packages].sort().map((name) => [name, imports[name]!.replace(/^.*@/, "")]),
        ),
        peerDependencies: Object.fromEntries(peers.map(({ name, version }) => [name, version])),
        ...manifest,
        _generatedBy: notice,
      },
      null,
      2,
    ),
  );
  write(".npmignore", "/src/\n");
  execFileSync("npm", ["install", "--no-audit", "--no-fund"], { cwd: outDir, stdio: "inherit" });

  const roots = Array.from(sources.keys(), (path) => join(outDir, "src", path));
  const targets = {
    esm: { type: "module", module: "esnext", moduleResolution: "bundler" },
    script: { type: "commonjs", module: "commonjs", moduleResolution: "node10" },
  };
  for (const [folder, { type, ...target }] of Object.entries(targets)) {
    compile(roots, {
      ...options.compilerOptions,
      ...target,
      strict: true,
      useUnknownInCatchVariables: false,
      skipLibCheck: true,
      isolatedModules: true,
      esModuleInterop: true,
      declaration: true,
      rootDir: join(outDir, "src"),
      outDir: join(outDir, folder),
      typeRoots: [join(outDir, "node_modules", "@types")],
    });
    write(`${folder}/package.json`, `{ "type": "${type}" }\n`);
  }
  options.postBuild();
}

/** Collects the sources of the entries, with imports of `.js` files, and the imported packages. */
function collect(entries: string[]): { sources: Map<string, string>; packages: Set<string> } {
  const sources = new Map<string, string>();
  const packages = new Set<string>();
  const pending = entries.map((path) => relative("", path));
  for (const path of pending) {
    if (sources.has(path)) continue;
    let text = readFileSync(path, "utf8");
    for (const { fileName, pos } of ts.preProcessFile(text).importedFiles.toReversed()) {
      if (fileName.startsWith(".")) {
        pending.push(join(dirname(path), fileName));
        text = text.slice(0, pos) +
          text.slice(pos).replace(fileName, fileName.replace(/\.ts$/, ".js"));
      } else if (!fileName.startsWith("node:")) {
        packages.add(fileName.match(/^(@[^/]+\/)?[^/]+/)![0]);
      }
    }
    sources.set(path, text);
  }
  return { sources, packages };
}

/** Type-checks and writes JavaScript and declarations. */
function compile(files: string[], json: object): void {
  const { options, errors } = ts.convertCompilerOptionsFromJson(json, "");
  const program = ts.createProgram(files, options);
  const problems = [...errors, ...ts.getPreEmitDiagnostics(program)];
  if (problems.length === 0) problems.push(...program.emit().diagnostics);
  if (problems.length > 0) {
    const host = ts.createCompilerHost(options);
    throw new Error(ts.formatDiagnosticsWithColorAndContext(problems, host));
  }
}

/**
 * Builds the npm package in `npm/`: ES modules and CommonJS, each with declarations. Then imports
 * and requires all entries, and runs the command line.
 *
 * `deno task build:npm` uses dnt. If JSR is out of reach, `deno task build:npm:offline` runs this
 * script with a stand-in for dnt. The package that it builds is for tests, not for publishing.
 *
 * @module
 */

import { build, emptyDir } from "@deno/dnt";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import deno from "../deno.json" with { type: "json" };

/** The drivers that users install beside the package. The oldest and newest versions are tested. */
const drivers: Record<string, string> = {
  "@deno/kv": "^0.14.0",
  "better-sqlite3": "^9.3.0 || ^10.0.0 || ^11.0.0 || ^12.0.0 || ^13.0.0",
  "kysely": "^0.27.0 || ^0.28.0 || ^0.29.0",
  "mongodb": "^5.0.0 || ^6.0.0 || ^7.0.0",
  "mysql2": "^3.9.0",
  "pg": "^8.11.3",
  "redis": "^4.6.12 || ^5.0.0 || ^6.0.0",
};
const peers: Record<string, string> = { ...drivers, telegraf: "^4.12.0" };

const imports: Record<string, string> = deno.imports;
const { "./cli": cli, ...exported } = deno.exports;
const entries = Object.entries(exported);
/** Only the command line uses these packages. npm installs them together with this one. */
const dependencies = ["commander"];
const repository = "https://github.com/telegraf/session";

/**
 * Moves the `require` of an optional driver out of the function that TypeScript puts around it.
 * If the driver is missing, bundlers accept the `require` only directly inside a `try` block.
 */
function requireInPlace(path: string): void {
  const code = readFileSync(path, "utf8");
  const parts = code.split(
    /\bPromise\.resolve\(\)\.then\(\(\) => (__importStar\(require\("[^"]+"\)\))\)/,
  );
  assert.equal(parts.length, 3, `${path} should import exactly one optional driver`);
  writeFileSync(path, parts.join(""));
}

/** Keeps an `import()` of any URL, which TypeScript turns into a `require`. */
function keepImport(path: string): void {
  const code = readFileSync(path, "utf8");
  const required = /\bPromise\.resolve\(`\$\{(\w+)\}`\)\.then\(s => __importStar\(require\(s\)\)\)/;
  assert.match(code, required, path);
  writeFileSync(path, code.replace(required, "import($1)"));
}

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
await emptyDir("npm");
await build({
  entryPoints: [
    ...entries.map(([name, path]) => ({ name, path })),
    { kind: "bin", name: "telegraf-session", path: cli },
  ],
  outDir: "npm",
  shims: {},
  mappings: Object.fromEntries(
    Object.entries(peers).map(([name, version]) => [
      imports[name]!,
      { name, version, peerDependency: true },
    ]),
  ),
  test: false, // `deno task test:npm` runs the tests on the finished package
  typeCheck: "both",
  declarationMap: false,
  compilerOptions: {
    // The oldest supported Node.js is 20.
    target: "ES2022",
    lib: ["ES2022", "ESNext.Disposable"],
  },
  // The sources need no polyfill, and a polyfill changes a global, which is a side effect.
  polyfills: {
    arrayFindLast: false,
    arrayFromAsync: false,
    errorCause: false,
    objectHasOwn: false,
    promiseWithResolvers: false,
    stringReplaceAll: false,
  },
  package: {
    name: deno.name,
    version: deno.version,
    description:
      "Session stores for Telegraf bots: Redis, MongoDB, SQLite, PostgreSQL, MySQL, Kysely, Deno KV",
    keywords: (
      "telegraf telegram bot session store redis valkey mongodb sqlite postgres postgresql " +
      "mysql mariadb kysely denokv"
    ).split(" "),
    homepage: `${repository}#readme`,
    repository: { type: "git", url: `git+${repository}.git` },
    license: deno.license,
    bugs: { url: `${repository}/issues` },
    type: "commonjs",
    sideEffects: false,
    engines: { node: ">=20.19" },
    // For TypeScript with `moduleResolution: node10`, which does not read `exports`.
    typesVersions: {
      "*": Object.fromEntries(
        entries.filter(([name]) => name !== ".").map(([name, path]) => [
          name.replace("./", ""),
          [path.replace("./", "./script/").replace(/\.ts$/, ".d.ts")],
        ]),
      ),
    },
    peerDependencies: peers,
    peerDependenciesMeta: Object.fromEntries(
      Object.keys(peers).map((name) => [name, { optional: true }]),
    ),
    // npm does not install optional peers, but the type check needs them.
    devDependencies: {
      ...Object.fromEntries(
        Object.keys(peers).map((name) => [name, imports[name]!.replace(/^.*@/, "")]),
      ),
      "@types/better-sqlite3": "^9.0.0",
      "@types/node": "^20.19.0",
      "@types/pg": "^8.0.0",
    },
  },
  postBuild() {
    for (const file of ["LICENSE", "CHANGELOG.md"]) copyFileSync(file, `npm/${file}`);
    // The package contains neither the demo nor the tests.
    const readme = readFileSync("README.md", "utf8").replace(/^## Try it\n[\s\S]*?(?=^## )/m, "");
    writeFileSync("npm/README.md", readme);
    for (const file of ["redis", "sqlite", "kysely", "denokv"]) {
      requireInPlace(`npm/script/${file}.js`);
    }
    keepImport("npm/script/cli.js"); // only the tests run it
  },
});

const manifest = JSON.parse(readFileSync("npm/package.json", "utf8"));
assert.deepEqual(Object.keys(manifest.exports), Object.keys(exported));
assert.deepEqual(manifest.bin, { "telegraf-session": "./esm/cli.js" });
assert.deepEqual(manifest.peerDependencies, peers);
assert.deepEqual(
  manifest.dependencies,
  Object.fromEntries(dependencies.map((name) => [name, imports[name]!.replace(/^.*@/, "")])),
  "npm/package.json has other dependencies than expected",
);
for (const file of ["README.md", "CHANGELOG.md"]) {
  const text = readFileSync(`npm/${file}`, "utf8");
  assert.doesNotMatch(
    text,
    /\]\((?!https:|#)/,
    `${file} has a relative link, which does not work on npm`,
  );
  assert.doesNotMatch(
    text,
    /deno task (demo|test)/,
    `${file} names a task that works only in a clone of the repository`,
  );
}
// Without the first slash, the line would also exclude esm/src/ and script/src/.
assert.match(readFileSync("npm/.npmignore", "utf8"), /^\/src\/$/m);
assert.deepEqual(readdirSync("npm/esm").filter((file) => file.startsWith("_dnt")), []);

/** The exports of each entry in Node.js. In `npm/`, the package can import itself by its name. */
function exports(load: "await import" | "require"): Record<string, Record<string, string>> {
  const code = `const entries = {};
    for (const name of process.argv.slice(1)) {
      const pairs = Object.entries(${load}(name)).map(([name, value]) => [name, typeof value]);
      entries[name] = Object.fromEntries(pairs.sort());
    }
    console.log(JSON.stringify(entries));`;
  const type = load === "require" ? "commonjs" : "module";
  const names = entries.map(([name]) => deno.name + name.slice(1));
  const args = [`--input-type=${type}`, "--eval", code, ...names];
  const options = { cwd: "npm", encoding: "utf8", timeout: 60_000 } as const;
  return JSON.parse(execFileSync(process.env.TEST_NODE || "node", args, options));
}

const modules = exports("await import");
assert.deepEqual(exports("require"), modules, "ES modules and CommonJS have different exports");
for (const [name, values] of Object.entries(modules)) {
  assert.ok(Object.keys(values).length > 0, `${name} exports nothing`);
  const { json, defaultLimits, ...others } = values;
  if (name.endsWith("/backend")) assert.deepEqual([json, defaultLimits], ["object", "object"]);
  assert.ok(
    Object.values(others).every((type) => type === "function"),
    `${name} exports a non-function`,
  );
  console.log(`${name}: ${Object.keys(values).join(", ")}`);
}

const help = execFileSync(process.env.TEST_NODE || "node", ["npm/esm/cli.js", "--help"], {
  encoding: "utf8",
});
assert.match(help, /^Usage: telegraf-session /);
const printed = execFileSync(process.env.TEST_NODE || "node", ["npm/esm/cli.js", "--version"], {
  encoding: "utf8",
});
assert.equal(
  printed,
  `${deno.version}\n`,
  "src/cli/version.ts and deno.json have different versions",
);

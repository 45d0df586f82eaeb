/** Rules that keep the source readable: allowed imports, and the length of an entry. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";

const root = new URL("../..", import.meta.url);
const read = (path: string) => readFileSync(new URL(path, root), "utf8");

/** The TypeScript files of a folder and its subfolders, as paths from the root of the repository. */
function sources(folder: string): string[] {
  return readdirSync(new URL(`${folder}/`, root), { withFileTypes: true }).flatMap((item) => {
    const path = `${folder}/${item.name}`;
    if (item.isDirectory()) return sources(path);
    return path.endsWith(".ts") ? [path] : [];
  });
}

/** The entries that have a database, and the packages that each may import. */
const drivers: Record<string, string[]> = {
  "redis.ts": ["redis"],
  "mongodb.ts": ["mongodb"],
  "sqlite.ts": ["better-sqlite3"],
  "pg.ts": ["pg"],
  "mysql.ts": ["mysql2"],
  "kysely.ts": ["kysely"],
  "denokv.ts": ["@deno/kv"],
};
const entries = ["mod.ts", "backend.ts", "testing.ts", ...Object.keys(drivers)];
/** The command line is a separate entry. It loads the other entries when they are needed. */
const cli = "cli.ts";

/** The modules from which a file imports or exports. */
function imports(path: string): string[] {
  const code = read(path).replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(/\b(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => match[1]!);
}

/** The files of the repository that a file imports, as paths from its root. */
function dependencies(path: string): string[] {
  const base = new URL(path, root);
  return imports(path).filter((name) => name.startsWith("."))
    .map((name) => new URL(name, base).href.slice(root.href.length));
}

/** The files under src/ that each folder of src/ may import, besides its own. */
const floor = ["backend", "errors", "network", "abort", "address", "options", "validation"]
  .map((name) => `src/${name}.ts`);
const sql = [...floor, "src/sql/"];
const allowed: Record<string, string[]> = {
  "src": ["src/codec/json.ts"],
  "src/store": [
    ...floor,
    "src/cache/ownership.ts",
    "src/codec/losses.ts",
    "src/lease/exclusive.ts",
    "src/lease/options.ts",
    "src/transform/backend.ts",
    "src/transform/rewrite.ts",
  ],
  "src/lease": [...floor, "src/store/"],
  "src/cache": [...floor, "src/lease/token.ts", "src/store/"],
  "src/codec": floor,
  "src/redis": floor,
  "src/transform": [...floor, "src/codec/header.ts"],
  "src/mongodb": [...floor, "src/codec/document.ts", "src/codec/header.ts"],
  "src/sql": sql,
  "src/pg": sql,
  "src/mysql": sql,
  "src/sqlite": sql,
  "src/denokv": floor,
  "src/kysely": [...sql, "src/pg/", "src/mysql/", "src/sqlite/"],
  "src/testing": [...floor, "src/store/", "src/codec/header.ts", "src/transform/backend.ts"],
  "src/cli": [...floor, "src/store/", "src/codec/", "src/lease/", "src/transform/"],
};

/** The code of a file without its comments. */
function code(path: string): string {
  return read(path).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
}

describe("structure", () => {
  it("all entries are exported, and no other file", () => {
    const { exports } = JSON.parse(read("deno.json"));
    const all = [...entries, cli].toSorted();
    assert.deepEqual(Object.values(exports).toSorted(), all.map((e) => `./${e}`));
    const files = readdirSync(root).filter((name) => name.endsWith(".ts"));
    assert.deepEqual(files.toSorted(), all);
  });

  it("entries import src/, node: and their own driver", () => {
    for (const entry of entries) {
      for (const name of imports(entry)) {
        const fine = name.startsWith("./src/") || name.startsWith("node:") ||
          drivers[entry]?.includes(name);
        assert.ok(fine, `${entry} imports ${name}`);
      }
    }
  });

  it("kysely.ts loads Kysely only when it is needed", () => {
    assert.doesNotMatch(code("kysely.ts"), /from "kysely"|import "kysely"/);
    assert.match(code("kysely.ts"), /await import\("kysely"\)/);
  });

  it("src/ imports no package and no entry", () => {
    for (const path of sources("src")) {
      // The published tests send updates to bots.
      const fine = path.startsWith("src/testing/") ? /^(\.|node:|telegraf$)/ : /^(\.|node:)/;
      for (const name of imports(path)) assert.match(name, fine, path);
      for (const name of dependencies(path)) assert.match(name, /^src\//, path);
    }
  });

  it("each folder of src/ imports only files that its layer may import", () => {
    const folders = new Set(sources("src").map((path) => path.slice(0, path.lastIndexOf("/"))));
    assert.deepEqual([...folders].toSorted(), Object.keys(allowed).toSorted());
    for (const path of sources("src")) {
      const folder = path.slice(0, path.lastIndexOf("/"));
      for (const name of dependencies(path)) {
        const own = name.startsWith(`${folder}/`) && !name.slice(folder.length + 1).includes("/");
        const fine = own || allowed[folder]!.some((start) => name.startsWith(start));
        assert.ok(fine, `${path} imports ${name}`);
      }
    }
  });

  it("no imports form a cycle", () => {
    const done = new Set<string>();
    const visit = (path: string, chain: string[]) => {
      assert.ok(!chain.includes(path), [...chain, path].join(" -> "));
      if (done.has(path)) return;
      for (const name of dependencies(path)) visit(name, [...chain, path]);
      done.add(path);
    };
    for (const path of [...entries, cli, ...sources("src")]) visit(path, []);
    assert.ok(done.size > 40);
  });

  it("the command line loads entries and drivers only when they are needed", () => {
    const now = [...code(cli).matchAll(/\bfrom "([^"]+)"/g)].map((match) => match[1]!);
    for (const name of now) assert.match(name, /^(\.\/src\/cli\/|node:|commander$)/);
    const later = [...code(cli).matchAll(/\bimport\("([^"]+)"\)/g)].map((match) => match[1]!);
    const known = Object.entries(drivers).flatMap(([entry, names]) => [`./${entry}`, ...names]);
    assert.deepEqual(later.filter((name) => !known.includes(name)), []);
    const named = Object.keys(drivers).filter((entry) => entry !== "kysely.ts"); // has no URL
    assert.deepEqual(named.filter((entry) => !later.includes(`./${entry}`)), []);
  });

  it("the command line knows the version of the package", () => {
    const { version } = JSON.parse(read("deno.json"));
    assert.ok(code("src/cli/version.ts").includes(`"${version}"`));
  });

  it("only the command line loads the command line", () => {
    const others = sources("src").filter((path) => !path.startsWith("src/cli/"));
    for (const path of [...entries, ...others]) {
      for (const name of imports(path)) {
        assert.doesNotMatch(name, /(^|\/)cli(\.ts$|\/)|commander/, path);
      }
    }
  });

  it("the queue imports only the contract", () => {
    const names = ["queue", "lane", "deadline", "clock", "tracing"];
    const queue = names.map((name) => `src/store/${name}.ts`);
    for (const path of queue.slice(0, 2)) {
      for (const name of dependencies(path)) {
        assert.ok([...queue, "src/backend.ts"].includes(name), `${path} imports ${name}`);
      }
    }
  });

  it("CONTRIBUTING's map lists every file of src/, and no other", () => {
    const [, map = ""] = /^## Structure$[\s\S]*?(```\nredis\.ts[\s\S]*?```)/m
      .exec(read("CONTRIBUTING.md")) ?? [];
    const listed: string[] = [];
    let folder = "";
    for (const line of map.split("\n")) {
      folder = /^(\w+\/(?:\w+\/)?)/.exec(line)?.[1] ?? folder;
      const [names = ""] = /^ {2}\w+\.ts(?: \w+\.ts)*/.exec(line) ?? [];
      for (const name of names.trim().split(" ")) if (name) listed.push(folder + name);
    }
    assert.deepEqual(listed.toSorted(), sources("src").toSorted());
  });

  it("an entry is short enough to read in five minutes", () => {
    for (const entry of [...entries, cli]) {
      const lines = code(entry).split("\n").filter((line) => line.trim() !== "").length;
      const most = entry === cli ? 170 : 112;
      assert.ok(lines <= most, `${entry} has ${lines} lines of code`);
    }
  });

  it("adapters leave the store's work to the store", () => {
    for (const entry of Object.keys(drivers)) {
      for (const word of [/\bttl\b/i, /retr(y|ies)/i, /queue/i, /\bJSON\b/, /ClosedError/]) {
        assert.doesNotMatch(code(entry), word, `${entry} mentions ${word}`);
      }
    }
  });

  it("values of another realm are recognized", () => {
    const builtIn =
      /instanceof (Array|Date|Error|Map|Object|Promise|RangeError|RegExp|Set|TypeError|URL|Uint8Array)\b/;
    const others = sources("src").filter((path) => !path.startsWith("src/cli/"));
    for (const path of [...entries, ...others]) {
      assert.doesNotMatch(code(path), builtIn, path);
    }
  });

  it("all exported code runs on Node 20", () => {
    for (const path of [...entries, cli, ...sources("src")]) {
      const newer =
        /Object\.hasOwn|Promise\.withResolvers|Array\.fromAsync|\bglobalThis\b|import\.meta|\bDeno\./;
      assert.doesNotMatch(code(path), newer, path);
    }
  });
});

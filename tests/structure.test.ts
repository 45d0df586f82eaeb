/** The rules that keep the source readable: who imports whom, and how long an adapter may get. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";

const root = new URL("..", import.meta.url);
const read = (path: string) => readFileSync(new URL(path, root), "utf8");
const sources = (folder: string) =>
  readdirSync(new URL(folder, root)).filter((name) => name.endsWith(".ts"));

/** The entries that have a database, and the packages that each may import. */
const drivers: Record<string, string[]> = {
  "redis.ts": ["redis"],
  "mongodb.ts": ["mongodb"],
  "sqlite.ts": ["better-sqlite3"],
  "pg.ts": ["pg"],
  "mysql.ts": ["mysql2"],
  "kysely.ts": ["kysely"],
};
const entries = ["mod.ts", ...Object.keys(drivers)];
/** The command line is an entry whose users run it; it loads the others when they are needed. */
const cli = "cli.ts";

/** What a file imports and exports from. */
function imports(path: string): string[] {
  const code = read(path).replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(/\b(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => match[1]!);
}

/** The code of a file without its comments. */
function code(path: string): string {
  return read(path).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
}

describe("structure", () => {
  it("every entry is exported, and nothing else", () => {
    const { exports } = JSON.parse(read("deno.json"));
    const all = [...entries, cli].toSorted();
    assert.deepEqual(Object.values(exports).toSorted(), all.map((e) => `./${e}`));
    assert.deepEqual(sources(".").toSorted(), all);
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

  it("kysely.ts loads Kysely only where it must", () => {
    assert.doesNotMatch(code("kysely.ts"), /from "kysely"|import "kysely"/);
    assert.match(code("kysely.ts"), /await import\("kysely"\)/);
  });

  it("src/ imports itself and node:", () => {
    for (const name of sources("src").flatMap((file) => imports(`src/${file}`))) {
      assert.match(name, /^(\.\/|node:)/);
    }
  });

  it("src/cli/ imports src/ and node:", () => {
    for (const name of sources("src/cli").flatMap((file) => imports(`src/cli/${file}`))) {
      assert.match(name, /^(\.\/|\.\.\/[\w-]+\.ts$|node:)/);
    }
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

  it("nothing but the command line loads the command line", () => {
    for (const path of [...entries, ...sources("src").map((file) => `src/${file}`)]) {
      for (const name of imports(path)) assert.doesNotMatch(name, /cli|commander/, path);
    }
  });

  it("the queue knows the contract and nothing else", () => {
    const own = imports("src/queue.ts").filter((name) => name.startsWith("."));
    assert.deepEqual(own, ["./backend.ts"]);
  });

  it("an entry is read in five minutes", () => {
    for (const entry of [...entries, cli]) {
      const lines = code(entry).split("\n").filter((line) => line.trim() !== "").length;
      const most = entry === cli ? 150 : 120;
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
    for (const path of [...entries, ...sources("src").map((file) => `src/${file}`)]) {
      assert.doesNotMatch(code(path), builtIn, path);
    }
  });

  it("what an export reaches runs on Node 20", () => {
    const folders = ["src", "src/cli"];
    const inner = folders.flatMap((folder) => sources(folder).map((file) => `${folder}/${file}`));
    const paths = [...entries, cli, ...inner];
    for (const path of paths) {
      const newer =
        /Object\.hasOwn|Promise\.withResolvers|Array\.fromAsync|\bglobalThis\b|import\.meta|\bDeno\./;
      assert.doesNotMatch(code(path), newer, path);
    }
  });
});

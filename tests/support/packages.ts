/**
 * Versions of packages that only tests use. `deno.json` has aliases for them, which Node and Bun do
 * not know. All three runtimes find the packages in the folder where Deno installs them.
 */

import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";

/** The folder where Deno installs each version of each package. */
function store(): string {
  for (let folder = process.cwd();; folder = dirname(folder)) {
    const path = join(folder, "node_modules", ".deno");
    if (existsSync(path)) return path;
    if (folder === dirname(folder)) throw new Error('no packages: run "deno install" first');
  }
}

/**
 * Returns the exports of a package.
 *
 * @param name the package's name.
 * @param version its version, or the beginning of its version.
 * @param path the exported path.
 */
// deno-lint-ignore no-explicit-any
export function requireVersion(name: string, version: string, path = ""): any {
  const packages = store();
  const begin = `${name.replace("/", "+")}@${version}`;
  const folder = readdirSync(packages).find((it) => it === begin || it.startsWith(`${begin}.`));
  if (folder === undefined) throw new Error(`${name}@${version} is not in deno.json`);
  return createRequire(join(packages, folder, "node_modules", "-.js"))(name + path);
}

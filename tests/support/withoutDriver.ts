/** The SQLite entry when better-sqlite3 is not installed or cannot be loaded. */

import { cpSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { SQLite } from "../../sqlite.ts";

/** The error of importing a package that is not installed. */
const missing = `throw Object.assign(
  new Error("Cannot find package 'better-sqlite3'"),
  { code: "ERR_MODULE_NOT_FOUND" },
);`;

/**
 * Copies the entry to a folder, and replaces better-sqlite3 by the given module.
 *
 * @param parent the folder where the new folder is created.
 * @param test the URL of the test file. The copies have the same file type.
 * @param driver the code of the module, in JavaScript.
 * @returns the factory, and the URL of its module.
 */
export async function withoutDriver(
  parent: string,
  test: string,
  driver = missing,
): Promise<{ factory: typeof SQLite; url: string }> {
  const folder = mkdtempSync(join(parent, "entry-"));
  const from = fileURLToPath(new URL("../..", test));
  const end = test.slice(test.lastIndexOf("."));
  cpSync(join(from, "src"), join(folder, "src"), { recursive: true });
  const entry = readFileSync(join(from, `sqlite${end}`), "utf8");
  writeFileSync(
    join(folder, `sqlite${end}`),
    entry.replace(/(import|require)\("better-sqlite3"\)/g, `$1("./driver${end}")`),
  );
  writeFileSync(join(folder, `driver${end}`), driver);
  // The manifest says whether the JavaScript files are ES modules.
  const manifest = join(from, "package.json");
  if (existsSync(manifest)) cpSync(manifest, join(folder, "package.json"));
  const path = join(folder, `sqlite${end}`);
  const { SQLite: factory } = await import(path); // by path, because CommonJS uses require
  return { factory, url: pathToFileURL(path).href };
}

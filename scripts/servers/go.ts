/** Programs built with Go, from the folders `scripts/ferretdb*`. */

import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import { run, which } from "./process.ts";
import type { Scope } from "./recipe.ts";

export const findGo = () => which("go", "/usr/local/go/bin");

/** The name of a program together with a hash of its sources. */
export function versionOf(program: string): string {
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum", "main.go"]) {
    hash.update(fs.readFileSync(sourcesOf(program) + file));
  }
  return `${program}-${hash.digest("hex").slice(0, 16)}`;
}

/** Builds a program into a folder. Needs only Go and its module proxy. */
export function build(scope: Scope, program: string, folder: string): Promise<string> {
  return run(findGo()!, ["build", "-buildvcs=false", "-trimpath", "-ldflags=-s", "-o", folder], {
    cwd: sourcesOf(program),
    signal: scope.signal,
  });
}

function sourcesOf(program: string): string {
  return fileURLToPath(new URL(`../${program}/`, import.meta.url));
}

/**
 * Type-checks the code of a user who has set `exactOptionalPropertyTypes`. Deno would check the
 * imported sources with this option, too. Here only errors in `files` count, as if the sources were
 * an installed package.
 *
 * @module
 */

import process from "node:process";
import ts from "typescript";

const files = ["tests/types/exact.ts"];
const { options } = ts.convertCompilerOptionsFromJson({
  strict: true,
  exactOptionalPropertyTypes: true,
  noEmit: true,
  allowImportingTsExtensions: true,
  skipLibCheck: true,
  module: "esnext",
  moduleResolution: "bundler",
  target: "es2022",
  lib: ["es2022", "esnext.disposable"],
  types: [],
}, ".");
const program = ts.createProgram(files, options);
const sources = files.map((file) => program.getSourceFile(file)!);
const problems = sources.flatMap((source) => [
  ...program.getSyntacticDiagnostics(source),
  ...program.getSemanticDiagnostics(source),
]);
if (problems.length > 0) {
  console.error(ts.formatDiagnosticsWithColorAndContext(problems, ts.createCompilerHost(options)));
  process.exitCode = 1;
}

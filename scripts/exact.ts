/**
 * Type-checks what users write with `exactOptionalPropertyTypes`, which they may have set. Deno would
 * check the imported sources as strictly; here only `files` count, as if the rest were a package.
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

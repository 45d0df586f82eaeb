/** The test functions of runtimes fit the option `test` of `conformance()`. check:npm has those of npm packages. */

import { it, test } from "node:test";
import type { TestFunction } from "../../testing.ts";

export const functions: TestFunction[] = [Deno.test, it, test];

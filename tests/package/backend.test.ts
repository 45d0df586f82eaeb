/** Runs the store that docs/backend.md builds, with the tests that it shows, against dynalite. */

import dynalite from "dynalite";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { it } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const document = readFileSync(join(root, "docs/backend.md"), "utf8");
const blocks = (language: string) =>
  [...document.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\`$`, "gm"))]
    .map(([, code]) => code!);

it("docs/backend.md builds a store for DynamoDB, and it passes the suite", async () => {
  const server = dynalite({ createTableMs: 0, deleteTableMs: 0 }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  // Inside the repository, so that `@telegraf/session/…` resolves to its sources.
  const folder = mkdtempSync(join(root, ".readme-"));
  try {
    const [, suite, worker] = blocks("js").map((code) => code.replace(":4567", `:${port}`));
    const files = {
      "dynamodb.ts": blocks("ts").join("\n"),
      "dynamodb.test.ts": suite!,
      "worker.ts": worker!,
    };
    for (const [name, code] of Object.entries(files)) writeFileSync(join(folder, name), code);
    const child = spawn(process.execPath, ["test", "-A", "--no-check", "dynamodb.test.ts"], {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", AWS_ACCESS_KEY_ID: "id", AWS_SECRET_ACCESS_KEY: "key" },
    });
    const closed = once(child, "close");
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
    const [exit] = await closed;
    assert.equal(exit, 0, output + errors);
    const [, passed] = /(\d+) passed/.exec(output) ?? [];
    assert.ok(Number(passed) > 200, output);
    assert.doesNotMatch(output, /[1-9]\d* (failed|ignored)/);
  } finally {
    rmSync(folder, { recursive: true });
    server.close();
  }
});

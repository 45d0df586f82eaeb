/**
 * Type-checks every TypeScript block of the README, and runs those that need neither Telegram nor
 * a server: to make a store opens nothing, so most of them.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const root = new URL("../", import.meta.url);
const readme = await Deno.readTextFile(new URL("README.md", root));
const blocks = [...readme.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);
assert.ok(blocks.length > 10, "the README has lost its programs");

// In the repository, so that `@telegraf/session/…` is what is being worked on.
const folder = await Deno.makeTempDir({ dir: fileURLToPath(root), prefix: ".readme-" });
try {
  const files = blocks.map((_, i) => `${folder}/block-${i + 1}.ts`);
  await Promise.all(files.map((file, i) => Deno.writeTextFile(file, blocks[i]!)));
  await run("check", ...files);
  const offline = files.filter((_, i) => !/\.launch\(|createWebhook\(/.test(blocks[i]!));
  assert.ok(offline.length > 8, "too few programs are run");
  for (const file of offline) await run("run", "-A", file);
  console.log(`README: ${files.length} programs type-checked, ${offline.length} of them run`);
} finally {
  await Deno.remove(folder, { recursive: true });
}

async function run(...args: string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: folder,
    env: { BOT_TOKEN: "1:token", NO_COLOR: "1" },
    signal: AbortSignal.timeout(60_000),
  }).output();
  if (code === 0) return;
  console.error(new TextDecoder().decode(stderr));
  throw new Error(`deno ${args.join(" ")} ended with exit code ${code}`);
}

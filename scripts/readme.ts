/**
 * Type-checks every TypeScript block of the README and of docs/. Runs the blocks that need neither
 * Telegram nor a server. Most blocks need no server, because creating a store opens no connection.
 * Also checks the links.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cert } from "../tests/certificate.ts";

const root = new URL("../", import.meta.url);
const read = (name: string) => Deno.readTextFile(new URL(name, root));
const names = [
  "README.md",
  ...[...Deno.readDirSync(new URL("docs", root))].map((it) => `docs/${it.name}`),
];
const texts = new Map<string, string>();
for (const name of names) if (name.endsWith(".md")) texts.set(name, await read(name));
const blocksOf = (text: string) =>
  [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);
const readme = texts.get("README.md")!;
assert.ok(blocksOf(readme).length > 10, "README.md should contain more than 10 programs");
const blocks = [...texts.values()].flatMap(blocksOf);

// npm and JSR show the README outside the repository.
const links = [...readme.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!);
const headings = [...readme.matchAll(/^#+ (.*)$/gm)].map((match) => match[1]!);
const anchor = (heading: string) =>
  heading.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-");
const anchors = new Set(headings.map((heading) => `#${anchor(heading)}`));
const own =
  /^https:\/\/(?:github\.com\/telegraf\/session\/(?:blob|tree)|raw\.githubusercontent\.com\/telegraf\/session)\/main\/([^#]*)/;
for (const link of links) {
  assert.match(
    link,
    /^(https:\/\/|#)/,
    "relative links do not work on npm and JSR: use https://… or #…",
  );
  if (link.startsWith("#")) assert.ok(anchors.has(link), `README.md has no section ${link}`);
  const [, path] = own.exec(link) ?? [];
  if (path !== undefined) await Deno.stat(new URL(path, root));
}

// Inside the repository, so that `@telegraf/session/…` resolves to its sources.
const folder = await Deno.makeTempDir({ dir: fileURLToPath(root), prefix: ".readme-" });
try {
  const files = blocks.map((_, i) => `${folder}/block-${i + 1}.ts`);
  await Promise.all(files.map((file, i) => Deno.writeTextFile(file, blocks[i]!)));
  await Deno.writeTextFile(`${folder}/ca.pem`, cert);
  await run("check", ...files);
  const offline = files.filter((_, i) => !/\.launch\(|createWebhook\(/.test(blocks[i]!));
  assert.ok(offline.length > 8, "more than 8 programs should need neither Telegram nor a server");
  for (const file of offline) await run("run", "-A", file);
  console.log(
    `README and docs: ${files.length} programs type-checked, ${offline.length} of them run`,
  );
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
  throw new Error(`deno ${args.join(" ")} failed with exit code ${code}`);
}

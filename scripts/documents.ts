/**
 * Checks the documents. Type-checks every TypeScript block, and runs those that need neither Telegram nor a
 * server. Most stores need none, because a factory opens nothing. Checks links, the length of the README and
 * the width of tables.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cert } from "../tests/support/certificate.ts";

const root = new URL("../", import.meta.url);
const names = ["", "docs/"].flatMap((folder) =>
  [...Deno.readDirSync(new URL(folder || ".", root))].map((it) => folder + it.name)
).filter((name) => name.endsWith(".md"));
const texts = new Map<string, string>();
for (const name of names) texts.set(name, await Deno.readTextFile(new URL(name, root)));
assert.ok(texts.has("README.md") && texts.size > 8, "documents are missing");
const blocksOf = (text: string) =>
  [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);
const readme = texts.get("README.md")!;
assert.ok(blocksOf(readme).length >= 8, "README.md should contain at least 8 programs");
assert.ok(readme.split("\n").length <= 251, "the README has more than 250 lines");
// The blocks of docs/backend.md are pieces of one program.
const blocks = [...texts].flatMap(([name, text]) =>
  name === "docs/backend.md" ? [blocksOf(text).join("\n")] : blocksOf(text)
);

/** The anchors that GitHub makes of a document's headings. */
const anchorsOf = (text: string) =>
  [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")
  );
const own =
  /^https:\/\/(?:github\.com\/telegraf\/session\/(?:blob|tree)|raw\.githubusercontent\.com\/telegraf\/session)\/main\/([^#]*)(?:#(.*))?/;
for (const [name, text] of texts) {
  const prose = text.replace(/^```[\s\S]*?^```$/gm, "");
  for (const [line] of prose.matchAll(/^\|.*$/gm)) {
    assert.ok(line.length <= 120, `${name} has a table of ${line.length} columns: ${line}`);
  }
  for (const [, link] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
    // npm and JSR show these two without the repository around them.
    if (/^(README|CHANGELOG)\.md$/.test(name)) {
      assert.match(link!, /^(https:\/\/|#)/, `${name} has a relative link: ${link}`);
    }
    const [, absolute, absoluteAnchor] = own.exec(link!) ?? [];
    const [relative, relativeAnchor] = /^https?:/.test(link!) ? [] : link!.split("#");
    if (absolute === undefined && relative === undefined) continue;
    const target = absolute !== undefined
      ? new URL(absolute, root)
      : new URL(relative || name.slice(name.lastIndexOf("/") + 1), new URL(name, root));
    await Deno.stat(target);
    const anchor = absoluteAnchor ?? relativeAnchor;
    if (anchor === undefined) continue;
    const anchors = anchorsOf(texts.get(target.href.slice(root.href.length))!);
    assert.ok(anchors.includes(anchor), `${name} has a link to a missing section: ${link}`);
  }
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
    `${texts.size} documents: ${files.length} programs type-checked, ${offline.length} of them run`,
  );
} finally {
  await Deno.remove(folder, { recursive: true });
}

async function run(...args: string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: folder,
    env: { BOT_TOKEN: "1:token", SESSION_KEY: "A".repeat(43) + "=", NO_COLOR: "1" },
    signal: AbortSignal.timeout(60_000),
  }).output();
  if (code === 0) return;
  console.error(new TextDecoder().decode(stderr));
  throw new Error(`deno ${args.join(" ")} ended with exit code ${code}`);
}

/**
 * Session stores of other packages ("peers"), in the versions of `peers.json`. They are not
 * dependencies of the project, so npm installs them outside the project, only once.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";

const list = new URL("peers.json", import.meta.url);
const text = readFileSync(list, "utf8");
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "telegraf-session");
const folder = join(
  cache,
  `bench-peers-${createHash("sha256").update(text).digest("hex").slice(0, 16)}`,
);

/** The versions of the peers, by the names of their packages. */
export const peerVersions: Record<string, string> = JSON.parse(text).dependencies;

/** Installs the peers if they are missing. */
export async function installPeers(log: (line: string) => void): Promise<void> {
  if (existsSync(folder)) return;
  log("Downloading the packages of bench/peers.json from npm (only once)");
  // Fills a draft and renames it, because several runs may do this at the same time.
  const draft = `${folder}-${process.pid}`;
  mkdirSync(draft, { recursive: true });
  try {
    writeFileSync(join(draft, "package.json"), text);
    const npm = spawn("npm", ["install", "--no-audit", "--no-fund", "--loglevel=error"], {
      cwd: draft,
      stdio: ["ignore", "ignore", "inherit"],
    });
    const [code] = await once(npm, "exit");
    if (code !== 0) throw new Error("npm failed to install the packages of bench/peers.json");
    if (!existsSync(folder)) renameSync(draft, folder);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** Returns the exports of a peer. */
// deno-lint-ignore no-explicit-any
export function peer(name: string): any {
  return createRequire(join(folder, "package.json"))(name);
}

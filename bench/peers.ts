/**
 * Other session stores, in the versions of `peers.json`. They are no dependencies of the project, so
 * npm installs them outside of it, once.
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

/** Installs the peers, if they are not there yet. */
export async function installPeers(log: (line: string) => void): Promise<void> {
  if (existsSync(folder)) return;
  log("Fetching the peers from npm (once)");
  // Filled aside, for several runs may do so at once.
  const draft = `${folder}-${process.pid}`;
  mkdirSync(draft, { recursive: true });
  try {
    writeFileSync(join(draft, "package.json"), text);
    const npm = spawn("npm", ["install", "--no-audit", "--no-fund", "--loglevel=error"], {
      cwd: draft,
      stdio: ["ignore", "ignore", "inherit"],
    });
    const [code] = await once(npm, "exit");
    if (code !== 0) throw new Error("npm could not install the peers of bench/peers.json");
    if (!existsSync(folder)) renameSync(draft, folder);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** What a peer exports. */
// deno-lint-ignore no-explicit-any
export function peer(name: string): any {
  return createRequire(join(folder, "package.json"))(name);
}

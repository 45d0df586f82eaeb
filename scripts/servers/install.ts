/** Installs programs that are missing on this machine, with `apt-get` or npm. Has the cache. */

import * as fs from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { isRoot, run, succeeds, which, within } from "./process.ts";
import type { Launch, Scope } from "./recipe.ts";

/** Installs run one after the other because dpkg has a lock. */
let installing = Promise.resolve(true);

/** Installs Debian packages and returns whether that succeeded. */
export async function aptInstall(scope: Scope, packages: readonly string[]): Promise<boolean> {
  if (!scope.install || packages.length === 0 || !which("apt-get")) return false;
  const prefix = isRoot ? ["env"] : ["sudo", "-n", "env"];
  if (!isRoot && !await succeeds("sudo", ["-n", "true"])) return false;
  const apt = (...args: string[]) => {
    const flags = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-oDPkg::Lock::Timeout=300"];
    const [command, ...rest] = [...prefix, ...flags, ...args];
    return run(command!, rest, { signal: scope.signal });
  };
  installing = installing.then(async () => {
    scope.log(`Installing ${packages.join(" and ")} with apt-get (--no-install prevents this)`);
    try {
      await apt("update");
      await apt("install", "--yes", "--no-install-recommends", ...packages);
      return true;
    } catch (error) {
      scope.log(`apt-get: ${(error as Error).message}`);
      return false;
    }
  });
  return await installing;
}

/** Like {@linkcode installPackage}, but returns undefined if npm is missing or fails. */
export async function npmPackage(
  scope: Scope,
  name: string,
  version: string,
): Promise<string | undefined> {
  if (!which("npm")) return;
  try {
    return await installPackage(scope, name, version);
  } catch {
    return;
  }
}

/**
 * Installs a package outside the project, because only some machines need it. Returns its folder.
 *
 * @param options `cache` is its name in the cache; `timeout` is in ms.
 */
export async function installPackage(
  scope: Pick<Scope, "log" | "signal">,
  name: string,
  version: string,
  { cache = `${name}@${version}`, env = process.env, timeout = 120_000 } = {},
): Promise<string> {
  const specifier = `${name}@${version}`;
  const signal = within(scope, timeout);
  const npm = (...args: string[]) => run("npm", args, { signal, env });
  const line = `Downloading ${specifier} from npm (only once)`;
  const folder = await cached(scope, cache.replace("/", "-"), line, async (folder) => {
    await npm("install", "--prefix", folder, "--no-audit", "--no-fund", specifier);
    // npm 11 does not run install scripts by default.
    const installed = join(folder, "node_modules", name);
    await npm("run", "postinstall", "--if-present", "--prefix", installed);
  });
  return join(folder, "node_modules", name);
}

/** The folder of this name in the user's cache. */
export function cacheFolder(name: string): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "telegraf-session", name);
}

/**
 * Returns a folder in the cache and fills it the first time. Fills a draft and renames it, because
 * several runs may fill the same folder at the same time.
 */
export async function cached(
  { log, signal }: Pick<Scope, "log" | "signal">,
  name: string,
  line: string,
  fill: (folder: string) => Promise<unknown>,
): Promise<string> {
  const folder = cacheFolder(name);
  if (fs.existsSync(folder)) return folder;
  signal.throwIfAborted();
  log(line);
  await fs.promises.mkdir(dirname(folder), { recursive: true });
  const draft = await fs.promises.mkdtemp(`${folder}-`);
  try {
    await fill(draft);
    await fs.promises.rename(draft, folder);
  } catch (error) {
    if (!fs.existsSync(folder)) throw error;
  } finally {
    await fs.promises.rm(draft, { recursive: true, force: true });
  }
  return folder;
}

/**
 * Returns a folder that the user of a server may read: a copy of a folder in the cache, which is in the
 * home folder of the user of this process.
 */
export async function readableFolder(
  source: string,
  { folder, user }: Pick<Launch, "folder" | "user">,
): Promise<string> {
  if (!user || !source.startsWith(cacheFolder(""))) return source;
  const copy = join(folder, "programs");
  await fs.promises.cp(source, copy, { recursive: true, verbatimSymlinks: true });
  await fs.promises.chmod(copy, 0o755);
  return copy;
}

/** Programs of packages of other versions of Debian, which are unpacked into the cache and not installed. */

import * as fs from "node:fs";
import { arch } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { cached } from "./install.ts";
import { run, which, within } from "./process.ts";
import type { Recipe, Scope } from "./recipe.ts";

/** What to unpack. */
export interface Packages {
  /** The suite. @default {"forky"} */
  readonly suite?: "bullseye" | "forky" | "sid";
  /** Packages, or a function that chooses them among all names. */
  readonly packages: readonly string[] | ((names: string) => string[]);
  /** The programs to run, relative to the root. `*` stands for one folder. */
  readonly programs: readonly string[];
}

/** Its packages are newer than those of most machines, and fit each other, unlike those of sid. */
const defaultSuite = "forky";

/** Whether this machine can download and unpack packages. */
export function canUnpack(scope: Scope): boolean {
  return scope.install && debianMirror() !== undefined && which("apt-get") !== undefined;
}

/**
 * Downloads packages with all that they need, and unpacks them into a new folder. Their programs run with
 * the loader and the libraries of that folder.
 */
export async function unpackPackages(
  scope: Scope,
  folder: string,
  { packages, programs, suite = defaultSuite }: Packages,
): Promise<void> {
  const work = `${folder}.apt`;
  try {
    const archives = await download(scope, work, packages, suite);
    await unpack(archives, folder, within(scope, 600_000));
  } finally {
    await fs.promises.rm(work, { recursive: true });
  }
  const found = programs.flatMap((path) => fs.globSync(path, { cwd: folder }));
  for (const program of found) await makeRunnable(folder, program);
}

/** The same, in the cache. */
export function unpackedPackages(scope: Scope, name: string, wanted: Packages): Promise<string> {
  const line = `Unpacking ${name} from Debian ${
    wanted.suite ?? defaultSuite
  } (only once, nothing is installed)`;
  return cached(
    scope,
    `debian-${name}-${arch()}`,
    line,
    (folder) => unpackPackages(scope, folder, wanted),
  );
}

/** The part of a recipe that finds the program, for the first program of the packages. */
export function fromPackages(
  name: string,
  wanted: Packages,
): Pick<Recipe, "packages" | "hint" | "find" | "download"> {
  return {
    packages: [],
    hint: "use Debian with apt-get",
    find: () => undefined,
    async download(scope) {
      if (!canUnpack(scope)) return;
      const root = await unpackedPackages(scope, name, wanted);
      return {
        command: join(root, wanted.programs[0]!),
        source: `Debian ${wanted.suite ?? defaultSuite}`,
      };
    },
  };
}

/** The mirror from which this machine gets Debian. */
function debianMirror(): string | undefined {
  const folder = "/etc/apt/sources.list.d";
  const files = ["/etc/apt/sources.list"].filter((file) => fs.existsSync(file));
  if (fs.existsSync(folder)) {
    files.push(...fs.readdirSync(folder).map((file) => join(folder, file)));
  }
  const text = files.map((file) => fs.readFileSync(file, "utf8")).join("\n");
  return text.replaceAll(/^#.*/gm, "").match(/https?:\/\/\S+\/debian(?=\/?\s)/)?.[0];
}

/** Downloads packages with all that they need, into a work folder. Returns the folder of the files. */
async function download(
  scope: Scope,
  work: string,
  packages: Packages["packages"],
  suite: string,
): Promise<string> {
  for (const name of ["lists/partial", "cache/archives/partial", "empty"]) {
    await fs.promises.mkdir(join(work, name), { recursive: true });
  }
  const host = await run("apt-config", ["dump"]);
  const network = host.split("\n").filter((line) => /^Acquire::https?:/.test(line));
  await fs.promises.writeFile(join(work, "status"), "");
  await fs.promises.writeFile(join(work, "sources.list"), `deb ${debianMirror()} ${suite} main\n`);
  // Without the settings of this machine: its hooks must not run.
  await fs.promises.writeFile(
    join(work, "apt.conf"),
    [
      `Dir::Etc::sourcelist "${work}/sources.list";`,
      `Dir::Etc::sourceparts "${work}/empty";`,
      `Dir::Etc::parts "${work}/empty";`,
      `Dir::State "${work}";`,
      `Dir::State::status "${work}/status";`,
      `Dir::Cache "${work}/cache";`,
      'APT::Install-Recommends "0";',
      'APT::Sandbox::User "";',
      'Acquire::Languages "none";',
      // The mirror may be a copy of an earlier day.
      'Acquire::Check-Valid-Until "false";',
      'Acquire::Retries "3";',
      ...network,
    ].join("\n"),
  );
  const options = {
    env: { ...process.env, APT_CONFIG: join(work, "apt.conf") },
    signal: within(scope, 900_000),
  };
  await run("apt-get", ["-qq", "update"], options);
  const names = typeof packages === "function"
    ? packages(await run("apt-cache", ["pkgnames"], options))
    : packages;
  await run("apt-get", ["-qq", "--yes", "--download-only", "install", ...names], options);
  return join(work, "cache/archives");
}

/** What no server needs. */
const excluded = ["doc", "i18n", "locale", "man", "perl*"].map((name) => `./usr/share/${name}`)
  .concat("./usr/lib/*/gconv", "./usr/lib/*/perl*", "./usr/lib/*/systemd", "./usr/lib/systemd");

/** Unpacks packages into a folder. */
async function unpack(packages: string, root: string, signal: AbortSignal): Promise<void> {
  // In Debian, these folders are links into `usr`.
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    await fs.promises.mkdir(join(root, "usr", name), { recursive: true });
    await fs.promises.symlink(`usr/${name}`, join(root, name));
  }
  const script = 'for file in "$0"/*.deb; do dpkg-deb --fsys-tarfile "$file" |' +
    ' tar --extract --directory "$@" --keep-directory-symlink --no-same-owner || exit 1; done';
  const options = excluded.map((path) => `--exclude=${path}`);
  await run("sh", ["-c", script, packages, root, ...options], { signal });
}

/** Lets a program run with the loader and the libraries of its own root. */
async function makeRunnable(root: string, program: string): Promise<void> {
  const path = join(root, program);
  await fs.promises.rename(path, `${path}.real`);
  const wrapper = `#!/bin/sh
self=$(readlink -f "$0")
root=\${self%/${program}}
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$libraries"/ld-linux-*.so.* \\
  --library-path "$libraries:$root/${dirname(dirname(program))}/lib" "$self.real" "$@"
`;
  await fs.promises.writeFile(path, wrapper, { mode: 0o755 });
}

import * as fs from "node:fs";
import { arch } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { build, findGo, versionOf } from "./go.ts";
import { cached } from "./install.ts";
import { buildInfo, mongodb } from "./mongodb.ts";
import { run, which, within } from "./process.ts";
import type { Recipe, Scope } from "./recipe.ts";

/**
 * FerretDB 2 in front of PostgreSQL with the extension DocumentDB, for tests of what FerretDB on SQLite
 * cannot do. PostgreSQL and its extensions come from Debian's newest packages, which are unpacked into
 * the cache and not installed.
 */
export const documentdb: Recipe = {
  backend: "documentdb",
  name: "DocumentDB",
  packages: [],
  hint: "use Debian with apt-get, and put Go 1.25 or newer on the PATH",
  refusesRoot: true,

  find: () => undefined,

  async download(scope) {
    const mirror = debianMirror();
    if (!scope.install || !mirror || !which("apt-get") || !findGo() || mongodb.find()) return;
    const line = "Downloading DocumentDB and building FerretDB 2 (only once, about 2 minutes)";
    const name = `${versionOf("ferretdb2")}-${arch()}`;
    const folder = await cached(scope, name, line, async (folder) => {
      await downloadDocumentDB(scope, mirror, join(folder, "root"));
      await build(scope, "ferretdb2", folder);
    });
    return { command: join(folder, "ferretdb2"), source: "built from scripts/ferretdb2" };
  },

  async startCommand({ command, folder, port, user }) {
    let source = dirname(command);
    if (user) {
      // The other user may not read the cache, which is in the home folder of this user.
      const copy = join(folder, "programs");
      await fs.promises.cp(source, copy, { recursive: true, verbatimSymlinks: true });
      await fs.promises.chmod(copy, 0o755);
      source = copy;
    }
    const data = join(folder, "data");
    await fs.promises.mkdir(data);
    if (user) await fs.promises.chown(data, user.uid, user.gid);
    return [join(source, "ferretdb2"), `127.0.0.1:${port}`, data, programsIn(join(source, "root"))];
  },

  url: mongodb.url,

  async describe(url) {
    const { version, ferretdb } = await buildInfo(url);
    return [`FerretDB ${ferretdb.version}`, `instead of MongoDB ${version}`];
  },
};

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

/** Downloads PostgreSQL with DocumentDB and all that it needs, and unpacks it into the folder. */
async function downloadDocumentDB(scope: Scope, mirror: string, root: string): Promise<void> {
  const work = `${root}.apt`;
  for (const name of ["lists/partial", "cache/archives/partial", "empty"]) {
    await fs.promises.mkdir(join(work, name), { recursive: true });
  }
  const host = await run("apt-config", ["dump"]);
  const network = host.split("\n").filter((line) => /^Acquire::https?:/.test(line));
  await fs.promises.writeFile(join(work, "status"), "");
  await fs.promises.writeFile(join(work, "sources.list"), `deb ${mirror} sid main\n`);
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
    signal: within(scope, 600_000),
  };
  await run("apt-get", ["-qq", "update"], options);
  const names = await run("apt-cache", ["pkgnames", "postgresql-"], options);
  const versions = [...names.matchAll(/^postgresql-(\d+)-documentdb$/gm)].map(([, it]) =>
    Number(it)
  );
  const version = Math.max(...versions);
  if (versions.length === 0) throw new Error("Debian has no package of DocumentDB");
  const packages = ["documentdb", "postgis-3-scripts"].map((it) => `postgresql-${version}-${it}`);
  await run("apt-get", ["-qq", "--yes", "--download-only", "install", ...packages], options);
  await unpack(join(work, "cache/archives"), root, options.signal);
  await fs.promises.rm(work, { recursive: true });
  await makeRunnable(programsIn(root));
}

/** Unpacks packages. Keeps only libraries and PostgreSQL. */
async function unpack(packages: string, root: string, signal: AbortSignal): Promise<void> {
  // In Debian, these folders are links into `usr`.
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    await fs.promises.mkdir(join(root, "usr", name), { recursive: true });
    await fs.promises.symlink(`usr/${name}`, join(root, name));
  }
  const script = 'for file in "$1"/*.deb; do dpkg-deb --fsys-tarfile "$file" |' +
    ' tar --extract --directory "$2" --keep-directory-symlink --no-same-owner || exit 1; done';
  await run("sh", ["-c", script, "sh", packages, root], { signal });
  await keep(root, ["usr", "lib"]);
  await keep(join(root, "usr"), ["lib", "share"]);
  await keep(join(root, "usr/share"), ["postgresql"]);
  const libraries = fs.readdirSync(join(root, "usr/lib")).find((it) => it.endsWith("-linux-gnu"))!;
  await keep(join(root, "usr/lib"), ["postgresql", libraries]);
  const files = fs.readdirSync(join(root, "usr/lib", libraries), { withFileTypes: true });
  await keep(
    join(root, "usr/lib", libraries),
    files.filter((file) => !file.isDirectory()).map(({ name }) => name),
  );
}

/** Deletes everything else in a folder. */
async function keep(folder: string, names: string[]): Promise<void> {
  for (const name of fs.readdirSync(folder)) {
    if (!names.includes(name)) await fs.promises.rm(join(folder, name), { recursive: true });
  }
}

/** The folder of PostgreSQL's programs. */
function programsIn(root: string): string {
  const folder = join(root, "usr/lib/postgresql");
  return join(folder, fs.readdirSync(folder)[0]!, "bin");
}

/** Lets the programs run with the loader and the libraries of their own folder. */
async function makeRunnable(programs: string): Promise<void> {
  const wrapper = `#!/bin/sh
root=\${0%/usr/lib/postgresql/*}
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$libraries"/ld-linux-*.so.* --argv0 "$0" \\
  --library-path "$libraries:\${0%/bin/*}/lib" "$0.real" "$@"
`;
  for (const name of ["postgres", "initdb"]) {
    const program = join(programs, name);
    await fs.promises.rename(program, `${program}.real`);
    await fs.promises.writeFile(program, wrapper, { mode: 0o755 });
  }
  // What the installation of the package would do.
  const version = programs.split("/").at(-2)!;
  const extensions = join(programs, "../../../../share/postgresql", version, "extension");
  await fs.promises.symlink("postgis-3.control", join(extensions, "postgis.control"));
}

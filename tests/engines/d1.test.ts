/** KyselyStore on Cloudflare's D1, in the emulator that Cloudflare's own runtime has. */

import { createRequire } from "node:module";
import { after } from "node:test";
import { Kysely } from "kysely";
import { installPackage } from "../../scripts/servers/install.ts";
import { KyselyStore } from "../../kysely.ts";
import { backendOf } from "../../src/store/factory.ts";
import { conformance, type Harness } from "../support/conformance.ts";

const scope = { log: console.log, signal: new AbortController().signal };
const require = createRequire(import.meta.url);
const miniflare = await installPackage(scope, "miniflare", "4");
const { Miniflare } = require(miniflare);
const { D1Dialect } = require(await installPackage(scope, "kysely-d1", "0.4"));
const { version } = require(`${miniflare}/package.json`);
console.log(`engine: D1 in Miniflare ${version}`);

const runtime = new Miniflare({
  modules: true,
  script: "export default { fetch: () => new Response() }",
  d1Databases: ["DB"],
});
const database = await runtime.getD1Database("DB");
after(() => runtime.dispose());

const db = () => new Kysely<unknown>({ dialect: new D1Dialect({ database }) });
const harness: Harness = {
  name: "Kysely on D1",
  store: (table, options) => KyselyStore({ db: db(), table, ...options }),
  backend: (table, options) => backendOf(KyselyStore, { db: db(), table, ...options }),
  drop: (table) => database.prepare(`DROP TABLE IF EXISTS "${table}"`).run(),
  supports: { largest: 2e6 },
  updates: 250,
};
conformance(harness);

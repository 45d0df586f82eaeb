import * as fs from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { build, findGo, versionOf } from "./go.ts";
import { cached, cacheFolder, npmPackage } from "./install.ts";
import { run, which, within } from "./process.ts";
import { database, type Program, type Recipe, type Scope } from "./recipe.ts";

/** MongoDB, or FerretDB if this machine cannot download MongoDB. */
export const mongodb: Recipe = {
  backend: "mongodb",
  name: "MongoDB",
  packages: [],
  hint: "put mongod, or Go 1.24 or newer, on the PATH",

  find: () => which("mongod"),

  download: async (scope) => await downloadMongod(scope) ?? await buildFerretDB(scope),

  async startCommand({ command, folder, port }) {
    const data = join(folder, "data");
    await fs.promises.mkdir(data);
    if (basename(command) === "ferretdb") return [command, `127.0.0.1:${port}`, data];
    const flags = `--bind_ip 127.0.0.1 --port ${port} --nounixsocket --dbpath`.split(" ");
    return [command, ...flags, data];
  },

  url: (port) => `mongodb://127.0.0.1:${port}/${database}`,

  async describe(url) {
    const { version, ferretdbVersion } = await buildInfo(url);
    return ferretdbVersion ? ["FerretDB", `instead of MongoDB ${version}`] : ["MongoDB", version];
  },
};

/** What the server says about itself. */
export async function buildInfo(url: string) {
  const { MongoClient } = await import("mongodb");
  const client = new MongoClient(url, { serverSelectionTimeoutMS: 2000 });
  try {
    return await client.db().command({ buildInfo: 1 });
  } finally {
    await client.close();
  }
}

/** Downloads MongoDB's own server. */
async function downloadMongod(scope: Scope): Promise<Program | undefined> {
  const name = "mongodb-memory-server-core";
  const folder = await npmPackage(scope, name, "11.3.0");
  if (!folder) return;
  try {
    const require = createRequire(join(folder, "index.js"));
    const { MongoBinary, DryMongoBinary } = require(".");
    const { MongoBinaryDownloadUrl } = require("./lib/util/MongoBinaryDownloadUrl.js");
    const options = await DryMongoBinary.generateOptions({ downloadDir: cacheFolder("mongod") });
    if (!await DryMongoBinary.locateBinary(options)) {
      // Asks first because the download itself would retry for minutes without a network.
      const url = await new MongoBinaryDownloadUrl(options).getDownloadUrl();
      const { ok } = await fetch(url, { method: "HEAD", signal: within(scope, 5000) });
      if (!ok) return;
      scope.log("Downloading mongod (only once)");
    }
    const aborted = new Promise((_, reject) => scope.signal.addEventListener("abort", reject));
    const command = await Promise.race([MongoBinary.getPath(options), aborted]);
    await run(command, ["--version"], { signal: scope.signal });
    return { command, source: `npm ${name}` };
  } catch {
    return;
  }
}

/** Builds FerretDB, which speaks MongoDB's protocol. */
async function buildFerretDB(scope: Scope): Promise<Program | undefined> {
  if (!findGo()) return;
  const line = "Building FerretDB from scripts/ferretdb (only once, about a minute)";
  try {
    const folder = await cached(
      scope,
      versionOf("ferretdb"),
      line,
      (folder) => build(scope, "ferretdb", folder),
    );
    return { command: join(folder, "ferretdb"), source: "built from scripts/ferretdb" };
  } catch (error) {
    scope.log((error as Error).message);
    return;
  }
}

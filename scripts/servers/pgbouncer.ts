import * as fs from "node:fs";
import { join } from "node:path";
import { fromPackages } from "./debian.ts";
import { readableFolder } from "./install.ts";
import { postgres } from "./postgres.ts";
import { password, type Recipe, username } from "./recipe.ts";

const program = "usr/sbin/pgbouncer";

/** PgBouncer in front of a PostgreSQL server. */
export function pgbouncer(mode: "transaction" | "statement", server: string): Recipe {
  const { port: upstream } = new URL(server);
  return {
    ...postgres,
    name: "PgBouncer",
    ...fromPackages("pgbouncer", { packages: ["pgbouncer"], programs: [program] }),
    stopSignal: "SIGINT",

    async startCommand({ command, folder, port, user }) {
      const users = join(folder, "users");
      const config = join(folder, "pgbouncer.ini");
      await fs.promises.writeFile(users, `"${username}" "${password}"\n`);
      await fs.promises.writeFile(
        config,
        `[databases]
* = host=127.0.0.1 port=${upstream}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
auth_user = ${username}
auth_dbname = postgres
admin_users = ${username}
pool_mode = ${mode}
default_pool_size = 10
max_client_conn = 500
`,
      );
      const root = await readableFolder(command.replace(`/${program}`, ""), { folder, user });
      return [join(root, program), config];
    },

    async describe(url) {
      const [product, version] = await postgres.describe(url);
      return ["PgBouncer", `with ${product} ${version}`];
    },
  };
}

import { which } from "./process.ts";
import type { Recipe } from "./recipe.ts";

/** Redis or Valkey. */
export const redis: Recipe = {
  backend: "redis",
  name: "Redis",
  packages: ["redis-server"],
  hint: "install redis-server",

  find: () => which("redis-server") ?? which("valkey-server"),

  startCommand: ({ command, folder, port }) =>
    Promise.resolve([
      command,
      ...`--bind 127.0.0.1 --port ${port} --appendonly no`.split(" "),
      ...["--save", "", "--dir", folder],
    ]),

  url: (port) => `redis://127.0.0.1:${port}`,

  async describe(url) {
    const { createClient } = await import("redis");
    const client = createClient({ url, socket: { reconnectStrategy: false } });
    client.on("error", () => {});
    try {
      await client.connect();
      const info = await client.info("server");
      const valkey = info.match(/valkey_version:(\S+)/)?.[1];
      return valkey ? ["Valkey", valkey] : ["Redis", info.match(/redis_version:(\S+)/)![1]!];
    } finally {
      client.destroy();
    }
  },
};

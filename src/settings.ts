/**
 * Settings of the clients and pools that stores make: `url` and `config` together.
 *
 * @module
 */

import { delay } from "./redis.ts";

/** What is looked at in options of node-redis. */
interface RedisConfig {
  readonly socket?: { readonly reconnectStrategy?: unknown };
  readonly commandOptions?: object;
}

/** Options of node-redis for a client of ours. */
export function redisSettings(
  opened: () => boolean,
  url: string | undefined,
  config: RedisConfig = {},
): object {
  const { reconnectStrategy: strategy = delay } = config.socket ?? {};
  return {
    pingInterval: 3_000, // with socketTimeout: a connection that went silent is given up
    ...config,
    commandOptions: { timeout: undefined, ...config.commandOptions }, // a timer per command
    url,
    socket: {
      socketTimeout: 5_000,
      ...config.socket,
      reconnectStrategy: (attempts: number, cause: Error) =>
        opened() && (typeof strategy === "function" ? strategy(attempts, cause) : strategy),
    },
  };
}

/** The server and the user, as options of SQL stores name them. */
export interface Address {
  host?: string;
  port?: number | string;
  database?: string;
  user?: string;
  password?: unknown;
}

/** Their names. */
export const place = ["host", "port", "database", "user", "password"] as const;

/** The same for a driver. */
export function address<Options extends Address>(options: Options) {
  const { host, port, database, user, password } = options;
  const number = port === undefined ? undefined : Number(port);
  return { host, port: number, database, user, password: password as Options["password"] };
}

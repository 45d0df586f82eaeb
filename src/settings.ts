/**
 * Settings of the clients and pools that stores make: `url` and `config` become options of the
 * driver, in which `config` wins. Drivers themselves disagree about that.
 *
 * @module
 */

import { reason } from "./errors.ts";
import { described, type StoreOptions } from "./options.ts";
import { delay } from "./redis.ts";
import { patience } from "./sql.ts";

/** The server and the user, as options of SQL stores name them. */
export const place = ["host", "port", "database", "user", "password"] as const;

/** What is looked at in the options of a factory. */
interface Options extends StoreOptions {
  readonly url?: string | undefined;
  readonly config?: object | undefined;
  readonly host?: string | undefined;
  readonly port?: number | string | undefined;
  readonly database?: string | undefined;
  readonly user?: string | undefined;
  readonly password?: unknown;
}

/**
 * The URL, which may also be in `config`, as the driver calls it.
 *
 * @throws {TypeError} if the place is given twice.
 */
export function urlOf(factory: string, options: Options, name: string): string | undefined {
  const own = (options.config as Record<string, unknown> | undefined)?.[name];
  if (own === undefined || own === null) return options.url;
  const twice = (["url", ...place] as const).find((it) => options[it] !== undefined);
  if (twice !== undefined) {
    const what = `option "${twice}" and config.${name} contradict each other`;
    throw new TypeError(`${factory}: ${what}; leave one out`);
  }
  if (typeof own === "string") return own;
  throw new TypeError(`${factory}: config.${name} must be a string, but is ${described(own)}`);
}

/**
 * An error about the settings. The driver's comes without the cause, because that may hold the URL.
 */
export function refused(error: unknown, factory: string, driver: string): TypeError {
  const own = (error as Error).name === "TypeError" && (error as Error).message;
  if (own && own.startsWith(`${factory}: `)) return error as TypeError;
  const what = `option "url" or "config" is refused by ${driver}`;
  return new TypeError(`${factory}: ${what}: ${reason(error)}`);
}

/** What is given in options of a driver, without `left`. */
function given(config: object = {}, left?: string): object {
  return Object.fromEntries(
    Object.entries(config).filter(([name, value]) => value !== undefined && name !== left),
  );
}

/** The place without a URL. */
function address({ host, port, database, user, password }: Options): object {
  return { host, port: port === undefined ? undefined : Number(port), database, user, password };
}

/** What is looked at in options of node-redis. */
interface RedisConfig {
  readonly socket?: { readonly host?: unknown; readonly reconnectStrategy?: unknown } | undefined;
  readonly commandOptions?: object | undefined;
}

/** Options of node-redis for a client of ours; the URL has been checked. */
export function redisSettings(
  opened: () => boolean,
  url: string | undefined,
  config: RedisConfig = {},
): object {
  const { reconnectStrategy: strategy = delay } = config.socket ?? {};
  const { socket, ...user } = url === undefined ? {} : redisAddress(url);
  if (config.socket?.host !== undefined) delete socket?.path;
  return {
    pingInterval: 3_000, // with socketTimeout: a connection that went silent is discarded
    RESP: 2, // not every server knows HELLO, which 3 begins with
    maintNotifications: "disabled", // with them the driver looks up an IPv6 address as a name
    ...user,
    ...given(config, "url"),
    commandOptions: { timeout: undefined, ...config.commandOptions }, // a timer per command
    socket: {
      socketTimeout: 5_000,
      ...socket,
      ...given(config.socket),
      reconnectStrategy: (attempts: number, cause: Error) =>
        opened() && (typeof strategy === "function" ? strategy(attempts, cause) : strategy),
    },
  };
}

/** What is in a URL, as node-redis reads it, which lets it win over other options. */
function redisAddress(url: string) {
  const unix = url.startsWith("unix:");
  const readable = unix ? url.replace(/^unix:\/\/([^/]*@)?/, "redis://$1unix") : url;
  const { protocol, hostname, port, username, password, pathname, searchParams } = new URL(
    readable,
  );
  const number = unix ? searchParams.get("db") : pathname.slice(1);
  const socket: { path?: string; host?: string; port?: number; tls?: boolean } = unix
    ? { path: decodeURIComponent(pathname) }
    : {
      // Without the brackets of an IPv6 address.
      host: hostname.replace(/^\[(.*)\]$/, "$1"),
      ...(port && { port: Number(port) }),
      ...(protocol === "rediss:" && { tls: true }),
    };
  return {
    socket,
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(number && { database: Number(number) }),
  };
}

/** What is used of `pg.Client`. */
type PgClient = new (options: object) => { connectionParameters: object };

/** Options of a `pg.Pool` of ours. */
export function pgSettings(Client: object, options: Options): object {
  const url = urlOf("Postgres", options, "connectionString");
  return {
    connectionTimeoutMillis: patience(options),
    ...(url === undefined ? address(options) : pgAddress(Client as PgClient, url)),
    ...given(options.config, "connectionString"),
  };
}

/** What is in a URL: pg reads it, but lets it win over other options, and even what it has not. */
function pgAddress(Client: PgClient, url: string): object {
  if (!/^(postgres(ql)?|socket):/i.test(url)) throw new TypeError("Invalid URL");
  const { connectionParameters: read } = new Client({ connectionString: url });
  // The password cannot be enumerated.
  const { database, user, password } = read as {
    database?: string;
    user?: string;
    password?: string;
  };
  const named = database !== user || /^\w+:\/\/[^/?#]*\/[^?#]/.test(url);
  // Without a name the database is that of the user, of whom `config` may say another.
  return { ...read, password, database: named ? database : undefined };
}

/** Options of a pool of mysql2 of ours. */
export function mysqlSettings(options: Options): object {
  const url = urlOf("MySQL", options, "uri");
  return {
    connectTimeout: patience(options),
    ...(url === undefined ? address(options) : mysqlAddress(url)),
    ...given(options.config, "uri"),
  };
}

/** What is in a URL, as mysql2 reads it, which lets it win over options that are `false` or "". */
function mysqlAddress(url: string): object {
  if (!/^(mysql|mariadb):/i.test(url)) throw new TypeError("Invalid URL");
  const { hostname, port, pathname, username, password, searchParams } = new URL(url);
  return {
    ...Object.fromEntries([...searchParams].map(([name, value]) => [name, parsed(value)])),
    host: decodeURIComponent(hostname.replace(/^\[(.*)\]$/, "$1")),
    port: port === "" ? undefined : Number(port),
    database: decodeURIComponent(pathname.slice(1)),
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
  };
}

/** A parameter: JSON, or else text. */
function parsed(value: string): unknown {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

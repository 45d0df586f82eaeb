/**
 * The options of the Redis store, and the options of its own client.
 *
 * @module
 */

import { checkParameters, given } from "../address.ts";
import { described } from "../validation.ts";
import { type Client, stateOf } from "./client.ts";
import { adapt, type IORedis, isIORedis } from "./ioredis.ts";

/** What the option `client` takes. */
export const kinds = "a client, pool, cluster or sentinel of node-redis (not in legacy mode), " +
  "or a client or cluster of ioredis";

/**
 * Takes a client by its shape, for copies of drivers differ, and listens to its errors.
 *
 * @throws {TypeError} for what is none.
 */
export function checked(given: Client | IORedis): Client {
  const client = isIORedis(given) ? adapt(given) : given;
  const methods = ["connect", "on", "get", "mGet", "set", "mSet", "del"] as const;
  // In legacy mode node-redis 4 calls back and returns nothing.
  const { legacyMode } = (client as { options?: { legacyMode?: unknown } }).options ?? {};
  const fits = typeof client.isOpen === "boolean" && !legacyMode &&
    methods.every((name) => typeof client[name] === "function");
  if (!fits) {
    throw new TypeError(`Redis: option "client" must be ${kinds}, but is ${described(given)}`);
  }
  stateOf(client);
  return client;
}

/**
 * Checks a connection string before the driver is there to do it.
 *
 * @throws {TypeError} without the string, for it may have a password.
 */
export function checkUrl(url: string): void {
  if (!isUrl(url)) {
    const form = "redis[s]://[[user][:password]@]host[:port][/database] or unix:///path";
    throw new TypeError(`Redis: option "url" must be ${form}`);
  }
  checkParameters("Redis", url, [
    url.startsWith("unix:")
      ? [/^database$/i, "the parameter db"]
      : [/^(db|database)$/i, "the path of the URL: redis://host/1"],
    [/^(user(name)?|pass(word)?|host|port)$/i, "redis://user:password@host:port"],
    [/^(tls|ssl)/i, "rediss:// and config.socket"],
  ]);
}

function isUrl(url: string): boolean {
  try {
    if (/^unix:\/\/([^/]*@)?\/./.test(url)) return true;
    const { protocol, username, password, pathname } = new URL(url);
    decodeURIComponent(username + password);
    return /^rediss?:$/.test(protocol) && /^\/?\d*$/.test(pathname);
  } catch {
    return false;
  }
}

/** How long to wait before connecting again, in ms: at most 20, doubled each time up to 500. */
export function delay(attempts: number): number {
  return Math.min(500, 20 * 2 ** attempts) * (0.5 + Math.random() / 2);
}

/** What is looked at in options of node-redis. */
interface RedisConfig {
  readonly socket?: { readonly host?: unknown; readonly reconnectStrategy?: unknown } | undefined;
  readonly commandOptions?: object | undefined;
}

/** Options of node-redis for the store's own client; the URL has been checked. */
export function settings(
  opened: () => boolean,
  url: string | undefined,
  config: RedisConfig = {},
): object {
  const { reconnectStrategy: strategy = delay } = config.socket ?? {};
  const { socket, ...user } = url === undefined ? {} : address(url);
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
function address(url: string) {
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

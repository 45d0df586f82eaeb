/**
 * The options of the Redis store, and the options of its own client.
 *
 * @module
 */

import { checkParameters, given } from "../address.ts";
import { described } from "../validation.ts";
import type { Client } from "./client.ts";
import { adapt, type IORedis, isIORedis } from "./ioredis.ts";
import { adaptRequester, requesterOf, type Upstash } from "./upstash.ts";

/** The clients that the option `client` takes. */
export const supportedClients =
  "a client, pool, cluster or sentinel of node-redis (not in legacy mode), " +
  "a client or cluster of ioredis, or a client of @upstash/redis";

/**
 * Checks a client by duck typing because a user may have another installed version of the driver.
 *
 * @returns the client, with the interface of node-redis.
 * @throws {TypeError} if the client is not supported.
 */
export function checkClient(given: Client | IORedis | Upstash): Client {
  if (isIORedis(given)) checkReplicas(given);
  const requester = requesterOf(given);
  if (requester?.readYourWrites === false) refuseReplicas("readYourWrites", true, false);
  const client = requester
    ? adaptRequester(requester)
    : isIORedis(given)
    ? adapt(given)
    : given as Client;
  const methods = ["connect", "on", "get", "mGet", "set", "mSet", "del"] as const;
  // In its legacy mode node-redis 4 calls callbacks and returns nothing.
  const { legacyMode } = (client as { options?: { legacyMode?: unknown } }).options ?? {};
  const fits = typeof client.isOpen === "boolean" && !legacyMode &&
    methods.every((name) => typeof client[name] === "function");
  if (!fits) {
    throw new TypeError(
      `Redis: option "client" must be ${supportedClients}, but is ${described(given)}`,
    );
  }
  return client;
}

/**
 * Checks that a client of ioredis does not read from replicas, which may be behind.
 *
 * @throws {TypeError} if it does.
 */
function checkReplicas(client: object): void {
  const { scaleReads = "master", role = "master" } =
    (client as { options?: Record<string, unknown> }).options ?? {};
  if (scaleReads !== "master") refuseReplicas("scaleReads", "master", scaleReads);
  if (role !== "master") refuseReplicas("role", "master", role);
}

function refuseReplicas(option: string, expected: unknown, value: unknown): never {
  const shown = /^(string|boolean)$/.test(typeof value) ? JSON.stringify(value) : described(value);
  throw new TypeError(
    `Redis: option "client" must read from the primary, because replicas may be behind: ` +
      `set its ${option} to ${JSON.stringify(expected)}, but it is ${shown}`,
  );
}

/**
 * Checks a connection string before the driver is loaded.
 *
 * @throws {TypeError} if it is invalid. The message does not contain it, because it may have a password.
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

/** The delay before reconnecting, in ms: at most 20, doubled after each attempt up to 500. */
function delay(attempts: number): number {
  return Math.min(500, 20 * 2 ** attempts) * (0.5 + Math.random() / 2);
}

/** The options of node-redis that are read. */
interface RedisConfig {
  readonly socket?: { readonly host?: unknown; readonly reconnectStrategy?: unknown } | undefined;
  readonly commandOptions?: object | undefined;
}

/** Options of node-redis for the store's own client. The URL must have been checked. */
export function clientOptions(
  mayReconnect: () => boolean,
  url: string | undefined,
  config: RedisConfig = {},
): object {
  const { reconnectStrategy: strategy = delay } = config.socket ?? {};
  const { socket, ...user } = url === undefined ? {} : address(url);
  if (config.socket?.host !== undefined) delete socket?.path;
  return {
    pingInterval: 3_000, // with socketTimeout, so that a silent connection is discarded
    RESP: 2, // version 3 needs the command HELLO, which not every server knows
    maintNotifications: "disabled", // with them the driver resolves an IPv6 address as a host name
    ...user,
    ...given(config, "url"),
    commandOptions: { timeout: undefined, ...config.commandOptions }, // because a timeout needs a timer per command
    socket: {
      socketTimeout: 5_000,
      ...socket,
      ...given(config.socket),
      reconnectStrategy: (attempts: number, cause: Error) =>
        mayReconnect() && (typeof strategy === "function" ? strategy(attempts, cause) : strategy),
    },
  };
}

/**
 * The options in a URL, as node-redis parses it. Given to node-redis, the URL would override other options.
 */
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

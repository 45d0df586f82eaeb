/**
 * What is the same for the clients of node-redis, of whichever version and kind; `ioredis.ts` gives
 * those of ioredis their shape.
 *
 * @module
 */

import { setAbortHandler } from "./abort.ts";
import type { Entry, Page } from "./backend.ts";
import { isError } from "./errors.ts";
import { disconnected } from "./network.ts";
import { checkParameters, described, given } from "./options.ts";
import { adapt, type IORedis, isIORedis } from "./ioredis.ts";

/** What is used of a client, pool, cluster or sentinel of node-redis 4 to 6. */
export interface Client {
  /** From the call of `connect` on, until it is closed or has given up. */
  readonly isOpen: boolean;
  /** Whether it is connected; not every kind says so. */
  readonly isReady?: boolean;
  /** What ioredis puts before keys, but not before the pattern of a `scan`. */
  readonly keyPrefix?: string;
  /** The nodes of a cluster, as far as it knows them. */
  readonly masters?: readonly unknown[];
  connect(): Promise<unknown>;
  on(event: "error", listener: (error: unknown) => void): unknown;
  get(key: string): Promise<unknown>;
  mGet(keys: string[]): Promise<unknown>;
  set(key: string, value: string, options?: { PX: number }): Promise<unknown>;
  mSet(keysAndValues: string[]): Promise<unknown>;
  del(keys: string | string[]): Promise<unknown>;
  pTTL(key: string): Promise<unknown>;
  pExpireAt(key: string, time: number): Promise<unknown>;
  /** Not in a cluster. The cursor is text; node-redis 4 says that it is a number, but takes both. */
  scan?(cursor: never, options: { MATCH: string; COUNT: number }): Promise<unknown>;
  /** In a cluster, of one of its `masters`. */
  nodeClient?(node: never): unknown;
}

/** A client that the store made. */
export interface OwnClient extends Client {
  /** Not in node-redis 4. */
  destroy?(): void;
  disconnect?(): Promise<unknown> | void;
}

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

/** What is known of a client, for all stores that use it. */
interface State {
  /** The last error since the client was found ready. */
  error?: unknown;
  /** Whether a `connect` of ours is under way. */
  connecting?: boolean;
  /** Where errors are reported. */
  readonly reports: Set<(error: unknown) => void>;
}

const states = new WeakMap<Client, State>();

/** Listens to the client, once for all stores: without a listener an error ends the process. */
function stateOf(client: Client): State {
  const known = states.get(client);
  if (known !== undefined) return known;
  const state: State = { reports: new Set() };
  states.set(client, state);
  client.on("error", (error) => {
    // Those that follow, until the client is ready again, only say that it is not.
    if (state.error === undefined) state.reports.forEach((report) => report(error));
    state.error = error;
  });
  return state;
}

/** Reports what happens to the client, until the returned function is called. */
export function watch(client: Client, report: (error: unknown) => void): () => void {
  const { reports } = stateOf(client);
  reports.add(report);
  return () => reports.delete(report);
}

/** Makes a client of ours; while it is not `opened`, it must give up what goes wrong. */
type Create = (opened: () => boolean) => OwnClient;

/** The client of ours, and how to make another one in its place. */
export interface Own {
  client: OwnClient;
  readonly create: Create;
}

/** Connects a client of ours. What goes wrong until then is for the caller to see. */
export async function connect(create: Create, signal: AbortSignal): Promise<Own> {
  let opened = false;
  const client = create(() => opened);
  stateOf(client);
  signal.addEventListener("abort", () => discard(client));
  try {
    await client.connect();
    opened = true;
    ready(client); // one that was given up meanwhile may have connected all the same
  } catch (error) {
    discard(client);
    throw error;
  }
  const own = { client, create };
  distrust(own);
  return own;
}

/**
 * For commands that are sent now: a client of ours that has not answered them when nobody waits any
 * more is replaced. TCP takes a quarter of an hour to find out that a connection is dead, and as long
 * as something is sent, no timeout of the socket passes.
 */
export function guard(own: Own | undefined, signal: AbortSignal): void {
  if (own === undefined) return;
  const { client } = own;
  setAbortHandler(signal, () => own.client === client && replace(own));
}

/** The store's own client, or a new one in place of one that its `reconnectStrategy` has ended. */
export function alive(own: Own): Client {
  const { client } = own;
  const { error, connecting } = stateOf(client);
  if (client.isOpen || connecting) return ready(client);
  replace(own);
  // What the server refuses, a wrong password for example, does not pass.
  if (/^(WRONGPASS|NOAUTH|NOPERM|ERR)\b/.test((error as Error | undefined)?.message ?? "")) {
    throw error;
  }
  throw new Error("The client is offline", { cause: error });
}

function replace(own: Own | undefined): void {
  if (own === undefined) return;
  const { client } = own;
  own.client = own.create(() => true);
  stateOf(client).reports.forEach((report) => watch(own.client, report));
  distrust(own);
  begin(own.client);
  discard(client);
}

/** After a reply that is none, node-redis takes each further one for that of the command before. */
function distrust(own: Own): void {
  const { client } = own;
  client.on("error", (error) => {
    if (/RESP type/.test((error as Error).message) && own.client === client) replace(own);
  });
}

/** Closes a client of ours at once, whatever state it is in. */
export async function discard(client: OwnClient | undefined): Promise<void> {
  try {
    if (client?.destroy) client.destroy();
    else await client?.disconnect?.();
  } catch {
    // Where nothing is open, node-redis 4 rejects and 5 throws.
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

/** Begins to connect a client that nobody has connected; `ready` tells how that goes. */
export async function join(client: Client): Promise<void> {
  const state = stateOf(client);
  await undefined; // its owner may do it in this very tick
  if (!client.isOpen && !state.connecting) begin(client);
}

function begin(client: Client): void {
  const state = stateOf(client);
  state.connecting = true;
  client.connect()
    .catch((error) => state.error ??= error)
    .finally(() => state.connecting = false);
}

/**
 * The client, if it can send a command now. One that is offline would keep the command, and might
 * send it when nobody waits for it any more.
 *
 * @throws the error that keeps it from being ready.
 */
export function ready(client: Client): Client {
  const state = stateOf(client);
  if (!client.isOpen && !state.connecting) {
    throw new Error("the Redis client is closed", { cause: state.error });
  }
  if (state.connecting || client.isReady === false || client.masters?.length === 0) {
    throw state.error ?? new Error("The client is offline");
  }
  state.error = undefined;
  return client;
}

/**
 * The results, or the first error when none is under way any more: what is sent after an error must
 * not be overtaken by what was sent before.
 */
export async function all(commands: Promise<unknown>[]): Promise<unknown[]> {
  if (commands.length === 1) return [replied(await commands[0])];
  const results = await Promise.allSettled(commands);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return replied(result.value);
  });
}

/**
 * The reply of a command.
 *
 * @throws where it is none: while the application has a `MULTI` open on the client, the server only
 * puts commands into a queue, which the application may discard. No session is stored as this text.
 */
export function replied<T>(reply: T): T {
  // An array, which is not that text, would be joined for nothing.
  if (Array.isArray(reply) || String(reply) !== "QUEUED") return reply;
  throw new Error("The application has a transaction open on the client");
}

/** The entries that there are; asks for the client before each command. */
export async function read(
  client: () => Client,
  keys: string[],
  named: (key: string) => string,
  { apart, expires }: { apart: boolean; expires: boolean },
): Promise<Entry<string>[]> {
  const names = keys.map(named);
  const values = names.length === 1
    ? [replied(await client().get(names[0]!))]
    : apart
    ? await all(names.map((name) => client().get(name)))
    : replied(await client().mGet(names)) as unknown[];
  const ends = expires ? await lives(client(), names) : [];
  const entries: Entry<string>[] = [];
  for (let i = 0; i < keys.length; i++) {
    const value = values[i];
    if (value === null || value === undefined) continue;
    // Envoy asks several servers for the values, and one of them may have failed.
    if (isError(value)) throw value;
    entries.push({ key: keys[i]!, value: String(value), expires: ends[i] });
  }
  return entries;
}

/** Stores entries under the names of their keys; `apart` in a cluster, where their keys are on many servers. */
export function write(
  client: Client,
  entries: Entry<string>[],
  named: (key: string) => string,
  apart: boolean,
): Promise<unknown> {
  const set = ({ key, value, expires }: Entry<string>) =>
    expires === undefined
      ? client.set(named(key), value)
      : client.set(named(key), value, { PX: Math.max(1, expires - Date.now()) });
  if (entries.length === 1) return set(entries[0]!);
  if (apart || entries.some(({ expires }) => expires !== undefined)) return all(entries.map(set));
  return client.mSet(entries.flatMap(({ key, value }) => [named(key), value]));
}

/** When the values of keys expire, in ms since the epoch; `undefined` for never. */
export async function lives(client: Client, keys: string[]): Promise<(number | undefined)[]> {
  const lives = await all(keys.map((key) => client.pTTL(key)));
  const now = Date.now();
  return lives.map((life) => Number(life) < 0 ? undefined : now + Number(life));
}

/** Lets keys expire at a time. */
export async function renew(client: Client, keys: string[], expires: number): Promise<void> {
  await all(keys.map((key) => client.pExpireAt(key, expires)));
}

/** Some of the keys with the prefix, and where the next page begins: at a cursor of a node. */
export async function page(
  client: Client,
  prefix: string,
  start = "0 0",
  size: number,
): Promise<Page> {
  const [at, cursor] = start.split(" ") as [string, string];
  const node = Number(at);
  const { masters, keyPrefix = "" } = client;
  const begin = keyPrefix + prefix;
  const server = masters === undefined ? client : await client.nodeClient!(masters[node] as never);
  const pattern = `${begin.replace(/[*?[\]\\]/g, "\\$&")}*`;
  const reply = await (server as Client).scan!(cursor as never, { MATCH: pattern, COUNT: size });
  const found = reply as { cursor: unknown; keys: unknown[] };
  const next = String(found.cursor) !== "0"
    ? `${node} ${found.cursor}`
    : node + 1 < (masters?.length ?? 1)
    ? `${node + 1} 0`
    : undefined;
  const keys = found.keys.map((key) => String(key).slice(begin.length)).filter((key) => key !== "");
  return { entries: keys.map((key) => ({ key })), next };
}

/** What passes: of node-redis, of ioredis, of servers and proxies; `docs/errors.md` has the reasons. */
const passes = new RegExp(
  "^(The client is offline|The application has a|Socket closed|Disconnects client|All the root nodes|" +
    "(Socket|Connection|Command) timeout|Timeout waiting|" +
    "(Ready check failed: )?Connection is closed|Command (timed out|aborted)|" +
    "Reached the max retries|Stream isn't writeable|Cluster isn't ready|None of startup nodes|" +
    "Failed to refresh slots|Too many Cluster redirections|All sentinels|An earlier write|" +
    "LOADING|CLUSTERDOWN|MASTERDOWN|NOMASTERLINK|TRYAGAIN|READONLY|REDIRECT|NOREPLICAS|BUSY |" +
    "ERR max (number of clients|concurrent connections|commands per second)|" +
    "(no upstream host|upstream (failure|protocol error)|finished with \\d+ error)|" + // Envoy
    "ERR (Connection (refused|reset by peer|timed out)|Broken pipe|Host is down|No route to host))", // Twemproxy
);

/** Whether the same command may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { message, constructor } = error as { message: string; constructor?: { name: string } };
  return disconnected(error) || passes.test(message) ||
    constructor?.name === "TimeoutError"; // a command that was not sent in time
}

/**
 * Gives clients of ioredis (single, behind Sentinels, or of a cluster) the interface of node-redis.
 *
 * @module
 */

import type { Client } from "./client.ts";

/** The properties by which a client of ioredis is recognized. */
export interface IORedis {
  readonly status: string;
  connect: (...args: never[]) => unknown;
  on: (...args: never[]) => unknown;
  get: (...args: never[]) => unknown;
  mget: (...args: never[]) => unknown;
  pexpire: (...args: never[]) => unknown;
}

/** The part of a client of ioredis that is used. */
interface Commands {
  readonly status: string;
  readonly isCluster?: boolean;
  readonly options?: { readonly keyPrefix?: unknown };
  connect(): Promise<unknown>;
  on(event: "error", listener: (error: { command?: unknown }) => void): unknown;
  get(key: string): Promise<unknown>;
  mget(keys: string[]): Promise<unknown>;
  set(key: string, value: string, ...expiry: (string | number)[]): Promise<unknown>;
  mset(keysAndValues: string[]): Promise<unknown>;
  del(keys: string[]): Promise<unknown>;
  pttl(key: string): Promise<unknown>;
  pexpire(key: string, ms: number): Promise<unknown>;
  evalsha(hash: string, keys: number, ...values: string[]): Promise<unknown>;
  eval(text: string, keys: number, ...values: string[]): Promise<unknown>;
  scan(cursor: string, ...options: (string | number)[]): Promise<[cursor: string, keys: unknown[]]>;
  /** Only in a cluster. */
  nodes?(role: "master"): Commands[];
}

/** Whether it is a client of ioredis, of any installed version. */
export function isIORedis(client: object): client is IORedis {
  const methods = ["connect", "on", "get", "mget", "set", "mset", "del", "pttl", "pexpire"];
  const { status } = client as { status?: unknown };
  return typeof status === "string" &&
    methods.every((name) => typeof (client as Record<string, unknown>)[name] === "function");
}

const adapters = new WeakMap<object, Client>();

/** The adapter of a client, the same one each time. */
export function adapt(client: IORedis): Client {
  let adapter = adapters.get(client);
  if (adapter === undefined) {
    adapters.set(client, adapter = makeAdapter(client as unknown as Commands));
  }
  return adapter;
}

function makeAdapter(client: Commands): Client {
  const inOrder = client.isCluster
    ? sequence()
    : <T>(_: string[], send: () => Promise<T>) => send();
  const scannable = (node: Commands): Pick<Client, "scan"> => ({
    async scan(cursor, { MATCH, COUNT }) {
      const [next, keys] = await answer(node.scan(cursor, "MATCH", MATCH, "COUNT", COUNT));
      return { cursor: next, keys };
    },
  });
  return {
    keyPrefix: String(client.options?.keyPrefix ?? ""),
    get isOpen() {
      return client.status !== "wait" && client.status !== "end";
    },
    get isReady() {
      return client.status === "ready";
    },
    get masters() {
      return client.isCluster ? client.nodes!("master") : undefined;
    },
    connect: () => client.connect(),
    on: (event, listener) => client.on(event, (error) => listener(withoutCommand(error))),
    get: (key) => answer(client.get(key)),
    mGet: (keys) => answer(client.mget(keys)),
    set: (key, value, expiry) =>
      inOrder([key], () => answer(client.set(key, value, ...Object.entries(expiry ?? {}).flat()))),
    mSet: (keysAndValues) => answer(client.mset(keysAndValues)),
    del: (keys) => inOrder([keys].flat(), () => answer(client.del([keys].flat()))),
    pTTL: (key) => answer(client.pttl(key)),
    pExpire: (key, ms) => answer(client.pexpire(key, ms)),
    evalSha: (hash, { keys, arguments: args }) =>
      answer(client.evalsha(hash, keys.length, ...keys, ...args)),
    eval: (text, { keys, arguments: args }) =>
      answer(client.eval(text, keys.length, ...keys, ...args)),
    ...scannable(client),
    nodeClient: (node) => scannable(node),
  };
}

/**
 * Refuses a write of a key while an earlier one is in progress. A cluster client may retry the earlier one
 * later, which would undo the newer one. (On a single connection no command overtakes another.)
 * Guarded by "Redis lets a cluster of ioredis send no old write after a new one".
 */
export function sequence(): <T>(keys: string[], send: () => Promise<T>) => Promise<T> {
  const writing = new Set<string>();
  return async (keys, send) => {
    if (keys.some((key) => writing.has(key))) throw new Error("An earlier write is in progress");
    for (const key of keys) writing.add(key);
    try {
      return await send();
    } finally {
      for (const key of keys) writing.delete(key);
    }
  };
}

function answer<T>(reply: Promise<T>): Promise<T> {
  return reply.catch((error) => {
    throw withoutCommand(error);
  });
}

/** Removes the arguments of the command, which may be a password or a session. */
function withoutCommand<E extends { command?: unknown }>(error: E): E {
  delete error.command;
  return error;
}

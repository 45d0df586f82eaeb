/**
 * Reads that only a primary answers, because a replica may be behind.
 *
 * @module
 */

import { isReadOnly } from "./errors.ts";

/** The commands that read sessions. */
export interface Reads {
  get(key: string): Promise<unknown>;
  mGet(keys: string[]): Promise<unknown>;
  pTTL(key: string): Promise<unknown>;
  /** Missing in a cluster. The cursor is text, which node-redis 4 accepts too. */
  scan?(cursor: never, options: { MATCH: string; COUNT: number }): Promise<unknown>;
}

/** A client that may add a prefix to keys, but not to the pattern of `scan` or in `sendCommand`. */
export interface Prefixing {
  /** Of a client of ioredis. */
  readonly keyPrefix?: string;
  /** Of a client of node-redis 6. */
  readonly _keyPrefix?: unknown;
}

/** The prefix that a client adds to keys. */
export function keyPrefixOf(client: Prefixing): string {
  return client.keyPrefix ?? String(client._keyPrefix ?? "");
}

/** What only some kinds of clients have. */
interface Special {
  readonly sendCommand?: (...args: never[]) => Promise<unknown>;
  readonly masters?: readonly unknown[];
  /** Only in a sentinel. */
  readonly getReplicaNodes?: unknown;
  multi(): Transaction;
  /** Only in a pool: how many clients it has. */
  readonly totalClients?: number;
  /** Only in a pool: lends one of its clients, which nobody else uses meanwhile. */
  execute(work: (client: Lent) => Promise<unknown>): Promise<unknown>;
}

interface Lent {
  del(key: string): Promise<unknown>;
  sendCommand(command: string[]): Promise<unknown>;
}

/** Commands that a server runs together. */
interface Transaction {
  get(key: string): Transaction;
  mGet(keys: string[]): Transaction;
  pTTL(key: string): Transaction;
  del(key: string): Transaction;
  exec(): Promise<unknown[]>;
}

/** `sendCommand` of a cluster of node-redis. */
type ClusterSend = (key: string, isReadonly: boolean, command: string[]) => Promise<unknown>;
/** `sendCommand` of a sentinel of node-redis. */
type SentinelSend = (isReadonly: boolean, command: string[]) => Promise<unknown>;

/** The reads of a client. Clusters and sentinels of node-redis may send its own reads to replicas. */
export function primaryReads(client: Reads): Reads {
  const { sendCommand, masters, getReplicaNodes } = client as unknown as Special;
  if (!sendCommand) return client; // an adapter of ioredis
  const keyPrefix = keyPrefixOf(client as Prefixing);
  const name = (key: string) => keyPrefix + key;
  if (masters !== undefined) {
    const send = (command: string, key: string) =>
      (sendCommand as ClusterSend).call(client, name(key), false, [command, name(key)]);
    return {
      get: (key) => send("GET", key),
      mGet: (keys) => Promise.all(keys.map((key) => send("GET", key))),
      pTTL: (key) => send("PTTL", key),
    };
  }
  if (getReplicaNodes === undefined) return client;
  const send = (...command: string[]) => (sendCommand as SentinelSend).call(client, false, command);
  return {
    get: (key) => send("GET", name(key)),
    mGet: (keys) => send("MGET", ...keys.map(name)),
    pTTL: (key) => send("PTTL", name(key)),
    async scan(cursor, { MATCH, COUNT }) {
      const reply = await send("SCAN", cursor, "MATCH", MATCH, "COUNT", `${COUNT}`);
      const [next, keys] = reply as [unknown, unknown[]];
      return { cursor: next, keys };
    },
  };
}

/** A key that does not exist. A replica refuses to delete it. */
const fence = "telegraf:\0none";

/**
 * Whether it is a pool of node-redis. Its connections may be to several servers. A client with one
 * connection has stored nothing elsewhere.
 */
export function isPool(client: Reads): boolean {
  return typeof (client as unknown as Special).totalClients === "number";
}

/** The reads of a pool in which some connections may be to a former primary. */
export function fencedReads(pool: Reads): Reads {
  const read = async (add: (transaction: Transaction) => Transaction) =>
    (await add((pool as unknown as Special).multi().del(fence)).exec())[1];
  return {
    get: (key) => read((it) => it.get(key)),
    mGet: (keys) => read((it) => it.mGet(keys)),
    pTTL: (key) => read((it) => it.pTTL(key)),
  };
}

/**
 * Lets the connections of a pool that are to a replica end, so that the pool makes them again. A pool
 * gives the connection that it used last, and would use the same replica for ever.
 */
export async function leaveReplicas(pool: Reads): Promise<void> {
  const { totalClients = 0 } = pool as unknown as Special;
  const leave = () =>
    (pool as unknown as Special).execute((client) =>
      client.del(fence).catch((error) =>
        isReadOnly(error) ? client.sendCommand(["QUIT"]) : undefined
      )
    );
  await Promise.allSettled(Array.from({ length: totalClients }, leave));
}

/**
 * What is the same for the clients of node-redis, of whichever version and kind; `ioredis.ts` gives
 * those of ioredis their shape.
 *
 * @module
 */

import { setAbortHandler } from "../abort.ts";

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
export function stateOf(client: Client): State {
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

/** Begins to connect a client that nobody has connected; `ready` tells how that goes. */
export async function join(client: Client): Promise<void> {
  const state = stateOf(client);
  await undefined; // its owner may do it in this very tick
  if (!client.isOpen && !state.connecting) begin(client);
}

export function begin(client: Client): void {
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

/**
 * The client of a store: one that was passed in, or the store's own. Covers all kinds of clients of
 * node-redis 4 to 6; `ioredis.ts` and `upstash.ts` adapt other clients.
 *
 * @module
 */

import { setAbortHandler } from "../abort.ts";
import type { Limits, MaybePromise } from "../backend.ts";
import { isError } from "../errors.ts";
import { explained, isReadOnly } from "./errors.ts";
import {
  fencedReads,
  isPool,
  leaveReplicas,
  type Prefixing,
  primaryReads,
  type Reads,
} from "./primary.ts";

/** The keys and arguments of a script. */
export interface ScriptOptions {
  keys: string[];
  arguments: string[];
}

/** The part of a client, pool, cluster or sentinel of node-redis 4 to 6 that is used. */
export interface Client extends Reads, Prefixing {
  /** True from the call of `connect` until the client is closed or has stopped reconnecting. */
  readonly isOpen: boolean;
  /** Whether it is connected. Some kinds of clients do not have this property. */
  readonly isReady?: boolean;
  /** Only of a client over HTTP: the limits of a batch. */
  readonly limits?: Limits;
  /** The known master nodes of a cluster. */
  readonly masters?: readonly unknown[];
  connect(): Promise<unknown>;
  on(event: "error", listener: (error: unknown) => void): unknown;
  set(key: string, value: string, options?: { PX: number }): Promise<unknown>;
  mSet(keysAndValues: string[]): Promise<unknown>;
  del(keys: string | string[]): Promise<unknown>;
  pExpire(key: string, ms: number): Promise<unknown>;
  /** Missing in a client that runs no scripts. */
  evalSha?(hash: string, options: ScriptOptions): Promise<unknown>;
  eval?(text: string, options: ScriptOptions): Promise<unknown>;
  /** In a cluster or sentinel of node-redis: sends a command to the node of a key, or to the primary. */
  sendCommand?: (...args: never[]) => Promise<unknown>;
  /** Only of a client over HTTP: sends the commands of a tick in one request, unless the signal aborts. */
  forBatch?(signal: AbortSignal): Client;
  /** Only in a cluster: the client of one of its `masters`. */
  nodeClient?(node: never): unknown;
}

/** A client that the store creates. */
export interface ManagedNodeRedis extends Client {
  /** Missing in node-redis 4. */
  destroy?(): void;
  disconnect?(): Promise<unknown> | void;
}

/** Reports an error in the background. */
type Report = (error: unknown) => void;

/** How a store gets at its client. */
export interface ClientSource {
  /** Whether the keys are on several servers, so that each key needs its own command. */
  readonly isCluster: boolean;
  /** Connects if necessary, and starts to report errors. */
  open(signal: AbortSignal, report: Report): Promise<void>;
  /**
   * Runs commands on the client, if it can send them now. An offline client would keep them, and might
   * send them when no caller waits for them any more. Replaces the client, if possible, if the signal
   * aborts, or if its server is no longer the primary.
   *
   * @param work gets the client, and its commands that read.
   */
  run<T>(signal: AbortSignal, work: (client: Client, reads: Reads) => Promise<T>): Promise<T>;
  close(): MaybePromise<void>;
}

/** A client as the stores see it: its flags, and the errors that they have seen. */
class Monitor {
  static readonly #all = new WeakMap<Client, Monitor>();

  /** The monitor of a client, one for all stores. Without its listener an error ends the process. */
  static of(client: Client): Monitor {
    let monitor = Monitor.#all.get(client);
    if (monitor === undefined) Monitor.#all.set(client, monitor = new Monitor(client));
    return monitor;
  }

  readonly #client: Client;
  /** How sessions are read. */
  reads: Reads;
  readonly reporters = new Set<Report>();
  /** The last error since the client was ready. */
  lastError: unknown;
  /** Whether a `connect` that a store has called is in progress. */
  #connecting = false;
  #leaving = false;

  private constructor(client: Client) {
    this.#client = client;
    this.reads = primaryReads(client);
    client.on("error", (error) => {
      // Later errors, until the client is ready again, only repeat that it is not.
      if (this.lastError === undefined) this.reporters.forEach((report) => report(error));
      this.lastError = error;
    });
  }

  get status(): "connecting" | "closed" | "offline" | "ready" {
    const { isOpen, isReady, masters } = this.#client;
    if (this.#connecting) return "connecting";
    if (!isOpen) return "closed";
    return isReady === false || masters?.length === 0 ? "offline" : "ready";
  }

  /** Called when a pool has a connection to a replica. */
  async leaveReplicas(): Promise<void> {
    if (this.#leaving) return;
    this.#leaving = true;
    this.reads = fencedReads(this.#client);
    await leaveReplicas(this.#client);
    this.#leaving = false;
  }

  /** Starts to connect. `ready` tells the result. */
  connect(): void {
    this.#connecting = true;
    this.#client.connect()
      .catch((error) => this.lastError ??= error)
      .finally(() => this.#connecting = false);
  }

  ready(): Client {
    const { status } = this;
    if (status === "closed") {
      throw new Error("the Redis client is closed", { cause: this.lastError });
    }
    if (status !== "ready") throw this.lastError ?? offline();
    this.lastError = undefined;
    return this.#client;
  }
}

function offline(cause?: unknown): Error {
  return new Error("The client is offline", cause === undefined ? undefined : { cause });
}

/** A client that was passed in. It stays open. */
export class ExistingClient implements ClientSource {
  readonly isCluster: boolean;
  readonly #client: Client;
  readonly #monitor: Monitor;
  readonly #wasOpen: boolean;
  #report: Report | undefined;

  constructor(client: Client) {
    this.#client = client;
    this.#monitor = Monitor.of(client);
    this.#wasOpen = client.isOpen;
    this.isCluster = client.masters !== undefined;
  }

  async open(_signal: AbortSignal, report: Report): Promise<void> {
    if (!this.#wasOpen) {
      await undefined; // the application may call `connect` in the same tick
      if (this.#monitor.status === "closed") this.#monitor.connect();
    }
    this.#monitor.ready();
    this.#report = report;
    this.#monitor.reporters.add(report);
  }

  async run<T>(
    signal: AbortSignal,
    work: (client: Client, reads: Reads) => Promise<T>,
  ): Promise<T> {
    try {
      const client = this.#monitor.ready();
      const batch = client.forBatch?.(signal);
      return await work(batch ?? client, batch ?? this.#monitor.reads);
    } catch (error) {
      // A single connection belongs to the application, which may wait for other answers on it.
      if (isReadOnly(error) && isPool(this.#client)) this.#monitor.leaveReplicas();
      throw explained(error, this.isCluster);
    }
  }

  close(): void {
    if (this.#report !== undefined) this.#monitor.reporters.delete(this.#report);
  }
}

/** Creates a client. Until `mayReconnect` returns true, the client must not reconnect by itself. */
export type CreateClient = (mayReconnect: () => boolean) => ManagedNodeRedis;

/** The store's own client, and its replacements. */
export class ManagedClient implements ClientSource {
  readonly isCluster = false;
  readonly #load: () => Promise<CreateClient>;
  #create: CreateClient | undefined;
  #client: ManagedNodeRedis | undefined;

  /** @param load imports the driver. */
  constructor(load: () => Promise<CreateClient>) {
    this.#load = load;
  }

  async open(signal: AbortSignal, report: Report): Promise<void> {
    if (this.#client !== undefined) return;
    this.#create ??= await this.#load();
    let opened = false;
    const client = this.#create(() => opened);
    const monitor = Monitor.of(client);
    signal.addEventListener("abort", () => discard(client));
    try {
      await client.connect();
      opened = true;
      monitor.ready(); // after an abort it may have connected nevertheless
    } catch (error) {
      discard(client);
      throw error;
    }
    monitor.reporters.add(report);
    this.#use(client);
  }

  /**
   * TCP needs up to 15 minutes to notice that a connection is dead, and while commands are sent, no
   * timeout of the socket passes. So a client that has not answered in time is replaced.
   */
  async run<T>(
    signal: AbortSignal,
    work: (client: Client, reads: Reads) => Promise<T>,
  ): Promise<T> {
    const client = this.#client!;
    setAbortHandler(signal, () => this.#replace(client));
    try {
      return await work(this.#ready(), client);
    } catch (error) {
      // The server may still answer reads, and keep the connection as long as the store uses it.
      if (isReadOnly(error)) this.#replace(client);
      throw explained(error, false);
    }
  }

  /** The client. Replaces a client that its `reconnectStrategy` has ended. */
  #ready(): Client {
    const monitor = Monitor.of(this.#client!);
    if (monitor.status !== "closed") return monitor.ready();
    const { lastError } = monitor;
    this.#replace(this.#client!);
    // Refusals by the server, for example of a wrong password, are permanent.
    const message = isError(lastError) ? lastError.message : "";
    throw /^(WRONGPASS|NOAUTH|NOPERM|ERR)\b/.test(message) ? lastError : offline(lastError);
  }

  close(): Promise<void> {
    return discard(this.#client);
  }

  #use(client: ManagedNodeRedis): void {
    this.#client = client;
    // After an invalid reply node-redis matches each later reply to the wrong command.
    client.on("error", (error) => {
      if (/RESP type/.test((error as Error).message)) this.#replace(client);
    });
  }

  /** Replaces the client, unless that has been done already. */
  #replace(client: ManagedNodeRedis): void {
    if (this.#client !== client) return;
    const next = this.#create!(() => true);
    const monitor = Monitor.of(next);
    Monitor.of(client).reporters.forEach((report) => monitor.reporters.add(report));
    this.#use(next);
    monitor.connect();
    discard(client);
  }
}

/** Closes a client immediately, in whatever state it is. */
async function discard(client: ManagedNodeRedis | undefined): Promise<void> {
  try {
    if (client?.destroy) client.destroy();
    else await client?.disconnect?.();
  } catch {
    // If nothing is open, node-redis 4 rejects and 5 throws.
  }
}

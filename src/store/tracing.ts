/**
 * What stores publish on channels of `node:diagnostics_channel`. `docs/observability.md` describes it.
 *
 * Nothing is made while nobody subscribes: callers ask `isTraced` first.
 *
 * @module
 */

import type { AsyncLocalStorage } from "node:async_hooks";
import type { TracingChannel } from "node:diagnostics_channel";
import type { Claim, Claimed, Codec, MaybePromise, Page } from "../backend.ts";
import { isPromise } from "../backend.ts";
import { StoreError } from "../errors.ts";
import { timedOut } from "./deadline.ts";

/** What the messages of operations and batches have in common. */
export interface TraceMessage {
  /** The database: a value of OpenTelemetry's `db.system.name`, such as `"postgresql"`. */
  readonly system: string;
  /** The table, collection or prefix. Empty for `Memory()`. */
  readonly place: string;
  /**
   * The code of the error if it has one, such as `"ECONNREFUSED"`, otherwise its name, such as
   * `"TimeoutError"`. Absent if there was no error. Errors themselves are not published because they may
   * contain keys and values.
   */
  error?: string;
}

/** The message of the tracing channel `telegraf-session:operation`: one call of a store. */
export interface OperationTrace extends TraceMessage {
  /** The method that was called. */
  readonly operation:
    | "get"
    | "set"
    | "delete"
    | "has"
    | "update"
    | "exclusive"
    | "move"
    | "size"
    | "clear"
    | "prune"
    | "rotate"
    | "health"
    | "ready"
    | "close";
  /**
   * The key of the session, of `move` the old one: the first 16 hexadecimal digits of its SHA-256, or the
   * key itself with the option `traceKeys`. `undefined` for methods without a key.
   */
  readonly key: string | undefined;
  /** How long `update`, `exclusive` or `move` waited for leases, in ms. Absent while it waits. */
  waited?: number;
}

/** The message of the tracing channel `telegraf-session:batch`: one batch on its way to the database. */
export interface BatchTrace extends TraceMessage {
  /** What the database does. `claim` and `settle` are about leases, `open` prepares the schema. */
  readonly operation:
    | "open"
    | "read"
    | "write"
    | "replace"
    | "renew"
    | "remove"
    | "page"
    | "prune"
    | "claim"
    | "settle";
  /** The number of keys. Of `page` and `prune` the number of keys found or deleted, 0 before the end. */
  keys: number;
  /** About how many bytes the values have, of `read` and `claim` at the end. Absent without values. */
  bytes?: number;
  /** How often the batch was repeated after a transient error. */
  retries: number;
  /** How long the first of its operations waited until the batch began, in ms. */
  readonly waited: number;
  /** Of `claim` the leases that others hold; of `settle` the leases that were lost. Set at the end. */
  refused?: number;
  /** The operations that wait for the batch, if their channel has subscribers. */
  readonly operations: readonly OperationTrace[];
}

/** A caller that waits for a batch. */
export interface Call {
  /** When it began to wait, in ms of the clock's `now()`. */
  readonly since: number;
  readonly operation: OperationTrace | undefined;
}

/** What is read or written in a batch: keys, or objects with values. */
export type Item = string | {
  readonly key?: string;
  readonly value?: unknown;
  readonly after?: unknown;
  readonly change?: { readonly value: unknown } | null | undefined;
  readonly entry?: { readonly value: unknown } | undefined;
};

/** The order of the two types depends on the version of @types/node, so both are the message. */
type Channel<Message extends object> = TracingChannel<Message, Message>;

// Not imported because the import would fail on a runtime without the module. `process` is not imported
// because that evaluates all exports of node:process.
// deno-lint-ignore no-process-global
const load = process.getBuiltinModule as typeof process.getBuiltinModule | undefined;
const tracingChannel = load?.("node:diagnostics_channel")?.tracingChannel;

function channel<Message extends object>(name: string): Channel<Message> | undefined {
  if (tracingChannel === undefined) return undefined;
  return tracingChannel<Message, Message>(`telegraf-session:${name}`);
}

/** The channel of operations; `undefined` if the runtime has none. */
export const operations: Channel<OperationTrace> | undefined = channel("operation");

/** The channel of batches; `undefined` if the runtime has none. */
export const batches: Channel<BatchTrace> | undefined = channel("batch");

/** Whether somebody subscribes. Asked each time because subscribers come and go. */
export function isTraced<Message extends object>(
  channel: Channel<Message> | undefined,
): channel is Channel<Message> {
  // Not `channel.hasSubscribers`, which Bun and early versions of Node.js 20 do not have.
  return channel !== undefined && (channel.start.hasSubscribers ||
    channel.asyncEnd.hasSubscribers || channel.error.hasSubscribers ||
    channel.end.hasSubscribers || channel.asyncStart.hasSubscribers);
}

/** A caller that waits for a batch, if batches are traced. */
export function newCall(since: number, operation: OperationTrace | undefined): Call | undefined {
  return isTraced(batches) ? { since, operation } : undefined;
}

/** The operation in which the caller runs. Made when the first operation is traced. */
let current: AsyncLocalStorage<OperationTrace> | undefined;

/** The operation in which the caller runs, if it is traced. */
export function currentOperation(): OperationTrace | undefined {
  return current?.getStore();
}

/** Publishes an operation while it runs. The channel has subscribers. */
export function traceOperation<T>(
  message: OperationTrace,
  work: () => Promise<T>,
): Promise<T> {
  current ??= new (load!("node:async_hooks").AsyncLocalStorage)<OperationTrace>();
  const traced = () => publish(operations!, message, work, () => {});
  return current.run(message, traced) as Promise<T>;
}

/** The message of an operation. Its key is hashed when somebody reads it. */
export function operationTrace(
  database: { readonly system: string; readonly place: string; readonly showsKeys: boolean },
  operation: OperationTrace["operation"],
  key: string | undefined,
): OperationTrace {
  const { system, place, showsKeys } = database;
  let shown = showsKeys ? key : undefined;
  return {
    system,
    place,
    operation,
    get key() {
      return key === undefined ? undefined : shown ??= pseudonym(key);
    },
  };
}

function pseudonym(key: string): string {
  return load!("node:crypto").createHash("sha256").update(String(key)).digest("hex").slice(0, 16);
}

/**
 * Publishes a batch while it runs. The channel has subscribers.
 *
 * @param now in ms of the clock's `now()`.
 * @param signal aborts when nobody waits for the batch any more: then it ends in traces, too.
 */
export function traceBatch<T>(
  database: {
    readonly system: string;
    readonly place: string;
    readonly codec: Pick<Codec<unknown>, "size">;
  },
  operation: BatchTrace["operation"],
  items: readonly Item[],
  calls: readonly Call[],
  now: number,
  signal: AbortSignal,
  work: (message: BatchTrace) => MaybePromise<T>,
): MaybePromise<T> {
  const { system, place, codec } = database;
  const waiting = new Set(calls.map((call) => call.operation));
  waiting.delete(undefined);
  const bytesOf = (items: readonly Item[]) => {
    const values = items.map(valueIn).filter((value) => value !== undefined);
    const bytes = values.reduce((sum: number, value) => sum + codec.size(value), 0);
    return values.length > 0 && { bytes: Math.round(bytes) };
  };
  const message: BatchTrace = {
    system,
    place,
    operation,
    keys: items.length,
    ...bytesOf(items),
    retries: 0,
    waited: calls.reduce((most, { since }) => Math.max(most, now - since), 0),
    operations: [...waiting] as OperationTrace[],
  };
  const finish = (result: T) => {
    if (operation === "page") message.keys = (result as Page).entries.length;
    if (operation === "prune") message.keys = result as number;
    if (operation === "read" || operation === "claim") {
      Object.assign(message, bytesOf(result as Item[]));
    }
    if (operation === "settle") message.refused = (result as unknown[]).length;
    if (operation === "claim") {
      const tokens = new Set((items as Claim[]).map(({ token }) => token));
      message.refused = (result as Claimed<unknown>[])
        .filter(({ token }) => !tokens.has(token)).length;
    }
  };
  return publish(batches!, message, () => work(message), finish, signal);
}

/** The stored value in an item, if it has one. */
function valueIn(item: Item): unknown {
  if (typeof item === "string") return undefined;
  return (item.change ?? item.entry ?? item).value ?? item.after;
}

/**
 * Publishes work as Node's `tracePromise` does, without its result, which would be a session. `asyncStart`
 * and `asyncEnd` follow also if the work is synchronous.
 */
function publish<Message extends TraceMessage, T>(
  channel: Channel<Message>,
  message: Message,
  work: () => MaybePromise<T>,
  finish: (result: T) => void,
  signal?: AbortSignal,
): MaybePromise<T> {
  let ended = false;
  const end = () => {
    if (ended) return;
    ended = true;
    signal?.removeEventListener("abort", abandoned);
    if (message.error !== undefined) channel.error.publish(message);
    channel.asyncStart.publish(message);
    channel.asyncEnd.publish(message);
  };
  const succeeded = (result: T) => {
    if (!ended) finish(result);
    end();
    return result;
  };
  const failed = (error: unknown): never => {
    if (!ended) message.error = typeOf(error);
    end();
    throw error;
  };
  const abandoned = () => {
    message.error = typeOf(timedOut);
    end();
  };
  signal?.addEventListener("abort", abandoned);
  return channel.start.runStores(message, () => {
    try {
      let result: MaybePromise<T>;
      try {
        result = work();
      } catch (error) {
        return failed(error);
      }
      return isPromise(result) ? result.then(succeeded, failed) : succeeded(result);
    } finally {
      channel.end.publish(message);
    }
  });
}

/** The code or the name of an error. */
function typeOf(error: unknown): string {
  if (error === timedOut) return "TimeoutError";
  const { name, code, cause } = Object(error);
  if (error instanceof StoreError && name === "StoreError" && cause !== undefined) {
    return typeOf(cause);
  }
  return String(typeof code === "string" || typeof code === "number" ? code : name ?? "Error");
}

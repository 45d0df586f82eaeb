/**
 * The commands on sessions, the same for all kinds of clients.
 *
 * @module
 */

import type { Entry, Page, Replacement } from "../backend.ts";
import { isError } from "../errors.ts";
import type { Client, ClientSource } from "./client.ts";
import { explainSize } from "./errors.ts";
import { keyPrefixOf, type Reads } from "./primary.ts";
import { Script } from "./script.ts";

/** Its key is the session; its arguments are the value that was read, and the new one. */
const replace = new Script(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end
return {}`);

/** Reads and writes the sessions under a prefix. */
export class Commands {
  readonly #source: ClientSource;
  readonly #prefix: string;
  /** Whether to read when sessions expire. */
  expiring = false;

  constructor(source: ClientSource, prefix: string) {
    this.#source = source;
    this.#prefix = prefix;
  }

  read(
    keys: string[],
    signal: AbortSignal,
    expiring: boolean = this.expiring,
  ): Promise<Entry<string>[]> {
    const names = keys.map((key) => this.#name(key));
    return this.#source.run(signal, async (client, reads) => {
      // The usual read of one update, without the promises of the others.
      if (names.length === 1 && !expiring) {
        return entriesOf(keys, [refuseQueued(await reads.get(names[0]!))], []);
      }
      const getValues = () => this.#values(names, reads);
      const getExpiries = () => expiring ? expiriesOf(names, reads) : [];
      // Several connections could answer in another order.
      const [values, expiries] = client.forBatch
        ? await Promise.all([getValues(), getExpiries()])
        : [await getValues(), await getExpiries()];
      return entriesOf(keys, values, expiries);
    });
  }

  write(entries: Entry<string>[], signal: AbortSignal): Promise<void> {
    return this.#source.run(signal, async (client) => {
      const set = ({ key, value, expires }: Entry<string>) =>
        expires === undefined
          ? client.set(this.#name(key), value)
          : client.set(this.#name(key), value, { PX: relativeExpiry(expires) });
      if (entries.length === 1) {
        refuseQueued(await set(entries[0]!).catch(explainSize(entries[0]!.key)));
      } else if (
        this.#source.isCluster || entries.some(({ expires }) => expires !== undefined)
      ) {
        await settleAll(entries.map(set));
      } else {
        const pairs = entries.flatMap(({ key, value }) => [this.#name(key), value]);
        refuseQueued(await client.mSet(pairs));
      }
    });
  }

  replace(replacements: Replacement<string>[], signal: AbortSignal): Promise<void> {
    return this.#source.run(signal, async (client) => {
      if (!client.eval || !client.evalSha) {
        throw new TypeError("to replace sessions the store needs eval and evalSha of the client");
      }
      await settleAll(
        replacements.map(({ key, before, after }) =>
          replace.run(client, [this.#name(key)], [before, after]).catch(explainSize(key))
        ),
      );
    });
  }

  renew(keys: string[], expires: number, signal: AbortSignal): Promise<void> {
    return this.#source.run(signal, async (client) => {
      await settleAll(keys.map((key) => client.pExpire(this.#name(key), relativeExpiry(expires))));
    });
  }

  remove(keys: string[], signal: AbortSignal): Promise<void> {
    const names = keys.map((key) => this.#name(key));
    return this.#source.run(signal, async (client) => {
      await settleAll((this.#source.isCluster ? names : [names]).map((name) => client.del(name)));
    });
  }

  async page(
    start: string | undefined,
    size: number,
    signal: AbortSignal,
    prefix?: string,
  ): Promise<Page> {
    const { keys, next } = await this.scan(start, size, signal, prefix);
    const sessions = keys.filter((key) => key !== "" && !key.startsWith(mark));
    return { entries: sessions.map((key) => ({ key })), next };
  }

  /**
   * A page of keys without the store's prefix, those of leases and notes among them. The cursor is the
   * number of a node, and the cursor of its `SCAN`.
   *
   * @param beginning what the keys begin with.
   */
  scan(
    start = "0 0",
    size: number,
    signal: AbortSignal,
    beginning = "",
  ): Promise<{ keys: string[]; next: string | undefined }> {
    const [number, cursor] = start.split(" ") as [string, string];
    const node = Number(number);
    return this.#source.run(signal, async (client, reads) => {
      const { masters } = client;
      const prefix = keyPrefixOf(client) + this.#prefix;
      const server = masters === undefined
        ? reads.scan ? reads : client
        : await client.nodeClient!(masters[node] as never) as Client;
      const pattern = `${(prefix + beginning).replace(/[*?[\]\\]/g, "\\$&")}*`;
      // COUNT is about all keys, and few of them begin like this.
      const COUNT = beginning === "" ? size : 8 * size;
      const reply = await server.scan!(cursor as never, { MATCH: pattern, COUNT });
      const found = reply as { cursor: unknown; keys: unknown[] };
      const next = String(found.cursor) !== "0"
        ? `${node} ${found.cursor}`
        : node + 1 < (masters?.length ?? 1)
        ? `${node + 1} 0`
        : undefined;
      return { keys: found.keys.map((key) => String(key).slice(prefix.length)), next };
    });
  }

  /** The name of a key in Redis. */
  #name(key: string): string {
    return this.#prefix + key;
  }

  async #values(names: string[], reads: Reads): Promise<unknown[]> {
    if (names.length === 1 || this.#source.isCluster) {
      return settleAll(names.map((name) => reads.get(name)));
    }
    return refuseQueued(await reads.mGet(names)) as unknown[];
  }
}

/** The entries that exist. */
function entriesOf(
  keys: string[],
  values: unknown[],
  expiries: (number | undefined)[],
): Entry<string>[] {
  const entries: Entry<string>[] = [];
  for (let i = 0; i < keys.length; i++) {
    const value = values[i];
    if (value === null || value === undefined) continue;
    // The proxy Envoy reads the values from several servers, and one of them may have failed.
    if (isError(value)) throw value;
    entries.push({ key: keys[i]!, value: String(value), expires: expiries[i] });
  }
  return entries;
}

/** When names expire, in ms since the epoch; `undefined` for never. */
async function expiriesOf(names: string[], reads: Reads): Promise<(number | undefined)[]> {
  return (await settleAll(names.map((name) => reads.pTTL(name)))).map(absoluteExpiry);
}

/**
 * When an entry expires, in ms since the epoch, by the reply of `PTTL`; `undefined` for never. It must not
 * be earlier than in Redis: a session that was missing would be there again. Redis keeps a name to the end
 * of its last ms, so its `PTTL` can be 0.
 */
export function absoluteExpiry(remaining: unknown): number | undefined {
  const ms = Number(remaining);
  return ms < 0 ? undefined : Date.now() + ms + 1;
}

/**
 * The time until an entry expires, in ms. Redis refuses 0. It is relative because the clock of Redis may
 * differ.
 */
export function relativeExpiry(expires: number): number {
  return Math.max(1, expires - Date.now());
}

/** Marks names that are no sessions, after the prefix. No key of a session has NUL. */
export const mark = "\0";

/**
 * The results. After an error waits until no command is in progress any more, and then throws it: a retry
 * must not be overtaken by a command that was sent before.
 */
export async function settleAll(commands: Promise<unknown>[]): Promise<unknown[]> {
  if (commands.length === 1) return [refuseQueued(await commands[0])];
  const results = await Promise.allSettled(commands);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return refuseQueued(result.value);
  });
}

/**
 * Returns the reply of a command.
 *
 * @throws {Error} if the reply is "QUEUED": while the application has a `MULTI` open on the client, the
 * server only queues commands, and the application may discard them. No session is stored as this text.
 */
function refuseQueued<T>(reply: T): T {
  // An array is not converted to text because that would join its values.
  if (Array.isArray(reply) || String(reply) !== "QUEUED") return reply;
  throw new Error("The application has a transaction open on the client");
}

/**
 * The commands on sessions, the same for all kinds of clients.
 *
 * @module
 */

import type { Entry, Page } from "../backend.ts";
import { isError } from "../errors.ts";
import type { Client } from "./client.ts";

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

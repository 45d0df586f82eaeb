/**
 * Leases in Redis. Each lease is a key of its own, in the same slot as its session, with the end of the
 * lease in ms and the token as its value: "1700000000000 token", or "0 token" after a release.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type { Claim, Claimed, Entry, LeasePage, Leases, Refusal, Settlement } from "../backend.ts";
import { isError } from "../errors.ts";
import type { Client, ClientSource } from "./client.ts";
import { type Commands, isLease, leaseMark, relativeExpiry, settleAll } from "./commands.ts";

/** `sendCommand` of a cluster of node-redis. */
type SendCommand = (key: string, isReadonly: boolean, command: string[]) => Promise<unknown>;

/** A Lua script. It is sent as its hash if the server knows it. */
class Script {
  readonly #text: string;
  #hash: string | undefined;

  constructor(text: string) {
    this.#text = text;
  }

  async run(client: Client, keys: string[], args: string[] = []): Promise<unknown[]> {
    this.#hash ??= createHash("sha1").update(this.#text).digest("hex");
    const send = (command: "EVALSHA" | "EVAL", script: string) => {
      const options = { keys, arguments: args };
      // The masters of ioredis are searched for each time, and it has no `sendCommand` here.
      if (client.sendCommand && client.masters !== undefined) {
        // The cluster client of node-redis 4 sends scripts to a random node.
        const words = [command, script, `${keys.length}`, ...keys, ...args];
        const sendCommand = client.sendCommand as SendCommand;
        return sendCommand.call(client, keys[0]!, false, words);
      }
      return command === "EVALSHA"
        ? client.evalSha!(script, options)
        : client.eval!(script, options);
    };
    try {
      return await send("EVALSHA", this.#hash) as unknown[];
    } catch (error) {
      if (!isError(error) || !error.message.startsWith("NOSCRIPT")) throw error;
      return await send("EVAL", this.#text) as unknown[];
    }
  }
}

/** The server's time, and what is known about the lease. */
const begin = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends, token = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (.*)$')
local function hold(length, kept)
  local value = length > 0 and string.format('%.0f', now + length) or '0'
  redis.call('SET', KEYS[1], value .. ' ' .. ARGV[1], 'PX', kept)
end`;

/**
 * Its keys are the lease and the session; its arguments are token and length. The key lives longer than
 * the lease, so that a holder may still settle if nobody has taken the lease.
 */
const claim = new Script(`${begin}
if token and token ~= ARGV[1] and tonumber(ends) > now then return {token} end
hold(tonumber(ARGV[2]), ARGV[2] * 20)
return {ARGV[1], redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}`);

/**
 * Its keys are the lease and the session; its arguments are token, length, "set", "del" or "leave", the
 * session, and how long it lives or 0. The token stays for 10 s after a release, so that the settlement
 * can be repeated. Returns the current token after a refusal.
 */
const settle = new Script(`${begin}
local length, change = tonumber(ARGV[2]), ARGV[3]
if not token and length == 0 and change ~= 'set' and redis.call('EXISTS', KEYS[2]) == 0 then
  return {1}
end
if token ~= ARGV[1] then return {0, token or false} end
if change == 'del' then redis.call('DEL', KEYS[2])
elseif change == 'set' and ARGV[5] ~= '0' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
elseif change == 'set' then redis.call('SET', KEYS[2], ARGV[4]) end
hold(length, length > 0 and length * 20 or 10000)
return {1}`);

/** Its key is the lease. Returns the token and the remaining ms, if the lease is held. */
const look = new Script(`${begin}
if not token or tonumber(ends) <= now then return {} end
return {token, string.format('%.0f', ends - now)}`);

/** The tag in a name: in a cluster only it decides about the slot. */
const tag = /^[^{]*\{([^}]+)\}/;

/**
 * The name of a lease. It begins with the prefix, so that the rights of a user apply to it.
 *
 * @throws {RangeError} if it would be in another slot of a cluster than its session.
 */
function nameOf(prefix: string, key: string, client: Client, isCluster: boolean): string {
  const session = (client.keyPrefix ?? "") + prefix + key;
  if (tag.test(session)) return `${prefix}${leaseMark} ${key}`;
  if (isCluster && /[{}]/.test(session)) {
    throw new RangeError(
      "in a cluster, a key with a brace but without a hash tag cannot have a lease",
    );
  }
  return `${prefix}${leaseMark}{${session}}`;
}

/** The session key of a lease that a scan has found. */
function keyOf(prefix: string, found: string, client: Client): string {
  const rest = found.slice(leaseMark.length);
  const session = (client.keyPrefix ?? "") + prefix;
  return rest.startsWith(" ") ? rest.slice(1) : rest.slice(1 + session.length, -1);
}

/** Claims and settles leases on the sessions under a prefix. */
export class RedisLeases implements Leases<string> {
  readonly #source: ClientSource;
  readonly #commands: Commands;
  readonly #prefix: string;
  readonly #settled = new WeakSet<Settlement<string>>();

  constructor(source: ClientSource, commands: Commands, prefix: string) {
    this.#source = source;
    this.#commands = commands;
    this.#prefix = prefix;
  }

  async claim(claims: Claim[], signal: AbortSignal): Promise<Claimed<string>[]> {
    const client = this.#client(signal);
    const now = Date.now();
    const replies = await settleAll(
      claims.map(({ key, token, length }) =>
        claim.run(client, this.#names(client, key), [token, `${length}`])
      ),
    );
    return claims.map(({ key }, i) => {
      const [token, value, left] = replies[i] as unknown[];
      const expires = Number(left) < 0 ? undefined : now + Number(left);
      const entry: Entry<string> | undefined = value == null
        ? undefined
        : { key, value: String(value), expires: this.#commands.expiring ? expires : undefined };
      return { key, token: String(token), entry };
    });
  }

  async settle(settlements: Settlement<string>[], signal: AbortSignal): Promise<Refusal[]> {
    const client = this.#client(signal);
    const replies = await settleAll(settlements.map(async (settlement) => {
      const { key, token, length, change } = settlement;
      // A repetition after another one has failed. Its lease may have gone on to others meanwhile.
      if (this.#settled.has(settlement)) return [1];
      const kind = change ? "set" : change === null ? "del" : "leave";
      const args = [
        token,
        `${length}`,
        kind,
        change?.value ?? "",
        `${change?.expires === undefined ? 0 : relativeExpiry(change.expires)}`,
      ];
      const reply = await settle.run(client, this.#names(client, key), args);
      if (Number(reply[0]) === 1) this.#settled.add(settlement);
      return reply;
    }));
    return settlements.flatMap(({ key }, i) => {
      const [done, holder] = replies[i] as unknown[];
      return Number(done) === 1 ? [] : { key, token: holder == null ? undefined : String(holder) };
    });
  }

  async held(start: string | undefined, size: number, signal: AbortSignal): Promise<LeasePage> {
    const { keys, next } = await this.#commands.scan(start, size, signal);
    const client = this.#source.ready();
    const found = keys.filter(isLease);
    const replies = await settleAll(found.map((key) => look.run(client, [this.#prefix + key])));
    const leases = found.flatMap((key, i) => {
      const [token, left] = replies[i] as unknown[];
      if (token === undefined) return [];
      return { key: keyOf(this.#prefix, key, client), token: String(token), left: Number(left) };
    });
    return { leases, next };
  }

  #client(signal: AbortSignal): Client {
    this.#source.replaceOnAbort(signal);
    return this.#source.ready();
  }

  /** The names of the lease and of the session. */
  #names(client: Client, key: string): string[] {
    return [nameOf(this.#prefix, key, client, this.#source.isCluster), this.#prefix + key];
  }
}

/**
 * Leases in Redis. Each lease is a key of its own, in the same slot as its session. Its value is the
 * token, and its expiry tells the end of the lease. In each script the session comes first, because a
 * proxy sends the script to the server of the first key.
 *
 * @module
 */

import type {
  Claim,
  Claimed,
  Entry,
  Held,
  LeasePage,
  Leases,
  Refusal,
  Settlement,
} from "../backend.ts";
import type { Client, ClientSource } from "./client.ts";
import { absoluteExpiry, type Commands, mark, relativeExpiry, settleAll } from "./commands.ts";
import { explainSize } from "./errors.ts";
import { keyPrefixOf } from "./primary.ts";
import { Script } from "./script.ts";

/**
 * How long the key of a lease outlives the lease, in ms: a holder that is late may still settle if nobody
 * has taken the lease. So a lease is free if its key lives no longer than this.
 */
const grace = 300_000;

/** How long the token stays after a release, in ms, so that the settlement can be repeated. */
const afterRelease = 10_000;

/** How long a note is kept, in ms. */
const noteLife = 86_400_000;

/**
 * Its keys are the session, the lease, and the note if it is asked for; its arguments are token, length,
 * and 1 to read the expiry.
 */
const claim = new Script(`
local token = redis.call('GET', KEYS[2])
if token and token ~= ARGV[1] and redis.call('PTTL', KEYS[2]) > ${grace} then return {token} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2] + ${grace})
return {
  ARGV[1], redis.call('GET', KEYS[1]), ARGV[3] == '1' and redis.call('PTTL', KEYS[1]),
  KEYS[3] and redis.call('GET', KEYS[3])
}`);

/**
 * Its keys are the session, the lease, and the note if there is a new one; its arguments are token, length,
 * "set", "del" or "leave", the session, how long it lives or 0, and the note. Returns the current token
 * after a refusal.
 */
const settle = new Script(`
local token, length, change = redis.call('GET', KEYS[2]), tonumber(ARGV[2]), ARGV[3]
if not token and length == 0 and change ~= 'set' and redis.call('EXISTS', KEYS[1]) == 0 then
  return {1}
end
if token ~= ARGV[1] then return {0, token} end
if change == 'del' then redis.call('DEL', KEYS[1])
elseif change == 'set' and ARGV[5] ~= '0' then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
elseif change == 'set' then redis.call('SET', KEYS[1], ARGV[4]) end
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[6], 'PX', ${noteLife}) end
redis.call('PEXPIRE', KEYS[2], length > 0 and length + ${grace} or ${afterRelease})
return {1}`);

/** Returns the token and the remaining ms of the lease `key`, if it is held. */
const returnHeld = `
local left = redis.call('PTTL', key) - ${grace}
return left > 0 and {redis.call('GET', key), left} or {}`;

/** Its key is the lease. */
const look = new Script(`local key = KEYS[1] ${returnHeld}`);

/**
 * Its keys are the session, the lease, and a name that does not exist. A replica, which may be behind,
 * refuses to delete that.
 */
const find = new Script(`local key = KEYS[2] redis.call('DEL', KEYS[3]) ${returnHeld}`);

/** The part of a name that decides about its slot in a cluster: its hash tag, or all of it. */
function slotted(name: string): string {
  return /^[^{]*\{([^}]+)\}/.exec(name)?.[1] ?? name;
}

/** Marks the name of a lease, after the prefix. */
const leaseMark = `${mark}lease`;

/** What belongs to a session. Nothing is ever stored as "none". */
type Kind = "lease" | "note" | "none";

/**
 * The name of what belongs to a session. It begins with the prefix, so that the rights of a user apply to it.
 *
 * @throws {RangeError} if it would be in another slot of a cluster than its session.
 */
function nameOf(
  kind: Kind,
  prefix: string,
  key: string,
  client: Client,
  isCluster: boolean,
): string {
  const keyPrefix = keyPrefixOf(client);
  const session = keyPrefix + prefix + key;
  const isTagged = slotted(session) !== session;
  const name = `${prefix}${mark}${kind}${isTagged ? ` ${key}` : `{${session}}`}`;
  if (isCluster && slotted(keyPrefix + name) !== slotted(session)) {
    throw new RangeError("in a cluster, the braces in this key or its prefix do not allow a lease");
  }
  return name;
}

/** The session key of a lease that a scan has found. */
function keyOf(prefix: string, found: string, client: Client): string {
  const rest = found.slice(leaseMark.length);
  const session = keyPrefixOf(client) + prefix;
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
    const expiring = this.#commands.expiring ? "1" : "0";
    const replies = await this.#source.run(signal, (client) =>
      settleAll(
        claims.map(({ key, token, length, noted }) =>
          claim.run(client, this.#names(client, key, noted && "note"), [
            token,
            `${length}`,
            expiring,
          ])
        ),
      ));
    return claims.map(({ key }, i) => {
      const [token, value, left, note] = replies[i] as unknown[];
      const expires = left == null ? undefined : absoluteExpiry(left);
      const entry: Entry<string> | undefined = value == null
        ? undefined
        : { key, value: String(value), expires };
      return { key, token: String(token), entry, note: note == null ? undefined : String(note) };
    });
  }

  async settle(settlements: Settlement<string>[], signal: AbortSignal): Promise<Refusal[]> {
    const replies = await this.#source.run(
      signal,
      (client) =>
        settleAll(settlements.map(async (settlement) => {
          const { key, token, length, change, note } = settlement;
          // A repetition after another one has failed. Its lease may have gone on to others meanwhile.
          if (this.#settled.has(settlement)) return [1];
          const kind = change ? "set" : change === null ? "del" : "leave";
          const args = [
            token,
            `${length}`,
            kind,
            change?.value ?? "",
            `${change?.expires === undefined ? 0 : relativeExpiry(change.expires)}`,
            note ?? "",
          ];
          const names = this.#names(client, key, note !== undefined && "note");
          const reply = await settle.run(client, names, args).catch(explainSize(key));
          if (Number(reply[0]) === 1) this.#settled.add(settlement);
          return reply;
        })),
    );
    return settlements.flatMap(({ key }, i) => {
      const [done, holder] = replies[i] as unknown[];
      return Number(done) === 1 ? [] : { key, token: holder == null ? undefined : String(holder) };
    });
  }

  async held(start: string | undefined, size: number, signal: AbortSignal): Promise<LeasePage> {
    const { keys, next } = await this.#commands.scan(start, size, signal);
    const found = keys.filter((key) => key.startsWith(leaseMark));
    return await this.#source.run(signal, async (client) => {
      const replies = await settleAll(found.map((key) => look.run(client, [this.#prefix + key])));
      const leases = found.flatMap((key, i) => {
        const [token, left] = replies[i] as unknown[];
        if (token === undefined) return [];
        return { key: keyOf(this.#prefix, key, client), token: String(token), left: Number(left) };
      });
      return { leases, next };
    });
  }

  async find(keys: string[], signal: AbortSignal): Promise<Held[]> {
    const replies = await this.#source.run(
      signal,
      (client) => settleAll(keys.map((key) => find.run(client, this.#names(client, key, "none")))),
    );
    return keys.flatMap((key, i) => {
      const [token, left] = replies[i] as unknown[];
      return token === undefined ? [] : { key, token: String(token), left: Number(left) };
    });
  }

  /** The names of the session, of the lease, and of something else. */
  #names(client: Client, key: string, other?: Kind | false): string[] {
    const kinds: Kind[] = other ? ["lease", other] : ["lease"];
    const { isCluster } = this.#source;
    const names = kinds.map((kind) => nameOf(kind, this.#prefix, key, client, isCluster));
    return [this.#prefix + key, ...names];
  }
}

/**
 * Leases in Deno KV. Each lease has a value of its own beside its session: JSON with the token, the end of
 * the lease in ms since the epoch, or 0 if it was released, and what holders have noted. The database has no
 * clock, so time is that of the process.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Claim, Claimed, Held, LeasePage, Leases, Refusal, Settlement } from "../backend.ts";
import type { Commands } from "./commands.ts";
import type { Database, Key, KvEntry } from "./driver.ts";
import { leaseKey, load, put, sessionKey } from "./records.ts";
import { inGroups, transact, type Transaction } from "./transaction.ts";

interface Lease {
  readonly token: string;
  readonly until: number;
  readonly note?: string | undefined;
}

/**
 * How long the token outlives the lease, in ms: a holder that is late may still settle if nobody has taken
 * the lease, and a settlement can be repeated.
 */
const grace = 300_000;

/** How long a note is kept after the last claim or settlement, in ms. */
const noteLife = 86_400_000;

/** Claims and settles leases on the sessions under a prefix. */
export class DenoKVLeases implements Leases<string> {
  readonly #database: Database;
  readonly #commands: Commands;
  readonly #prefix: string;
  readonly #settled = new WeakSet<Settlement<string>>();

  constructor(database: Database, commands: Commands, prefix: string) {
    this.#database = database;
    this.#commands = commands;
    this.#prefix = prefix;
  }

  claim(claims: Claim[], signal: AbortSignal): Promise<Claimed<string>[]> {
    return this.#database.change(signal, (kv) =>
      transact(kv, claims, signal, {
        keys: (claim) => this.#keys(claim),
        run: async (claim, [lease, head], transaction): Promise<Claimed<string>> => {
          const { key, token, noted } = claim;
          const held = parse(lease!);
          if (held !== undefined && held.token !== token && held.until > Date.now()) {
            return { key, token: held.token };
          }
          const stored = await load(kv, this.#prefix, key, head!);
          transaction.check(sessionKey(this.#prefix, key), (stored?.head ?? head!).versionstamp);
          this.#set(transaction, claim, lease!, held?.note);
          return { key, token, entry: stored?.entry, note: noted ? held?.note : undefined };
        },
      }));
  }

  async settle(settlements: Settlement<string>[], signal: AbortSignal): Promise<Refusal[]> {
    // After an error the others are settled again. The leases of these may have gone on to others meanwhile.
    const open = settlements.filter((it) => !this.#settled.has(it));
    const refusals = await this.#database.change(signal, (kv) =>
      transact(kv, open, signal, {
        keys: (settlement) => this.#keys(settlement),
        run: (settlement, [lease, head], transaction): Refusal | undefined => {
          const { key, token, length, change, absent } = settlement;
          const held = parse(lease!);
          const isMissing = head!.versionstamp === null;
          if (held?.token !== token) {
            const nothing = !change && length === 0 && held === undefined && isMissing;
            return nothing ? undefined : { key, token: held?.token };
          }
          const note = settlement.note ?? held.note;
          if (change !== undefined) put(transaction, this.#prefix, key, head!, change);
          const isUseless = length === 0 && note === undefined &&
            (change === null || absent && change === undefined && isMissing);
          if (!isUseless) return void this.#set(transaction, settlement, lease!, note);
          transaction.check(leaseKey(this.#prefix, key), lease!.versionstamp);
          transaction.delete(leaseKey(this.#prefix, key));
        },
        done: (settlement, refusal) => {
          if (refusal === undefined) this.#settled.add(settlement);
        },
      }));
    return refusals.filter((it) => it !== undefined);
  }

  async held(start: string | undefined, size: number): Promise<LeasePage> {
    const found = await this.#commands.list("lease", start, size);
    const leases = found.flatMap(heldLease);
    return { leases, next: found.length < size ? undefined : keyOf(found.at(-1)!) };
  }

  find(keys: string[]): Promise<Held[]> {
    return inGroups(keys, async (group) => {
      const found = await this.#database.kv.getMany(
        group.map((key) => leaseKey(this.#prefix, key)),
      );
      return found.flatMap(heldLease);
    });
  }

  #keys({ key }: Claim): Key[] {
    return [leaseKey(this.#prefix, key), sessionKey(this.#prefix, key)];
  }

  /** Adds to a transaction that the lease is held for its length, or released. */
  #set(transaction: Transaction, claim: Claim, before: KvEntry, note: string | undefined): void {
    const { key, token, length } = claim;
    const now = Date.now();
    const lease: Lease = { token, until: length > 0 ? now + length : 0, note };
    const life = Math.max(length + grace, note === undefined ? 0 : noteLife);
    transaction.check(leaseKey(this.#prefix, key), before.versionstamp);
    transaction.set(leaseKey(this.#prefix, key), Buffer.from(JSON.stringify(lease)), now + life);
  }
}

function parse({ value }: KvEntry): Lease | undefined {
  return value === null ? undefined : JSON.parse(Buffer.from(value as Uint8Array).toString());
}

/** The lease in an entry of the database, if it is held. */
function heldLease(entry: KvEntry): Held[] {
  const { token = "", until = 0 } = parse(entry) ?? {};
  const left = until - Date.now();
  return left > 0 ? [{ key: keyOf(entry), token, left }] : [];
}

/** The session key of a lease. */
function keyOf({ key }: KvEntry): string {
  return String(key[2]);
}

/**
 * Leases in the session's own document: `lease` has the token of the last holder, and `until` the end of
 * the lease, or 1970 if it was released. A document without `session` only holds a lease.
 *
 * @module
 */

import type { Claim, Claimed, Held, LeasePage, Leases, Refusal, Settlement } from "../backend.ts";
import type { Collection, Document } from "./client.ts";
import type { Commands } from "./commands.ts";
import { isDuplicate, isRefusal } from "./errors.ts";

const projection = { _id: 0, key: 1, session: 1, expires: 1, lease: 1, until: 1 };

/** A claim need not be durable: if a failover loses it, the settlement is refused. */
const writeConcern = { w: 1, j: false };

/**
 * How long a document without a session, or with one that is about to expire, outlives its lease, in ms:
 * the server deletes documents that have expired, also while they are leased.
 */
const margin = 60_000;

const released = new Date(0);

/** The filter for the session of a holder. */
function owned({ key, token }: Claim): object {
  return { key, lease: token };
}

/** Claims and settles leases on the sessions of a collection. */
export class MongoLeases implements Leases<unknown> {
  readonly #commands: Commands;
  /** Whether the server can compute with its own clock. FerretDB 1 cannot. */
  #serverClock = false;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /** Finds out what the server can do. */
  async open(): Promise<void> {
    this.#serverClock = await this.#commands.run(async (collection) => {
      try {
        await collection.updateOne({ key: "" }, [{ $set: { until: "$$NOW" } }]);
        return true;
      } catch (error) {
        if (!isRefusal(error)) throw error;
        return false;
      }
    });
  }

  async claim(claims: Claim[], signal: AbortSignal): Promise<Claimed<unknown>[]> {
    const [first] = claims as [Claim];
    const documents = claims.length === 1
      ? [await this.#claimOne(first, signal) ?? await this.#find(claims, signal)].flat()
      : await this.#claimAll(claims, signal);
    const found = new Map(documents.map((document) => [document.key, document]));
    return claims.map(({ key, token }) => {
      const { lease = "", session, expires } = found.get(key) ?? {};
      const granted = lease === token && session !== undefined;
      const entry = granted ? { key, value: session, expires: expires?.getTime() } : undefined;
      return { key, token: lease, entry };
    });
  }

  async settle(settlements: Settlement<unknown>[], signal: AbortSignal): Promise<Refusal[]> {
    const removals = settlements.filter(({ length, change, absent }) =>
      length === 0 && (change === null || absent && change === undefined)
    );
    const filters = removals.map((it) =>
      it.change === null ? owned(it) : { ...owned(it), session: { $exists: false } }
    );
    const removed = await this.#removed(filters, signal) === removals.length;
    const changes = settlements.filter((it) =>
      !removals.includes(it) || !removed && it.change === undefined
    );
    const changed = await this.#changed(changes, signal) === changes.length;
    const open = settlements.filter((it) => removals.includes(it) ? !removed : !changed);
    if (open.length === 0) return [];
    // A token that is still there was there during the change, because a lost token does not come back.
    const found = new Map((await this.#find(open, signal)).map((it) => [it.key, it]));
    return open.flatMap(({ key, token, length, change }) => {
      const document = found.get(key);
      const nothing = document === undefined && length === 0 && !change;
      return nothing || document?.lease === token ? [] : { key, token: document?.lease };
    });
  }

  async held(start = "", size: number, signal: AbortSignal): Promise<LeasePage> {
    const now = Date.now();
    const found = await this.#commands.run((collection) =>
      collection.find({ key: { $gt: start }, until: { $gt: new Date(now) } }, {
        projection,
        sort: { key: 1 },
        limit: size,
        signal,
      }).toArray()
    );
    const leases = found.map(({ key, lease, until }): Held => (
      { key, token: lease!, left: until!.getTime() - now }
    ));
    return { leases, next: found.length < size ? undefined : leases.at(-1)!.key };
  }

  /** Returns `undefined` if another holder has the lease. */
  async #claimOne(claim: Claim, signal: AbortSignal): Promise<Document | undefined> {
    const options = {
      upsert: true,
      returnDocument: "after",
      includeResultMetadata: false,
      writeConcern,
      signal,
    };
    try {
      const document = await this.#commands.run((collection) =>
        collection.findOneAndUpdate(this.#free(claim), this.#grant(claim), options)
      );
      return document ?? undefined;
    } catch (error) {
      if (!isDuplicate(error)) throw error; // the document exists, and is not free
      return undefined;
    }
  }

  async #claimAll(claims: Claim[], signal: AbortSignal): Promise<Document[]> {
    const operations = claims.map((claim) => ({
      updateOne: { filter: this.#free(claim), update: this.#grant(claim), upsert: true },
    }));
    const options = { ordered: false, writeConcern, signal };
    await this.#commands.run(async (collection) => {
      try {
        await collection.bulkWrite(operations, options);
      } catch (error) {
        const { writeErrors = [error] } = error as { writeErrors?: unknown[] };
        if (![writeErrors].flat().every(isDuplicate)) throw error;
      }
    });
    return await this.#find(claims, signal);
  }

  #find(claims: readonly Claim[], signal: AbortSignal): Promise<Document[]> {
    const filter = { key: { $in: claims.map(({ key }) => key) } };
    return this.#commands.run((collection) =>
      collection.find(filter, { projection, signal }).toArray()
    );
  }

  async #removed(filters: object[], signal: AbortSignal): Promise<number> {
    if (filters.length === 0) return 0;
    const operations = filters.map((filter) => ({ deleteOne: { filter } }));
    const bulk = (collection: Collection) =>
      collection.bulkWrite(operations, { ordered: false, signal });
    return (await this.#commands.run(bulk)).deletedCount;
  }

  async #changed(settlements: Settlement<unknown>[], signal: AbortSignal): Promise<number> {
    if (settlements.length === 0) return 0;
    const operations = settlements.map((it) => ({
      updateOne: { filter: owned(it), update: this.#change(it) },
    }));
    const bulk = (collection: Collection) =>
      collection.bulkWrite(operations, { ordered: false, signal });
    return (await this.#commands.run(bulk)).matchedCount;
  }

  /** The filter for a session whose lease the claim may have. */
  #free({ key, token }: Claim): object {
    const expired = this.#serverClock
      ? { $expr: { $lte: ["$until", "$$NOW"] } }
      : { until: { $lte: new Date() } };
    return { key, $or: [{ until: null }, expired, { lease: token }] };
  }

  /** The update that grants a lease. Removes a session that has expired. */
  #grant({ token, length }: Claim): object {
    if (!this.#serverClock) {
      return { $set: { lease: token, until: new Date(Date.now() + length) } };
    }
    const isOver = { $and: [{ $gt: ["$expires", null] }, { $lte: ["$expires", "$$NOW"] }] };
    return [
      {
        $set: {
          lease: token,
          until: { $add: ["$$NOW", length] },
          session: { $cond: [isOver, "$$REMOVE", "$session"] },
        },
      },
      { $set: { expires: outlive(length) } },
    ];
  }

  /** The update of a settlement. */
  #change({ length, change }: Settlement<unknown>): object {
    const session = change?.value;
    const expires = change?.expires === undefined ? undefined : new Date(change.expires);
    if (length > 0 && this.#serverClock) {
      const stored = change === undefined ? [] : [{ $unset: ["session", "expires"] }, {
        $set: {
          ...(change !== null && { session: { $literal: session } }),
          ...(expires && { expires }),
        },
      }];
      const until = { $add: ["$$NOW", length] };
      return [...stored, { $set: { until } }, { $set: { expires: outlive(length) } }];
    }
    const until = length > 0 ? new Date(Date.now() + length) : released;
    if (change === undefined) return { $set: { until } };
    return {
      $set: { until, ...(change !== null && { session }), ...(expires && { expires }) },
      ...((change === null || !expires) && {
        $unset: { ...(change === null && { session: "" }), ...(!expires && { expires: "" }) },
      }),
    };
  }
}

/**
 * The expiry of a document, for an update on the server: later than its lease if it would expire before,
 * or if it has no session; unchanged otherwise.
 */
function outlive(length: number): object {
  const end = { $add: ["$$NOW", length + margin] };
  const missing = { $eq: [{ $type: "$session" }, "missing"] };
  const early = { $and: [{ $gt: ["$expires", null] }, { $lt: ["$expires", end] }] };
  return { $cond: [{ $or: [missing, early] }, end, { $ifNull: ["$expires", "$$REMOVE"] }] };
}

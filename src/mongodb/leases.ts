/**
 * Leases in the session's own document: `lease` has the token of the last holder, and `until` the end of
 * the lease, or 1970 if it was released. A document without `session` only holds a lease.
 *
 * @module
 */

import type { Claim, Claimed, Held, LeasePage, Leases, Refusal, Settlement } from "../backend.ts";
import type { Collection, Document } from "./client.ts";
import type { Commands } from "./commands.ts";
import { reason } from "../errors.ts";
import { isDuplicate, isRefusal } from "./errors.ts";

const projection = { _id: 0, key: 1, session: 1, expires: 1, lease: 1, until: 1 };

/** A claim need not be durable: if a failover loses it, the settlement is refused. */
const writeConcern = { w: 1, j: false };

/**
 * How long a document without a session, or with one that is about to expire, outlives its lease, in ms:
 * the server deletes documents that have expired, also while they are leased.
 */
const margin = 60_000;

/** The filter for the session of a holder. */
function owned({ key, token }: Claim): object {
  return { key, lease: token };
}

/** Claims and settles leases on the sessions of a collection. */
export class MongoLeases implements Leases<unknown> {
  readonly #commands: Commands;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /**
   * Checks that the server can change a document atomically, by its own clock.
   *
   * @throws {Error} if it cannot, as MongoDB before 4.2 and FerretDB 1.
   */
  async open(): Promise<void> {
    try {
      await this.#commands.run((collection) =>
        collection.updateOne({ key: "" }, [{ $set: { until: "$$NOW" } }])
      );
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const why =
        "leases need MongoDB 4.2 or newer, but this server refuses updates with a pipeline";
      throw new Error(`${why}: ${reason(error)}`, { cause: error });
    }
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
      collection.find({
        key: { $gt: start },
        lease: { $exists: true },
        $expr: { $gt: ["$until", "$$NOW"] },
      }, {
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
        collection.findOneAndUpdate(free(claim), grant(claim), options)
      );
      return document ?? undefined;
    } catch (error) {
      if (!isDuplicate(error)) throw error; // the document exists, and is not free
      return undefined;
    }
  }

  async #claimAll(claims: Claim[], signal: AbortSignal): Promise<Document[]> {
    const operations = claims.map((claim) => ({
      updateOne: { filter: free(claim), update: grant(claim), upsert: true },
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
      updateOne: { filter: owned(it), update: updateOf(it) },
    }));
    const bulk = (collection: Collection) =>
      collection.bulkWrite(operations, { ordered: false, signal });
    return (await this.#commands.run(bulk)).matchedCount;
  }
}

/** The filter for a session whose lease the claim may have. */
function free({ key, token }: Claim): object {
  const expired = { $expr: { $lte: ["$until", "$$NOW"] } };
  return { key, $or: [{ until: null }, expired, { lease: token }] };
}

/** The update that grants a lease. Removes a session that has expired. */
function grant({ token, length }: Claim): object[] {
  const isOver = { $and: [{ $gt: ["$expires", null] }, { $lte: ["$expires", "$$NOW"] }] };
  const session = { $cond: [isOver, "$$REMOVE", "$session"] };
  return [{ $set: { lease: token, session } }, ...hold(length)];
}

/** The update of a settlement. */
function updateOf({ length, change }: Settlement<unknown>): object[] {
  const stages: object[] = [];
  if (change !== undefined) stages.push({ $unset: ["session", "expires"] });
  if (change) {
    const { value, expires } = change;
    const end = expires === undefined ? {} : { expires: new Date(expires) };
    stages.push({ $set: { session: { $literal: value }, ...end } });
  }
  return [...stages, ...length > 0 ? hold(length) : [{ $set: { until: new Date(0) } }]];
}

/** The stages that renew a lease. The document lives longer than the lease. */
function hold(length: number): object[] {
  const end = { $add: ["$$NOW", length + margin] };
  const missing = { $eq: [{ $type: "$session" }, "missing"] };
  const early = { $and: [{ $gt: ["$expires", null] }, { $lt: ["$expires", end] }] };
  const expires = {
    $cond: [{ $or: [missing, early] }, end, { $ifNull: ["$expires", "$$REMOVE"] }],
  };
  return [{ $set: { until: { $add: ["$$NOW", length] }, expires } }];
}

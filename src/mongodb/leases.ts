/**
 * Leases in the session's own document: `lease` has the token of the last holder, and `until` the end of
 * the lease, or 1970 if it was released. A document without `session` only holds a lease, or the `note`
 * of its holders.
 *
 * The server's index deletes documents by their `expires`, also those that are leased. So a lease moves
 * an earlier `expires` to `margin` after its end, and keeps the session's own in `ends`.
 *
 * @module
 */

import type { Claim, Claimed, Held, LeasePage, Leases, Refusal, Settlement } from "../backend.ts";
import { reason } from "../errors.ts";
import type { Collection, Document } from "./client.ts";
import { assign, checkSize, type Commands, fieldsOf, valueOf } from "./commands.ts";
import { failedOperations, isDuplicate, isRefusal } from "./errors.ts";

const projection = {
  _id: 0,
  ...{ key: 1, session: 1, version: 1, expires: 1, lease: 1, until: 1, ends: 1, note: 1 },
};

/** A claim need not be durable: if a failover loses it, the settlement is refused. */
const writeConcern = { w: 1, j: false };

/** How long a document outlives its lease at least, in ms. */
const margin = 60_000;

/** `until` after a release. */
const released = new Date(0);

/** Claims and settles leases on the sessions of a collection. */
export class MongoLeases implements Leases<unknown> {
  readonly #commands: Commands;
  /**
   * Settlements that are stored. When a batch is repeated, another process may have their lease already.
   */
  readonly #settled = new WeakSet<Settlement<unknown>>();

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /**
   * Checks that the server can change a document atomically, by its own clock.
   *
   * @throws {Error} if it cannot, as MongoDB before 4.2 and FerretDB 1.
   */
  async open(): Promise<void> {
    const none = { key: "", lease: "" }; // a token is never empty
    try {
      await this.#commands.run((collection) =>
        collection.updateOne(none, [{ $set: { until: "$$NOW" } }])
      );
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const why =
        "leases need MongoDB 4.2 or newer, but this server refuses updates with a pipeline";
      throw new Error(`${why}: ${reason(error)}`, { cause: error });
    }
  }

  async claim(claims: Claim[], signal: AbortSignal): Promise<Claimed<unknown>[]> {
    const documents = claims.length === 1
      ? [await this.#claimOne(claims[0]!, signal)]
      : await this.#claimAll(claims, signal);
    const found = new Map(documents.map((document) => [document.key, document]));
    return claims.map(({ key, token }) => {
      const document = found.get(key);
      const holder = document?.lease ?? "";
      if (document === undefined || holder !== token) return { key, token: holder };
      const { session, note } = document;
      const expires = expiryOf(document)?.getTime();
      const entry = session === undefined ? undefined : { key, value: valueOf(document), expires };
      return { key, token, entry, note };
    });
  }

  async settle(settlements: Settlement<unknown>[], signal: AbortSignal): Promise<Refusal[]> {
    const open = settlements.filter((it) => !this.#settled.has(it));
    await this.#remove(open.filter(isRemoval), signal);
    await this.#change(open.filter((it) => !isRemoval(it)), signal);
    const rest = open.filter((it) => !this.#settled.has(it));
    if (rest.length === 0) return [];
    const found = new Map((await this.#find(rest, signal)).map((it) => [it.key, it]));
    const refusals: Refusal[] = [];
    const releases: Settlement<unknown>[] = [];
    for (const settlement of rest) {
      const { key, token, length, change } = settlement;
      const document = found.get(key);
      const isGone = document === undefined && length === 0 && !change;
      const isMine = document?.lease === token;
      if (!isGone && !isMine) refusals.push({ key, token: document?.lease });
      // It has a note, or someone without a lease has stored a session meanwhile.
      else if (isMine && isRemoval(settlement)) {
        releases.push({ ...settlement, absent: false, note: document.note });
        // A token that is still there was there before, because a lost token does not come back.
      } else this.#settled.add(settlement);
    }
    return releases.length === 0 ? refusals : [...refusals, ...await this.settle(releases, signal)];
  }

  async held(start = "", size: number, signal: AbortSignal): Promise<LeasePage> {
    const leases = await this.#select({ $gt: start }, size, signal);
    return { leases, next: leases.length < size ? undefined : leases.at(-1)!.key };
  }

  find(keys: string[], signal: AbortSignal): Promise<Held[]> {
    return this.#select({ $in: keys }, keys.length, signal);
  }

  /** Up to `size` leases that are held, by the condition on their keys. */
  async #select(key: object, size: number, signal: AbortSignal): Promise<Held[]> {
    const $match = { key, until: { $gt: released } };
    const pipeline = [
      { $match },
      { $sort: { key: 1 } },
      // DocumentDB has no `$$NOW` in `$match`.
      { $project: { _id: 0, key: 1, token: "$lease", left: { $subtract: ["$until", "$$NOW"] } } },
      { $match: { left: { $gt: 0 } } },
      { $limit: size },
    ];
    try {
      const found = await this.#commands.run((collection) =>
        collection.aggregate<Held>(pipeline, { signal }).toArray()
      );
      return found.map(({ left, ...rest }) => ({ ...rest, left: Number(left) }));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      // A server that cannot have leases may refuse the pipeline.
      const any = await this.#commands.run((collection) => collection.findOne($match, { signal }));
      if (any !== null) throw error;
      return [];
    }
  }

  async #claimOne(claim: Claim, signal: AbortSignal): Promise<Document> {
    const options = {
      upsert: true,
      returnDocument: "after",
      includeResultMetadata: false,
      projection,
      writeConcern,
      signal,
    };
    const reply = await this.#runUpsert((collection) =>
      collection.findOneAndUpdate({ key: claim.key }, grant(claim), options)
    );
    // Early versions of the driver 5 always return metadata.
    return (reply as { value?: Document }).value ?? reply as Document;
  }

  async #claimAll(claims: Claim[], signal: AbortSignal): Promise<Document[]> {
    const operations = claims.map((claim) => ({
      updateOne: { filter: { key: claim.key }, update: grant(claim), upsert: true },
    }));
    const options = { ordered: false, writeConcern, signal };
    await this.#runUpsert((collection) => collection.bulkWrite(operations, options));
    return await this.#find(claims, signal);
  }

  /** Repeats upserts if others insert the same keys at the same time. */
  async #runUpsert<T>(work: (collection: Collection) => Promise<T>): Promise<T> {
    for (let attempt = 1;; attempt++) {
      try {
        return await this.#commands.run(work);
      } catch (error) {
        if (!isDuplicate(error) || attempt === 5) throw error;
      }
    }
  }

  #find(keys: readonly { key: string }[], signal: AbortSignal): Promise<Document[]> {
    const filter = { key: { $in: keys.map(({ key }) => key) } };
    return this.#commands.run((collection) =>
      collection.find(filter, { projection, signal }).toArray()
    );
  }

  /** Deletes documents of holders. */
  async #remove(settlements: Settlement<unknown>[], signal: AbortSignal): Promise<void> {
    const operations = settlements.map((it) => ({
      deleteOne: {
        filter: {
          ...owned(it),
          note: missing,
          ...it.change === null ? {} : { session: missing },
        },
      },
    }));
    await this.#bulk(settlements, operations, "deletedCount", signal);
  }

  /** Changes documents of holders. */
  async #change(settlements: Settlement<unknown>[], signal: AbortSignal): Promise<void> {
    const operations = settlements.map((it) => ({
      updateOne: { filter: owned(it), update: updateOf(it) },
    }));
    if (operations.length !== 1) {
      return await this.#bulk(settlements, operations, "matchedCount", signal);
    }
    // In a bulk, the filter and the update together have the limit of a document.
    const [{ updateOne: { filter, update } }] = operations as [typeof operations[0]];
    const { matchedCount } = await this.#commands.run((collection) =>
      collection.updateOne(filter, update, { signal })
    );
    this.#count(settlements, matchedCount);
  }

  async #bulk(
    settlements: Settlement<unknown>[],
    operations: object[],
    counter: "deletedCount" | "matchedCount",
    signal: AbortSignal,
  ): Promise<void> {
    if (operations.length === 0) return;
    try {
      const result = await this.#commands.run((collection) =>
        collection.bulkWrite(operations, { ordered: false, signal })
      );
      this.#count(settlements, result[counter]);
    } catch (error) {
      const failed = failedOperations(error);
      if (failed !== undefined) {
        const others = settlements.filter((_, i) => !failed.has(i));
        this.#count(others, (error as Record<typeof counter, number>)[counter]);
      }
      throw error;
    }
  }

  /** Notes that settlements are stored, if the server has found as many documents. */
  #count(settlements: Settlement<unknown>[], found: number): void {
    if (found === settlements.length) settlements.forEach((it) => this.#settled.add(it));
  }
}

const missing = { $exists: false };

/** The filter for the document of a holder. */
function owned({ key, token }: Claim): object {
  return { key, lease: token };
}

/** Whether a settlement deletes the document. */
function isRemoval({ length, change, absent, note }: Settlement<unknown>): boolean {
  const removes = change === null || (change === undefined && absent === true);
  return length === 0 && note === undefined && removes;
}

/** When the session expires. */
function expiryOf({ expires, until, ends }: Document): Date | undefined {
  const isMoved = expires?.getTime() === (until?.getTime() ?? NaN) + margin;
  return isMoved ? ends : expires;
}

// Parts of pipelines. A field that is set to a missing field or to `$$REMOVE` is removed.

type Fields = Record<string, unknown>;

const when = (condition: unknown, value: unknown, otherwise: unknown) => ({
  $cond: [condition, value, otherwise],
});
const isLeasedTo = (token: string) => ({ $eq: ["$lease", { $literal: token }] });
const hasExpiry = { $gt: ["$expires", null] };
const has = (field: string) => ({ $ne: [{ $type: field }, "missing"] });
const hasSession = has("$session");

/** Like `expiryOf`. What only holds a lease keeps `expires`, so that the server deletes it. */
const ownExpiry = when(
  { $and: [hasSession, { $eq: ["$expires", { $add: ["$until", margin] }] }] },
  "$ends",
  "$expires",
);

/**
 * The update that grants a lease if it is free. The condition is part of it because the filter of an
 * upsert may have no `$expr`. Thus a claim that is refused also finds the document, with its holder.
 */
function grant({ token, length }: Claim): object[] {
  const free = { $or: [isLeasedTo(token), { $lte: ["$until", "$$NOW"] }] };
  const ifGranted = (fields: Fields) =>
    Object.fromEntries(
      Object.entries(fields).map((
        [name, value],
      ) => [name, when(isLeasedTo(token), value, `$${name}`)]),
    );
  return [
    { $set: { lease: when(free, { $literal: token }, "$lease") } },
    ...[{ expires: ownExpiry }, ...hold(length)].map((fields) => ({ $set: ifGranted(fields) })),
  ];
}

/** The update of a settlement. */
function updateOf({ token, length, change, note }: Settlement<unknown>): object {
  const noted = note === undefined ? {} : { note };
  if (change) checkSize(change, { lease: token, until: released, ends: released, ...noted });
  const begin = { ...changed(change), ...note === undefined ? {} : { note: { $literal: note } } };
  if (length > 0) return [begin, ...hold(length)].map(($set) => ({ $set }));
  if (!change) return [{ $set: { ...begin, ends: "$$REMOVE", until: released } }];
  return assign({ ...fieldsOf(change), until: released, ends: undefined, ...noted });
}

/** The session and its own expiry after a change. */
function changed(change: Settlement<unknown>["change"]): Fields {
  if (change === undefined) return { expires: ownExpiry };
  const removed = { session: "$$REMOVE", version: "$$REMOVE", expires: "$$REMOVE" };
  if (change === null) return removed;
  const { session, ...others } = assign(fieldsOf(change)).$set as Fields;
  return { ...removed, ...others, session: { $literal: session } };
}

/** The stages of a lease, where `expires` is the session's own. */
function hold(length: number): Fields[] {
  const isPast = { $and: [hasExpiry, { $lte: ["$expires", "$$NOW"] }] };
  const end = { $add: ["$$NOW", length + margin] };
  const isEarly = { $and: [hasExpiry, { $lt: ["$expires", end] }] };
  return [
    // Otherwise a later `expires` would bring the session back.
    {
      session: when(isPast, "$$REMOVE", "$session"),
      version: when(isPast, "$$REMOVE", "$version"),
    },
    {
      until: { $add: ["$$NOW", length] },
      expires: when(
        hasSession,
        when(isEarly, end, "$expires"),
        when(has("$note"), "$expires", end),
      ),
      ends: when({ $and: [hasSession, isEarly] }, "$expires", "$$REMOVE"),
    },
  ];
}

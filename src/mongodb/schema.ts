/**
 * Indexes of the collection, and the upgrade of an old one.
 *
 * @module
 */

import type { Opening, Plan } from "../backend.ts";
import { reason } from "../errors.ts";
import type { Client, Collection } from "./client.ts";
import { isDuplicate, isRefusal } from "./errors.ts";

/**
 * Connects the client, if nobody has, and prepares the collection. Returns whether the server deletes
 * what has expired.
 */
export async function open(
  client: Client,
  collection: Collection,
  { report, expiring, plan }: Pick<Opening, "report" | "expiring" | "plan">,
): Promise<boolean> {
  const begin = plan === undefined
    ? () => prepare(collection, report)
    : async () => plan(await inspect(collection));
  try {
    await begin();
  } catch (error) {
    if ((error as Error).name !== "MongoTopologyClosedError") throw error;
    // The driver connects by itself, but after a failure never again.
    await client.connect();
    await begin();
  }
  return plan === undefined && expiring && await expireByIndex(collection);
}

/** Looks what the collection is like. */
async function inspect(collection: Collection): Promise<Plan> {
  const unique = await isUnique(collection);
  const exists = unique ||
    await collection.findOne({}, { projection: { _id: 1 } }) !== null;
  const changes = unique ? [] : ['create a unique index on "key"'];
  if (exists && !unique && await collection.findOne(numbered, {}) !== null) {
    changes.unshift("convert keys that are numbers to text");
  }
  return { exists, unique, changes };
}

/** Finds keys that are numbers: upstream stored them so when a bot gave them so. */
const numbered = { key: { $type: "number" } };

/** Lets the server delete what has expired, if it can: what only speaks MongoDB's protocol may not. */
async function expireByIndex(collection: Collection): Promise<boolean> {
  try {
    await collection.createIndex({ expires: 1 }, { expireAfterSeconds: 0, name: "expires" });
    return true;
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return false;
  }
}

/**
 * Gives the collection a unique index on `key`, which upstream's have not. Where that cannot be, the
 * store works all the same, only slower, and says why.
 */
async function prepare(collection: Collection, report: (error: unknown) => void): Promise<void> {
  try {
    if (await isUnique(collection)) return;
    await makeKeysText(collection);
    for (let attempt = 1;; attempt++) {
      try {
        await collection.createIndex({ key: 1 }, { unique: true, name: "key_unique" });
        return;
      } catch (error) {
        // Others may write while duplicates are removed.
        if (!isDuplicate(error) || attempt === 5) throw error;
        await removeDuplicates(collection);
      }
    }
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const why = `The collection ${collection.namespace} has no unique index on "key"`;
    report(
      new Error(`${why}, so each operation scans all of it: ${reason(error)}`, { cause: error }),
    );
  }
}

async function isUnique(collection: Collection): Promise<boolean> {
  try {
    const indexes = await collection.listIndexes().toArray();
    return indexes.some(({ key, unique, collation, partialFilterExpression }) =>
      unique && Object.keys(key).join() === "key" && !collation && !partialFilterExpression
    );
  } catch (error) {
    // There is no collection, or this may not be asked.
    if (isRefusal(error)) return false;
    throw error;
  }
}

/** Keys are text now. */
async function makeKeysText(collection: Collection): Promise<void> {
  for await (const { _id, key } of collection.find(numbered, { projection: { key: 1 } })) {
    await collection.updateOne({ _id }, { $set: { key: String(key) } });
  }
}

/**
 * Of several documents with one key, the first in the order of the collection stays: upstream, which
 * could insert more in a race, read and updated that one alone, so that the others are old.
 */
async function removeDuplicates(collection: Collection): Promise<void> {
  const repeated = collection.aggregate([
    { $match: { key: { $type: "string" } } },
    { $group: { _id: "$key", count: { $sum: 1 } } },
    { $match: { count: { $gt: 1 } } },
  ], { allowDiskUse: true });
  for await (const { _id: key } of repeated) {
    const [, ...others] = await collection.find({ key }, { projection: { _id: 1 } }).toArray();
    await collection.deleteMany({ _id: { $in: others.map(({ _id }) => _id) } });
  }
}

/**
 * The indexes of the collection, and the upgrade of a collection of 2.0.0-beta.
 *
 * @module
 */

import type { Opening, Plan } from "../backend.ts";
import { reason } from "../errors.ts";
import type { Client, Collection } from "./client.ts";
import { isDuplicate, isRefusal } from "./errors.ts";

/**
 * Prepares the collection. Connects the client if necessary.
 *
 * @returns whether the server deletes expired documents by itself.
 */
export async function prepare(
  client: Client,
  collection: Collection,
  { report, expiring, leasing, plan }: Pick<Opening, "report" | "expiring" | "leasing" | "plan">,
): Promise<boolean> {
  const prepareKeys = plan === undefined
    ? () => requireUniqueIndex(collection, report)
    : async () => plan(await inspect(collection));
  try {
    await prepareKeys();
  } catch (error) {
    if ((error as Error).name !== "MongoTopologyClosedError") throw error;
    // The driver connects by itself only once, and not again after a failure.
    await client.connect();
    await prepareKeys();
  }
  if (leasing && !await isUnique(collection)) {
    throw new Error(
      `leases need the unique index on "key" of ${collection.namespace}, which is missing; run: ` +
        `db.getCollection(${JSON.stringify(collection.namespace.replace(/^[^.]*\./, ""))})` +
        ".createIndex({ key: 1 }, { unique: true })",
    );
  }
  return plan === undefined && expiring && await createExpiryIndex(collection);
}

async function inspect(collection: Collection): Promise<Plan> {
  const unique = await isUnique(collection);
  const exists = unique ||
    await collection.findOne({}, { projection: { _id: 1 } }) !== null;
  const changes = unique ? [] : ['create a unique index on "key"'];
  if (exists && !unique && await collection.findOne(numericKeys, {}) !== null) {
    changes.unshift("convert keys that are numbers to text");
  }
  return { exists, unique, changes };
}

/** The filter for keys that are numbers. 2.0.0-beta stored them if the bot used numbers as keys. */
const numericKeys = { key: { $type: "number" } };

/**
 * Lets the server delete expired documents. Returns false if it refuses the index: servers that only speak
 * MongoDB's protocol may not have such indexes.
 */
async function createExpiryIndex(collection: Collection): Promise<boolean> {
  try {
    await collection.createIndex({ expires: 1 }, { expireAfterSeconds: 0, name: "expires" });
    return true;
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return false;
  }
}

/**
 * Creates the unique index on `key`, which collections of 2.0.0-beta lack. If the server refuses it, the
 * store works without it, but slower, and reports the reason.
 */
async function requireUniqueIndex(
  collection: Collection,
  report: (error: unknown) => void,
): Promise<void> {
  try {
    if (await isUnique(collection)) return;
    await convertKeysToText(collection);
    for (let attempt = 1;; attempt++) {
      try {
        await collection.createIndex({ key: 1 }, { unique: true, name: "key_unique" });
        return;
      } catch (error) {
        // Other processes may insert duplicates while they are being removed.
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
    // The collection does not exist, or the user may not list its indexes.
    if (isRefusal(error)) return false;
    throw error;
  }
}

async function convertKeysToText(collection: Collection): Promise<void> {
  for await (const { _id, key } of collection.find(numericKeys, { projection: { key: 1 } })) {
    await collection.updateOne({ _id }, { $set: { key: String(key) } });
  }
}

/**
 * Keeps the first document of each key in natural order. 2.0.0-beta could insert several in a race, but
 * then read and updated only the first one, so the others are outdated.
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

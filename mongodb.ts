/**
 * Sessions in MongoDB, with its driver 7; existing clients may be of mongodb 5, 6 or 7.
 *
 * ```ts
 * import { Mongo } from "@telegraf/session/mongodb";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = Mongo({ url: "mongodb://127.0.0.1:27017", database: "my-bot" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import { MongoClient, type MongoClientOptions } from "mongodb";
import type { Backend } from "./src/backend.ts";
import { document } from "./src/codec/document.ts";
import * as mongo from "./src/mongodb/client.ts";
import * as commands from "./src/mongodb/commands.ts";
import { transient } from "./src/mongodb/errors.ts";
import { open } from "./src/mongodb/schema.ts";
import { misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** @ignore */
type Client = mongo.Client;
/** @ignore */
type Config = MongoClientOptions;

/** Options of {@link Mongo}: `url` and `config`, or `client`. */
export interface MongoOptions extends StoreOptions {
  /** The server: `mongodb://[user:password@]host[:port][/database]` or `mongodb+srv://…`. */
  url?: string | undefined;
  /**
   * Options of the driver's `MongoClient`; they override what is in `url`. Unless given, here or in `url`, `socketTimeoutMS` is half
   * of `timeout`; so are `serverSelectionTimeoutMS` and `connectTimeoutMS`, but at most 5 s.
   */
  config?: Config | undefined;
  /**
   * A `MongoClient` of any copy of the driver; mongoose's is `mongoose.connection.getClient()`. It
   * stays open when the store is closed.
   */
  client?: Client | undefined;
  /** The database's name; without one it is the one in the client's URL, or `test`. */
  database?: string | undefined;
  /**
   * The collection's name.
   *
   * @default {"telegraf-sessions"}
   */
  collection?: string | undefined;
}

/**
 * Makes a store in MongoDB: a document `{ key, session }` per session, with what BSON can hold. The
 * first operation opens it and gives the collection a unique index on `key`; where it may not, it
 * works on and tells `onError`.
 *
 * @throws {TypeError} for an unknown option, one of the wrong type, or a `url` that is none.
 * @throws {RangeError} for a name that is empty or too long.
 */
export const Mongo: StoreFactory<MongoOptions> = storeFactory({
  name: "Mongo",
  rules: {
    ...storeRules,
    url: rules.secret,
    config: rules.config(misplaced.mongodb),
    client: rules.existing("a MongoClient", "db"),
    database: rules.identifier(63),
    collection: rules.identifier(191), // 255 with the database's
  },
  existing: { client: ["url", "config"] },
  backend,
});

function backend(options: MongoOptions): Backend<unknown> {
  const { client: existing, database, collection: name = "telegraf-sessions" } = options;
  if (existing !== undefined) mongo.checkClient(existing);
  const own = existing === undefined ? new mongo.Own(() => create(options)) : undefined;
  const handle = existing ?? own!.client;
  const { namespace } = mongo.collection(handle, database, name);
  const run = mongo.runner(() => mongo.collection(existing ?? own!.client, database, name), own);
  let pruned = false; // by the server
  let old = false; // as an older version made it, maybe
  const projection = { _id: 0, key: 1, session: 1, expires: 1 };
  return {
    handle,
    scope: namespace,
    codec: document,
    limits: { keys: 64, bytes: 1_000_000 },
    async open(opening) {
      old = opening.plan !== undefined;
      pruned = await run((collection) => open(existing ?? own!.client, collection, opening));
      own?.watch(opening.report);
    },
    async read(keys, signal) {
      const options = { projection, signal };
      const found = await run(async (collection) =>
        keys.length === 1
          ? [await collection.findOne(commands.keyed(keys, old), options)]
          : await collection.find(commands.keyed(keys, old), options).toArray()
      );
      // Without the index a key may have several documents: the first is the one that is written.
      return found.reverse().flatMap((it) =>
        it === null
          ? []
          : { key: String(it.key), value: it.session, expires: it.expires?.getTime() }
      );
    },
    async write(entries, signal, fresh) {
      const upserts = entries.map(commands.upsert);
      if (fresh && await run((collection) => commands.insert(collection, entries, signal))) return;
      const [{ filter, update }] = upserts as [commands.Upsert];
      const operations = upserts.map((updateOne) => ({ updateOne }));
      await run((collection) =>
        upserts.length === 1
          ? collection.updateOne(filter, update, { upsert: true, signal })
          : collection.bulkWrite(operations, { ordered: false, signal })
      );
    },
    async renew(keys, expires, signal) {
      const update = { $set: { expires: new Date(expires) } };
      await run((collection) => collection.updateMany({ key: { $in: keys } }, update, { signal }));
    },
    async remove(keys, signal) {
      await run((collection) => collection.deleteMany(commands.keyed(keys, old), { signal }));
    },
    page: (start, size, signal) =>
      run((collection) => commands.page(collection, start, size, signal, old)),
    prune: (now, signal) =>
      pruned ? 0 : run((collection) => commands.prune(collection, now, signal)),
    close: () => own?.client.close(),
    transient,
  };
}

/** A client of ours, not connected. */
function create({ url, config, database, timeout = 10_000 }: MongoOptions): MongoClient {
  if (url === undefined) throw new TypeError('Mongo: option "url" or "client" is missing');
  if (database !== undefined && config !== undefined && "dbName" in config) {
    throw new TypeError(
      'Mongo: option "database" and config.dbName both name the database; leave one out',
    );
  }
  try {
    return new MongoClient(url, { ...mongo.bounds(url, timeout), ...config });
  } catch (error) {
    throw mongo.refused(error, url);
  }
}

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

import { Binary, BSON, MongoClient, type MongoClientOptions } from "mongodb";
import type { Backend } from "./src/backend.ts";
import { document } from "./src/codec/document.ts";
import { refusedOptions } from "./src/errors.ts";
import { checkClient, ExistingClient, ManagedClient } from "./src/mongodb/client.ts";
import type { Client as AnyMongoClient } from "./src/mongodb/client.ts";
import { Commands } from "./src/mongodb/commands.ts";
import { transient } from "./src/mongodb/errors.ts";
import { MongoLeases } from "./src/mongodb/leases.ts";
import { timeoutOptions } from "./src/mongodb/options.ts";
import { documentPacking } from "./src/mongodb/packing.ts";
import { defaults, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** @ignore */
type Client = AnyMongoClient;
/** @ignore */
type Config = MongoClientOptions;

/** Options of {@link Mongo}: `url` and `config`, or `client`. */
export interface MongoOptions extends StoreOptions {
  /** The server: `mongodb://[user:password@]host[:port][/database]` or `mongodb+srv://…`. */
  url?: string | undefined;
  /**
   * Options of the driver's `MongoClient`. They override `url`. Unless they are given here or in `url`,
   * `socketTimeoutMS` is half of `timeout`, and `serverSelectionTimeoutMS` and `connectTimeoutMS` are
   * half of it too, but at most 5 s.
   */
  config?: Config | undefined;
  /**
   * A `MongoClient` of any installed version of the driver. mongoose's client is
   * `mongoose.connection.getClient()`. It stays open when the store is closed.
   */
  client?: Client | undefined;
  /** The database. Without it, the database in the client's URL is used, or `test`. */
  database?: string | undefined;
  /**
   * The collection. It is created if it is missing.
   *
   * @default {"telegraf-sessions"}
   */
  collection?: string | undefined;
}

/**
 * Makes a store in MongoDB. Each session is a document `{ key, session }`, with all types that BSON has.
 * The first operation connects and creates a unique index on `key`. If the user may not create it, the
 * store works without it and reports this to `onError`.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if `url` is invalid.
 * @throws {RangeError} if a name is empty or too long.
 */
export const Mongo: StoreFactory<MongoOptions> = storeFactory({
  name: "Mongo",
  rules: {
    ...storeRules,
    url: rules.secret,
    config: rules.config(misplaced.mongodb),
    client: rules.existing("a MongoClient", "db"),
    database: rules.identifier(63),
    collection: rules.identifier(191), // 255 together with the name of the database
  },
  existing: { client: ["url", "config"] },
  backend,
});

function backend(options: MongoOptions): Backend<unknown> {
  const { client: existing, database, collection = defaults.collection } = options;
  if (existing !== undefined) checkClient(existing);
  const source = existing === undefined
    ? new ManagedClient(() => create(options))
    : new ExistingClient(existing);
  const commands = new Commands(source, database, collection);
  const leases = new MongoLeases(commands);
  return {
    system: "mongodb",
    handle: existing ?? {},
    scope: commands.namespace,
    place: collection,
    codec: document,
    packing: documentPacking({ BSON, Binary }),
    async open(opening) {
      await commands.open(opening);
      if (opening.leasing) await leases.open();
      return { keys: 64, bytes: 1_000_000 };
    },
    read: (keys, signal) => commands.read(keys, signal),
    write: (entries, signal, fresh) => commands.write(entries, signal, fresh),
    replace: (replacements, signal) => commands.replace(replacements, signal),
    renew: (keys, expires, signal) => commands.renew(keys, expires, signal),
    remove: (keys, signal) => commands.remove(keys, signal),
    page: (...query) => commands.page(...query),
    prune: (now, signal) => commands.prune(now, signal),
    leases,
    close: () => source.close(),
    transient,
  };
}

/** Creates the store's own client. Connects to nothing yet. */
function create({ url, config, database, timeout = defaults.timeout }: MongoOptions): MongoClient {
  if (url === undefined) throw new TypeError('Mongo: option "url" or "client" is missing');
  if (database !== undefined && config !== undefined && "dbName" in config) {
    throw new TypeError(
      'Mongo: option "database" and config.dbName both name the database; leave one out',
    );
  }
  try {
    return new MongoClient(url, { ...timeoutOptions(url, timeout), ...config });
  } catch (error) {
    throw refusedOptions("Mongo", "mongodb", error, url);
  }
}

/**
 * Sessions in Redis or Valkey, with node-redis 4 to 6, or with an existing client of ioredis 5 or 6
 * or of `@upstash/redis`.
 *
 * ```ts
 * import { Redis } from "@telegraf/session/redis";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = Redis({ url: "redis://127.0.0.1:6379" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import type { RedisClientOptions } from "redis";
import { urlOf } from "./src/address.ts";
import { type Backend, defaultLimits } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { missing, refusedOptions } from "./src/errors.ts";
import { defaults, misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { type CreateClient, ExistingClient, ManagedClient } from "./src/redis/client.ts";
import type { Client as NodeRedis, ManagedNodeRedis } from "./src/redis/client.ts";
import { Commands } from "./src/redis/commands.ts";
import { transient } from "./src/redis/errors.ts";
import type { IORedis } from "./src/redis/ioredis.ts";
import { keyPrefixOf } from "./src/redis/primary.ts";
import { RedisLeases } from "./src/redis/leases.ts";
import { checkClient, checkUrl, clientOptions, supportedClients } from "./src/redis/options.ts";
import type { Upstash } from "./src/redis/upstash.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** @ignore */
type Client = NodeRedis | IORedis | Upstash;
/** @ignore */
type Config = Omit<RedisClientOptions, "RESP"> & { RESP?: 2 | 3 | undefined };

/** Options of {@link Redis}: `url` and `config`, or `client`. */
export interface RedisOptions extends StoreOptions {
  /**
   * The server: `redis[s]://[[user][:password]@]host[:port][/database]` or `unix:///path`.
   *
   * @default {"redis://localhost:6379"}
   */
  url?: string | undefined;
  /**
   * Options of node-redis' `createClient`. They override `url`. The store sets `pingInterval` to 3 s,
   * `socket.socketTimeout` to 5 s and `RESP` to 2, unless they are given here. If
   * `socket.reconnectStrategy` ends a client, the next operation creates another one.
   */
  config?: Config | undefined;
  /**
   * A client, pool, cluster or sentinel of node-redis, or a client or cluster of ioredis. It may be
   * connected or not. It stays open when the store is closed. Or a client of `@upstash/redis`, which
   * sends each batch as one HTTP request.
   */
  client?: Client | undefined;
  /**
   * The prefix of the store's keys in Redis. May be empty.
   *
   * @default {"telegraf:"}
   */
  prefix?: string | undefined;
}

/**
 * Makes a store in Redis. Sessions are JSON text under `<prefix><key>`. The first operation connects, and
 * a lost connection is made again.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if `url` is invalid.
 */
export const Redis: StoreFactory<RedisOptions | void> = storeFactory({
  name: "Redis",
  rules: {
    ...storeRules,
    url: rules.secret,
    config: rules.config(misplaced.redis),
    client: rules.existing(supportedClients, "connect"),
    prefix: rules.text,
  },
  existing: { client: ["url", "config"] },
  backend,
});

function backend(options: RedisOptions): Backend {
  const { config, prefix = defaults.prefix } = options;
  const existing = options.client && checkClient(options.client);
  const url = urlOf("Redis", options, "url");
  if (url !== undefined) checkUrl(url);
  const source = existing === undefined
    ? new ManagedClient(() => load(url, config))
    : new ExistingClient(existing);
  const commands = new Commands(source, prefix);
  return {
    system: "redis",
    handle: existing ?? {},
    scope: prefix,
    place: (existing === undefined ? "" : keyPrefixOf(existing)) + prefix,
    codec: json,
    async open({ signal, report, expiring }) {
      commands.expiring = expiring;
      await source.open(signal, report);
      return existing?.limits ?? defaultLimits;
    },
    read: (...query) => commands.read(...query),
    write: (entries, signal) => commands.write(entries, signal),
    replace: (replacements, signal) => commands.replace(replacements, signal),
    renew: (keys, expires, signal) => commands.renew(keys, expires, signal),
    remove: (keys, signal) => commands.remove(keys, signal),
    page: (...query) => commands.page(...query),
    leases: existing === undefined || existing.evalSha && existing.eval
      ? new RedisLeases(source, commands, prefix)
      : "the client has no eval and evalSha",
    close: () => source.close(),
    transient,
  };
}

/** Loads node-redis. Not imported at the top because it is not needed with a client of ioredis. */
async function load(url?: string, config?: Config): Promise<CreateClient> {
  let driver: typeof import("redis");
  try { // bundlers accept a missing module if its import is in such a block
    driver = await import("redis");
  } catch (error) {
    throw missing(error, "redis", "or pass a client of ioredis as { client }");
  }
  return (mayReconnect) => create(driver, clientOptions(mayReconnect, url, config));
}

/** Creates the store's own client. Connects to nothing yet. */
function create({ createClient }: typeof import("redis"), options: object): ManagedNodeRedis {
  try {
    return createClient(options as RedisClientOptions);
  } catch (error) {
    throw refusedOptions("Redis", "node-redis", error);
  }
}

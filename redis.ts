/**
 * Sessions in Redis or Valkey, with node-redis 6; existing clients may be of node-redis 4 to 6, or of
 * ioredis 5 or 6.
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
import type { Backend } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { missing, reason } from "./src/errors.ts";
import type { IORedis } from "./src/redis/ioredis.ts";
import { urlOf } from "./src/address.ts";
import { misplaced, rules, type StoreOptions, storeRules } from "./src/options.ts";
import * as redis from "./src/redis/client.ts";
import * as commands from "./src/redis/commands.ts";
import { transient } from "./src/redis/errors.ts";
import { checked, checkUrl, kinds, settings } from "./src/redis/options.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** @ignore */
type Client = redis.Client | IORedis;
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
   * Options of node-redis' `createClient`, which override what is in `url`; unless given here,
   * `pingInterval` is 3 s, `socket.socketTimeout` 5 s, and `RESP` 2. Where `socket.reconnectStrategy`
   * ends a client, the next operation begins another one.
   */
  config?: Config | undefined;
  /**
   * A client, pool, cluster or sentinel of node-redis, or a client or cluster of ioredis. It need
   * not be connected, and stays open.
   */
  client?: Client | undefined;
  /**
   * What the store's keys in Redis begin with; may be empty.
   *
   * @default {"telegraf:"}
   */
  prefix?: string | undefined;
}

/**
 * Makes a store in Redis: JSON text under `<prefix><key>`. The first operation opens it; a lost
 * connection is made again.
 *
 * @throws {TypeError} for an unknown option, one of the wrong type, or a `url` that is none.
 */
export const Redis: StoreFactory<RedisOptions | void> = storeFactory({
  name: "Redis",
  rules: {
    ...storeRules,
    url: rules.secret,
    config: rules.config(misplaced.redis),
    client: rules.existing(kinds, "connect"),
    prefix: rules.text,
  },
  existing: { client: ["url", "config"] },
  backend,
});

function backend(options: RedisOptions): Backend {
  const { config, client: given, prefix = "telegraf:" } = options;
  let own: redis.Own | undefined, unwatch: (() => void) | undefined;
  const existing = given && checked(given);
  const wasOpen = existing?.isOpen;
  const url = urlOf("Redis", options, "url");
  if (url !== undefined) checkUrl(url);
  const client = () => existing === undefined ? redis.alive(own!) : redis.ready(existing);
  const apart = existing?.masters !== undefined; // the keys of a cluster are on many servers
  const named = (key: string) => prefix + key;
  let expires = false;
  return {
    handle: existing ?? {},
    scope: prefix,
    codec: json,
    limits: { keys: 128, bytes: 1_000_000 },
    async open({ signal, report, expiring }) {
      expires = expiring;
      if (existing === undefined) {
        const module = await driver();
        own = await redis.connect((opened) => create(module, opened, url, config), signal);
      } else if (!wasOpen) await redis.join(existing);
      unwatch = redis.watch(client(), report);
    },
    read(keys, signal) {
      redis.guard(own, signal);
      return commands.read(client, keys, named, { apart, expires });
    },
    async write(entries, signal) {
      redis.guard(own, signal);
      commands.replied(await commands.write(client(), entries, named, apart));
    },
    renew(keys, expires, signal) {
      redis.guard(own, signal);
      return commands.renew(client(), keys.map(named), expires);
    },
    async remove(keys, signal) {
      redis.guard(own, signal);
      const names = keys.map(named);
      await commands.all((apart ? names : [names]).map((name) => client().del(name)));
    },
    page(start, size, signal) {
      redis.guard(own, signal);
      return commands.page(client(), prefix, start, size);
    },
    close: () => existing === undefined ? redis.discard(own?.client) : unwatch?.(),
    transient,
  };
}

/** Not imported at the top because it is not needed with a client of ioredis. */
async function driver(): Promise<typeof import("redis")> {
  try { // for bundlers as well: they leave what is missing in such a block to run time
    return await import("redis");
  } catch (error) {
    throw missing(error, "redis", "or pass a client of ioredis as { client }");
  }
}

/** A client of ours, not connected; until it was `opened`, it does not connect again by itself. */
function create(
  { createClient }: typeof import("redis"),
  opened: () => boolean,
  url?: string,
  config?: Config,
): redis.OwnClient {
  try {
    return createClient(settings(opened, url, config) as RedisClientOptions);
  } catch (error) {
    throw new TypeError(`Redis: node-redis refuses these options: ${reason(error)}`);
  }
}

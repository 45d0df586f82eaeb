/**
 * Sessions in Deno KV: the database of Deno and of Deno Deploy. On Node.js and Bun it needs `@deno/kv`.
 *
 * ```ts
 * import { DenoKV } from "@telegraf/session/denokv";
 * import { session, Telegraf } from "telegraf";
 *
 * const store = DenoKV({ path: "./telegraf-sessions.kv" });
 * const bot = new Telegraf(process.env.BOT_TOKEN!);
 * bot.use(session({ store }));
 * await bot.launch(); // until the bot is stopped
 * await store.close();
 * ```
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Backend } from "./src/backend.ts";
import { json } from "./src/codec/json.ts";
import { Commands } from "./src/denokv/commands.ts";
import * as driver from "./src/denokv/driver.ts";
import { transient } from "./src/denokv/errors.ts";
import { DenoKVLeases } from "./src/denokv/leases.ts";
import { missing } from "./src/errors.ts";
import { defaults, rules, type StoreOptions, storeRules } from "./src/options.ts";
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

/** Options of {@link DenoKV}: `path`, `url` or `kv`. On Deno all three may be missing. */
export interface DenoKVOptions extends StoreOptions {
  /**
   * The file. It is created if it is missing; its folder must exist. `":memory:"` keeps the sessions in
   * memory. On Deno, without `path`, `url` and `kv`, this is the database that `Deno.openKv()` opens: on Deno
   * Deploy that of the app, elsewhere one per program.
   */
  path?: string | undefined;
  /**
   * The URL of a database of Deno Deploy, or of another server with the protocol KV Connect. The access
   * token comes from the environment variable `DENO_KV_ACCESS_TOKEN`.
   */
  url?: string | undefined;
  /** A database of `Deno.openKv()` or of `@deno/kv`. It stays open when the store is closed. */
  kv?: Database | undefined;
  /**
   * The first part of the store's keys. Up to 512 bytes.
   *
   * @default {"telegraf-sessions"}
   */
  prefix?: string | undefined;
}

/** @ignore */
type Database = driver.KvDatabase;

/**
 * Makes a store in Deno KV. The first operation opens the database. A session may have about 650 KB: it is
 * stored in up to ten values, and read and written as one.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type, or if `path`, `url` and `kv` are missing
 * on Node.js or Bun.
 * @throws {RangeError} if an option is out of range.
 */
export const DenoKV: StoreFactory<DenoKVOptions | void> = storeFactory({
  name: "DenoKV",
  rules: {
    ...storeRules,
    path: { ...rules.text, expected: "a file name", accepts: (path: string) => path !== "" },
    url: {
      ...rules.secret,
      expected: "a URL that begins with https:// or http://",
      accepts: (url: string) => /^https?:\/\//i.test(url),
    },
    kv: rules.existing("a database of Deno or of @deno/kv", "atomic"),
    prefix: {
      ...rules.text,
      expected: "a string of up to 512 bytes",
      accepts: (prefix: string) =>
        Buffer.byteLength(prefix) <= 512 && Buffer.from(prefix).toString() === prefix,
    },
  },
  existing: { kv: ["path", "url"], url: ["path"] },
  backend,
});

function backend(options: DenoKVOptions): Backend {
  const { path, url, prefix = defaults.table } = options;
  const existing = options.kv && driver.checkKv(options.kv);
  const where = url ?? path;
  if (existing === undefined && where === undefined && !driver.isDeno()) {
    throw new TypeError('DenoKV: option "path", "url" or "kv" is needed');
  }
  const database = new driver.Database(existing, () => driver.open(where, load));
  const commands = new Commands(database, prefix);
  return {
    system: "denokv",
    handle: existing ?? {},
    scope: prefix,
    place: prefix,
    codec: json,
    async open() {
      await database.open();
      return { keys: 100, bytes: 500_000 };
    },
    read: (keys) => commands.read(keys),
    write: (entries, signal) => commands.write(entries, signal),
    replace: (replacements, signal) => commands.replace(replacements, signal),
    renew: (keys, expires, signal) => commands.renew(keys, expires, signal),
    remove: (keys, signal) => commands.remove(keys, signal),
    page: (start, size, _signal, prefix) => commands.page(start, size, prefix),
    leases: new DenoKVLeases(database, commands, prefix),
    close: () => database.close(),
    transient,
  };
}

/** Loads the driver. Not imported at the top because Deno has its own. */
async function load(): Promise<driver.Driver> {
  try { // bundlers accept a missing module if its import is in such a block
    return await import("@deno/kv");
  } catch (error) {
    throw missing(error, "@deno/kv", "or use Deno");
  }
}

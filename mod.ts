/**
 * What the stores of all databases have in common: their types and errors, and a store in memory.
 *
 * This is not what you import for storage. The stores are in `@telegraf/session/redis`,
 * `/mongodb`, `/sqlite`, `/pg`, `/mysql` and `/kysely`, each with the driver that it needs.
 *
 * ```ts
 * import { Memory, type Store } from "@telegraf/session";
 * import { session, Telegraf } from "telegraf";
 *
 * const bot = new Telegraf(process.env.BOT_TOKEN ?? "");
 * const store: Store<{ count: number }> = Memory();
 * bot.use(session({ store }));
 * ```
 *
 * @module
 */

import { memoryBackend } from "./src/memory.ts";
import { checkOptions, type StoreOptions, storeRules } from "./src/options.ts";
import { createStore, type Store } from "./src/store.ts";

export {
  ClosedError,
  DecodeError,
  EncodeError,
  type Operation,
  StoreError,
  type StoreErrorOptions,
  TimeoutError,
  TooLargeError,
} from "./src/errors.ts";
export type { StoreOptions } from "./src/options.ts";
export type { Health, Store, StoreFactory } from "./src/store.ts";

/**
 * A store in memory, for tests and for trying things out: what it holds is gone with the process.
 * It behaves as the stores of the databases do, down to what JSON makes of a session.
 *
 * @param options the options that all stores share.
 * @throws {TypeError} for an unknown option or one of the wrong type.
 * @throws {RangeError} for an option out of range.
 */
// deno-lint-ignore no-explicit-any
export function Memory(options?: StoreOptions): Store<any>;
/**
 * A store in memory for sessions of the given type.
 *
 * @typeParam Session what the bot keeps per chat.
 * @param options the options that all stores share.
 */
export function Memory<Session>(options?: StoreOptions): Store<Session>;
export function Memory<Session>(options: StoreOptions = {}): Store<Session> {
  checkOptions("Memory", options, storeRules);
  return createStore(memoryBackend(), options);
}

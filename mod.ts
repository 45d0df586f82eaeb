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
import { type StoreOptions, storeRules } from "./src/options.ts";
import { type StoreFactory, storeFactory } from "./src/store.ts";

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
 * @throws {TypeError} for an unknown option or one of the wrong type.
 * @throws {RangeError} for an option out of range.
 */
export const Memory: StoreFactory<StoreOptions | void> = storeFactory({
  name: "Memory",
  rules: storeRules,
  backend: () => memoryBackend(),
});

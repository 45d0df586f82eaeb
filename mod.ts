/**
 * The types and errors of all stores, and a store in memory.
 *
 * Do not import this path for storage. The stores are in `@telegraf/session/redis`, `/mongodb`,
 * `/sqlite`, `/pg`, `/mysql`, `/kysely` and `/denokv`, because each needs its own driver.
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
import { type StoreFactory, storeFactory } from "./src/store/factory.ts";

export {
  ClosedError,
  DecodeError,
  EncodeError,
  LateChangeError,
  LeaseError,
  type LeaseHolder,
  type Operation,
  StoreError,
  type StoreErrorOptions,
  TimeoutError,
  TooLargeError,
  VersionError,
} from "./src/errors.ts";
export type {
  Changed,
  ExclusiveOptions,
  MoveOptions,
  UpdateContext,
  UpdateOptions,
} from "./src/lease/options.ts";
export type {
  CacheOptions,
  EncryptOptions,
  Migration,
  SessionCodec,
  StoreOptions,
} from "./src/options.ts";
export {
  followMigrations,
  type MigrationContext,
  type MigrationOptions,
} from "./src/store/migrations.ts";
export type { PrefixOptions } from "./src/store/entry.ts";
export type { Health, Store } from "./src/store/store.ts";
export type { BatchTrace, OperationTrace, TraceMessage } from "./src/store/tracing.ts";
export type { StoreFactory } from "./src/store/factory.ts";

/**
 * A store in memory, for tests and experiments. Its sessions are lost when the process ends. It
 * behaves like the stores of the databases, and stores sessions as JSON text too.
 *
 * @throws {TypeError} if an option is unknown or has the wrong type.
 * @throws {RangeError} if an option is out of range.
 */
export const Memory: StoreFactory<StoreOptions | void> = storeFactory({
  name: "Memory",
  rules: storeRules,
  backend: () => memoryBackend(),
});

/**
 * Stores on a database of your own. `docs/backend.md` builds one, step by step.
 *
 * @module
 */

export {
  type Backend,
  type Claim,
  type Claimed,
  type Codec,
  defaultLimits,
  type Entry,
  type Held,
  type LeasePage,
  type Leases,
  type Limits,
  type MaybePromise,
  type Opening,
  type Packing,
  type Page,
  type Plan,
  type Refusal,
  type Replacement,
  type Settlement,
  type StoredAs,
} from "./src/backend.ts";
export { json } from "./src/codec/json.ts";
export { disconnected } from "./src/network.ts";
export { createStore } from "./src/store/factory.ts";
export type { Store } from "./src/store/store.ts";
export type { StoreOptions } from "./src/options.ts";

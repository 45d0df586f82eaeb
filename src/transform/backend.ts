/**
 * A layer between a store and its database, for the options `encrypt`, `codec` and `version`. The store
 * works with sessions in plain form, so that it finds out what has changed; the database gets the stored
 * form:
 *
 * `session → codec → plain form → (queue, batches) → header and encryption → stored form`
 *
 * What needs the database or `node:crypto` is in `stored.ts`, which is loaded when the database is opened.
 *
 * @module
 */

import { types } from "node:util";
import type { Backend, Leases, MaybePromise } from "../backend.ts";
import type { StoreOptions } from "../options.ts";
import { checkTransforms } from "./options.ts";
import { type Plain, PlainCodec } from "./plain.ts";
import type { StoredValues } from "./stored.ts";

/**
 * Puts the layer above a backend, if the options need it.
 *
 * @param name the factory's name, for messages.
 * @throws {TypeError} if an option cannot work.
 */
export function transformed<Encoded>(
  name: string,
  backend: Backend<Encoded>,
  options: StoreOptions,
  // deno-lint-ignore no-explicit-any
): Backend<any> {
  checkTransforms(name, options);
  const { encrypt, codec, version } = options;
  const isNeeded = encrypt !== undefined || codec !== undefined || version !== undefined;
  return isNeeded ? layered(backend, options) : backend;
}

/** Puts the layer above a backend. The options have been checked. */
export function layered<Encoded>(
  backend: Backend<Encoded>,
  options: StoreOptions,
): Backend<Plain<Encoded>> {
  const { encrypt, codec, version, onNewer } = options;
  let values: StoredValues<Encoded>;
  const { leases } = backend;
  return {
    ...backend,
    packing: undefined,
    codec: new PlainCodec(backend.codec, options),
    leases: typeof leases === "object" ? transformedLeases(leases, () => values) : leases,
    shared: { ...backend.shared, encrypt: encrypt?.keys.join(), codec, version, onNewer },
    async open(opening) {
      const { StoredValues } = await import("./stored.ts");
      values ??= new StoredValues(backend, options);
      return await backend.open(opening);
    },
    read: (...query) => after(backend.read(...query), (found) => found.map(values.plain)),
    write: (entries, signal, fresh) => backend.write(entries.map(values.stored), signal, fresh),
    replace: (replacements, signal) =>
      backend.replace(
        replacements.map(({ key, before, after }) => ({
          key,
          before: before.stored!,
          after: values.stored({ key, value: after }).value,
        })),
        signal,
      ),
  };
}

function transformedLeases<Encoded>(
  leases: Leases<Encoded>,
  values: () => StoredValues<Encoded>,
): Leases<Plain<Encoded>> {
  return {
    claim: (claims, signal) =>
      after(leases.claim(claims, signal), (all) =>
        all.map((claimed) => {
          const { entry } = claimed;
          return { ...claimed, entry: entry && values().plain(entry) };
        })),
    settle: (settlements, signal) =>
      leases.settle(
        settlements.map((settlement) => {
          const { change } = settlement;
          return { ...settlement, change: change && values().stored(change) };
        }),
        signal,
      ),
    held: (start, size, signal) => leases.held(start, size, signal),
  };
}

/** Maps a result. Embedded databases stay synchronous. */
function after<T, Result>(result: MaybePromise<T>, map: (result: T) => Result) {
  return types.isPromise(result) ? (result as Promise<T>).then(map) : map(result as T);
}

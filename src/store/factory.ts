/**
 * Factories of stores, which may be called with or without `new`.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import { type Rules, type StoreOptions, storeRules } from "../options.ts";
import { transformed } from "../transform/backend.ts";
import { checkOptions } from "../validation.ts";
import { makeStore, type Store } from "./store.ts";

/**
 * Makes a store; may be called with or without `new`.
 *
 * @typeParam Options the options; with `void` if the factory may be called without any.
 */
export interface StoreFactory<Options> {
  /** A store for sessions of any type, as `session({ store })` wants it. */
  // deno-lint-ignore no-explicit-any
  (options: Options): Store<any>;
  /** A store for sessions of the given type. */
  <Session>(options: Options): Store<Session>;
  /** A store for sessions of any type. */
  // deno-lint-ignore no-explicit-any
  new (options: Options): Store<any>;
  /** A store for sessions of the given type. */
  new <Session>(options: Options): Store<Session>;
}

/** Defines a factory: its name, the rules of its options, and how it makes a backend from them. */
export interface FactoryDefinition<Options, Encoded> {
  readonly name: string;
  readonly rules: Rules<Options>;
  /** Options that pass in a client, pool or database, each with the options it makes pointless. */
  readonly existing?: Readonly<Record<string, readonly string[]>>;
  /** Makes the backend. Opens nothing. */
  backend(options: Options): Backend<Encoded>;
}

// deno-lint-ignore no-explicit-any
const definitions = new WeakMap<object, FactoryDefinition<any, unknown>>();

/**
 * The backend of the store that a factory would make. The command line uses it to move stored values
 * without decoding them.
 */
export function backendOf<Options>(
  factory: StoreFactory<Options>,
  options: Options,
): Backend<unknown> {
  const { name, rules, existing, backend } = definitions.get(factory)!;
  checkOptions(name, options, rules, existing);
  return backend(options);
}

/** What every backend has, by type. */
const parts = {
  string: ["system", "place", "scope"],
  object: ["handle", "codec"],
  function: [
    ...["open", "read", "write", "replace", "renew", "remove", "page", "close", "transient"],
  ],
};

/**
 * Makes a store on a database of your own. `docs/backend.md` shows how to write the backend.
 *
 * @typeParam Session what the bot keeps per chat.
 * @param options those that all stores have.
 * @throws {TypeError} if the backend lacks a part, or if an option is unknown or has the wrong type.
 * @throws {RangeError} if an option is out of range.
 */
export function createStore<Session, Encoded = string>(
  backend: Backend<Encoded>,
  options: StoreOptions = {},
): Store<Session> {
  for (const [type, names] of Object.entries(parts)) {
    for (const name of names) {
      const part = (backend as unknown as Record<string, unknown> | undefined)?.[name];
      if (typeof part === type && part !== null) continue;
      const expected = `${type === "object" ? "an" : "a"} ${type}`;
      throw new TypeError(`createStore: the backend's "${name}" must be ${expected}`);
    }
  }
  checkOptions("createStore", options, storeRules);
  return makeStore(transformed("createStore", backend, options), options);
}

/** Makes a factory from its definition. */
export function storeFactory<Options extends StoreOptions, Encoded>(
  definition: FactoryDefinition<Options, Encoded>,
): StoreFactory<Options | void> {
  const { name, rules, existing, backend } = definition;
  // A plain function because callers may use it with or without `new`.
  function factory(options: Options = {} as Options): Store<unknown> {
    checkOptions(name, options, rules, existing);
    return makeStore(transformed(name, backend(options), options), options);
  }
  // Explains the mistake `session({ store: Redis })`. These methods are not in the type, so the
  // compiler refuses it too.
  const value = () => {
    throw new TypeError(`${name} must be called: write session({ store: ${name}({ … }) })`);
  };
  Object.defineProperties(factory, {
    name: { value: name },
    get: { value },
    set: { value },
    delete: { value },
  });
  definitions.set(factory, definition);
  return factory as unknown as StoreFactory<Options | void>;
}

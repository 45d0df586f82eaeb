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

import { Buffer } from "node:buffer";
import { after, type Backend, type Codec, isPromise, type Leases } from "../backend.ts";
import { needsCodec, newer, type Plain } from "../codec/header.ts";
import { reason, type StoreError, VersionError } from "../errors.ts";
import type { StoreOptions } from "../options.ts";
import { checkTransforms, described, isBytes, keyBytes } from "../validation.ts";
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
    shared: {
      ...backend.shared,
      encrypt: encrypt?.keys.map((key) => keyBytes(key)!.toString("base64")).join(),
      codec,
      version,
      onNewer,
    },
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
    find: (keys, signal) => leases.find(keys, signal),
  };
}

/** Sessions and their plain form. */
export class PlainCodec<Encoded> implements Codec<Plain<Encoded>> {
  readonly #format: Codec<Encoded>;
  readonly #codec: StoreOptions["codec"];
  readonly #version: number;
  readonly #migrate: NonNullable<StoreOptions["migrate"]>;
  readonly #keepsNewer: boolean;
  /** Encrypted text is longer. */
  readonly #growth: number;
  /** The versions of sessions that are newer than the store. */
  readonly #newer = new WeakMap<object, number>();
  readonly storedAs: Codec<Encoded>["storedAs"];

  constructor(format: Codec<Encoded>, options: StoreOptions) {
    this.#format = format;
    this.#codec = options.codec;
    this.#version = options.version ?? 0;
    this.#migrate = options.migrate ?? {};
    this.#keepsNewer = options.onNewer === "keep";
    this.#growth = options.encrypt === undefined ? 1 : 4 / 3;
    this.storedAs = options.codec === undefined ? format.storedAs : undefined;
  }

  encode(session: unknown): Plain<Encoded> {
    const version = this.#newer.get(session as object) ?? this.#version;
    if (this.#codec === undefined) return { version, content: this.#format.encode(session) };
    const content = this.#codec.encode(session);
    if (typeof content === "string") return { version, form: "text", content };
    // A copy, because the codec may use its memory again.
    if (isBytes(content)) {
      return { version, form: "bytes", content: Buffer.from(content) };
    }
    const made = described(content);
    throw new TypeError(`option "codec" must encode to text or a Uint8Array, but made ${made}`);
  }

  decode(plain: Plain<Encoded>, key: string): unknown {
    const { version, problem } = plain;
    if (problem !== undefined) throw problem;
    if (version > this.#version && !this.#keepsNewer) {
      throw this.#versionError(newer(version, this.#version), version, key);
    }
    const session = this.#session(plain, key);
    if (version <= this.#version) return this.#migrated(session, version, key);
    if (typeof session === "object" && session !== null) this.#newer.set(session, version);
    return session;
  }

  equal(a: Plain<Encoded>, b: Plain<Encoded>): boolean {
    if (a.outdated || b.outdated || a.version !== b.version || a.form !== b.form) return false;
    if (a.form === "text") return a.content === b.content;
    if (a.form === "bytes") return Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
    return this.#format.equal(a.content as Encoded, b.content as Encoded);
  }

  size({ form, content }: Plain<Encoded>): number {
    const size = form === undefined
      ? this.#format.size(content as Encoded)
      : (content as string | Uint8Array).length;
    return size * this.#growth;
  }

  /** What `onCorrupt` gets. */
  stored(plain: Plain<Encoded>): unknown {
    return plain.stored;
  }

  #session({ form, content }: Plain<Encoded>, key: string): unknown {
    if (form === undefined) return this.#format.decode(content as Encoded, key);
    if (this.#codec === undefined) throw needsCodec(key);
    // A copy, because the session may contain parts of it.
    const copy = form === "bytes" ? Buffer.from(content as Uint8Array) : content;
    return synchronous(this.#codec.decode(copy), 'option "codec"');
  }

  /** Runs the missing steps. */
  #migrated(session: unknown, version: number, key: string): unknown {
    if (session === undefined) return undefined;
    for (let step = version + 1; step <= this.#version; step++) {
      try {
        const result = synchronous(this.#migrate[step]!(session), "it");
        if (result !== undefined) session = result;
      } catch (cause) {
        const why = `its migration from version ${step - 1} to ${step} failed: ${reason(cause)}`;
        throw this.#versionError(why, version, key, cause);
      }
    }
    return session;
  }

  #versionError(why: string, version: number, key: string, cause?: unknown): StoreError {
    return new VersionError(why, { operation: "read", key, version, cause });
  }
}

const bytesOf = ({ content }: Plain<unknown>) => content as Uint8Array;

/** Returns what a function of the user has returned. */
function synchronous<T>(result: T, what: string): T {
  if (!isPromise(result)) return result;
  Promise.resolve(result).catch(() => {}); // what is thrown here is the error
  throw new TypeError(`${what} returned a promise`);
}

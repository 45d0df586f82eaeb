/** Stores with `encrypt`, `codec` and `version`. Run beside the whole suite with these options. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { setImmediate } from "node:timers";
import type { Backend, Entry, Leases } from "../backend.ts";
import type { SessionCodec, StoreOptions } from "../options.ts";
import type { Store } from "../store/store.ts";
import { transformed } from "../transform/backend.ts";
import type { Plain } from "../codec/header.ts";
import { type Harness, large, newPlace, openBackend, type Test } from "./harness.ts";

const [key1, key2] = [1, 2].map((byte) => Buffer.alloc(32, byte).toString("base64")) as [
  string,
  string,
];

/** The harness of a store with `encrypt`, `version` and `debug`. */
export function withLayers(harness: Harness): Harness {
  const { name, backend, store } = harness;
  if (backend === undefined) throw new TypeError('conformance(): "encrypted" needs "backend"');
  const encrypt = { keys: [key1, key2] };
  const layers = { encrypt, version: 1, migrate: { 1: () => {} }, debug: true };
  return {
    ...harness,
    name: `${name}, encrypted`,
    rawBackend: backend,
    store: (where, options) => store(where, { ...layers, ...options }),
    backend: (where, options) =>
      comparable(transformed("Test", backend(where, options), { ...layers, ...options })),
  };
}

/** The backend, with values that are equal if they are the same session. */
function comparable(backend: Backend<Plain<unknown>>): Backend<Plain<unknown>> {
  const entry = (entry: Entry<Plain<unknown>>) => {
    const { version, content, ...others } = entry.value;
    const hidden = Object.entries(others).map(([name, value]) => [name, { value }]);
    const value = Object.defineProperties({ version, content }, Object.fromEntries(hidden));
    return { ...entry, value };
  };
  const leases = backend.leases as Leases<Plain<unknown>>;
  return {
    ...backend,
    read: async (keys, signal) => (await backend.read(keys, signal)).map(entry),
    leases: {
      claim: async (claims, signal) =>
        (await leases.claim(claims, signal)).map((it) => ({
          ...it,
          entry: it.entry && entry(it.entry),
        })),
      settle: (settlements, signal) => leases.settle(settlements, signal),
      held: (start, size, signal) => leases.held(start, size, signal),
      find: (keys, signal) => leases.find(keys, signal),
    },
  };
}

/** Reads what either form of it has stored. */
const decode = (stored: string | Uint8Array) => JSON.parse(String(stored));
const text: SessionCodec = { encode: (session) => JSON.stringify(session), decode };
const bytes: SessionCodec = { encode: (session) => Buffer.from(text.encode(session)), decode };
const count = (session: { count: number }) => void session.count++;

/** Options that bots may get in the course of time, the oldest first. */
const ages: { readonly [Option in "encrypt" | "codec" | "version"]: readonly StoreOptions[] } = {
  encrypt: [{}, { encrypt: { keys: [key1] } }, { encrypt: { keys: [key2, key1] } }],
  codec: [{}, { codec: text }, { codec: bytes }],
  version: [{}, { version: 1, migrate: { 1: count } }, {
    version: 2,
    migrate: { 1: count, 2: count },
  }],
};

/** All combinations. A newer one has no older option. */
const combinations = ages.encrypt.flatMap((encrypt, i) =>
  ages.codec.flatMap((codec, j) =>
    ages.version.map((version, k) => ({
      age: [i, j, k] as const,
      options: { ...encrypt, ...codec, ...version },
    }))
  )
);

const { signal } = new AbortController();

/** Bytes in a document of MongoDB. */
interface Binary {
  readonly buffer: Uint8Array;
  readonly sub_type: number;
  readonly constructor: new (bytes: Uint8Array, subType: number) => Binary;
}

/** A stored value of which one bit is another one. */
function changed(value: unknown): unknown {
  if (typeof value === "string") {
    const last = value.search(/.=*$/);
    return value.slice(0, last - 1) + (value[last - 1] === "A" ? "B" : "A") + value.slice(last);
  }
  const { buffer, sub_type, constructor } = value as Binary;
  const bytes = Buffer.from(buffer);
  bytes[bytes.length - 1]! ^= 1;
  return new constructor(bytes, sub_type);
}

export function layers(test: Test, harness: Harness): void {
  const { store: open, rawBackend, writeOld, noLeases } = harness;

  /** Opens the stores of a test without `debug`, because it changes sessions after they were stored. */
  const store = (where: string, options: StoreOptions) =>
    open(where, { encrypt: undefined, version: undefined, migrate: undefined, ...options });

  test("reads what all older combinations of options stored", async (_, where) => {
    for (const { age, options } of combinations) {
      await using writer = store(where, options);
      await writer.set(age.join(), { count: age[2] });
    }
    for (const { age, options } of combinations) {
      await using reader = store(where, options);
      const older = combinations.filter((it) => it.age.every((n, i) => n <= age[i]!));
      const found = await Promise.all(older.map((it) => reader.get(it.age.join())));
      assert.deepEqual(found, older.map(() => ({ count: age[2] })), age.join());
    }
  });

  if (writeOld !== undefined) {
    test("reads what 2.0.0-beta.7 stored, and changes it", async (_, where) => {
      for (const { age } of combinations) await writeOld(where, age.join(), { count: 0 });
      for (const { age, options } of combinations) {
        const key = age.join();
        await using first = store(where, options);
        const session = await first.get(key);
        assert.deepEqual(session, { count: age[2] }, key);
        await first.set(key, session);
        await first.set(key, { ...session, more: true });
        await using second = store(where, options);
        assert.deepEqual(await second.get(key), { count: age[2], more: true }, key);
      }
    });
  }

  test("stores nothing that can be read without the key", async (_, where) => {
    const plainest = { encrypt: { keys: [key1] } };
    await using encrypting = store(where, plainest);
    await encrypting.set("k", { secret: 1 });
    await using other = store(where, {});
    await assert.rejects(other.get("k"), {
      name: "DecodeError",
      message: /the store has no option/,
    });
    await using stranger = store(where, { encrypt: { keys: [key2] } });
    await assert.rejects(stranger.get("k"), { name: "DecodeError", message: /none of the keys/ });
    assert.deepEqual(await encrypting.get("k"), { secret: 1 });
  });

  test("refuses what was not encrypted for its key and its place", async (store, where) => {
    const elsewhere = newPlace();
    await using other = open(elsewhere);
    const raw = await openBackend({ ...harness, backend: rawBackend! }, where);
    const otherRaw = await openBackend({ ...harness, backend: rawBackend! }, elsewhere);
    try {
      await Promise.all([store.set("k", { a: 1 }), other.set("k", { a: 2 })]);
      const [{ value }] = await raw.read(["k"], signal) as [Entry<unknown>];
      await raw.write(
        [{ key: "another", value }, { key: "changed", value: changed(value) }],
        signal,
      );
      await otherRaw.write([{ key: "k", value }], signal);
      const attempts = [[store, "another"], [store, "changed"]] as [Store<unknown>, string][];
      // Places of SQLite are files with a table of the same name.
      if (raw.place !== otherRaw.place) attempts.push([other, "k"]);
      for (const [at, key] of attempts) {
        await assert.rejects(at.get(key), {
          name: "DecodeError",
          message: /not what was encrypted/,
        });
      }
      assert.deepEqual(await store.get("k"), { a: 1 });
    } finally {
      await Promise.all([raw.close(), otherRaw.close()]);
      await harness.drop(elsewhere);
    }
  });

  test("refuses a newer version, and changes nothing", async (_, where) => {
    await using newer = store(where, { version: 1, migrate: { 1: count } });
    await newer.set("k", { a: 1 });
    await using older = store(where, { onCorrupt: "discard" });
    await assert.rejects(older.get("k"), { name: "VersionError", version: 1 });
    assert.deepEqual(await newer.get("k"), { a: 1 });
    await older.set("k", { count: 0 }); // without reading it
    assert.deepEqual(await newer.get("k"), { count: 1 });
  });

  test(
    "rotate() encrypts all sessions with the newest key while others write",
    async (_, where) => {
      const all = Array.from({ length: 150 }, (_, i) => `chat:${i}`);
      const big = large(harness);
      await using old = store(where, { encrypt: { keys: [key1] } });
      await using rotating = store(where, { encrypt: { keys: [key2, key1] } });
      await Promise.all(all.map((key) => old.set(key, { count: 0 })));
      await old.set("large", big);
      // FerretDB 1 cannot change a document atomically.
      let isRotating = noLeases === false;
      const counts = new Map<string, number>();
      const writing = (async () => {
        for (let i = 0; isRotating; i++) {
          const key = all[i % 10]!;
          const session = await rotating.get(key);
          session.count++;
          await rotating.set(key, session);
          counts.set(key, session.count);
          await new Promise((resolve) => setImmediate(resolve)); // memory needs no time
        }
      })();
      await rotating.rotate().finally(() => isRotating = false);
      await writing;
      await rotating.rotate();
      await using newest = store(where, { encrypt: { keys: [key2], required: true } });
      const found = await Promise.all(all.map((key) => newest.get(key)));
      assert.deepEqual(found, all.map((key) => ({ count: counts.get(key) ?? 0 })));
      assert.deepEqual(await newest.get("large"), big);
    },
  );
}

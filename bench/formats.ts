/**
 * Measures what `encrypt` and compression by `codec` cost in size and CPU, without a database.
 *
 * Usage: `deno run -A bench/formats.ts`
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { performance } from "node:perf_hooks";
import { gunzipSync, gzipSync } from "node:zlib";
import type { StoreOptions } from "../mod.ts";
import { memoryBackend } from "../src/memory.ts";
import type { Entry } from "../src/backend.ts";
import { PlainCodec } from "../src/transform/backend.ts";
import { StoredValues } from "../src/transform/stored.ts";

const key = Buffer.alloc(32, 1).toString("base64");
const gzip = {
  encode: (session: unknown) => gzipSync(JSON.stringify(session)),
  decode: (stored: Uint8Array) => JSON.parse(String(gunzipSync(stored))),
};
const formats: Record<string, StoreOptions> = {
  "JSON": {},
  "JSON, encrypted": { encrypt: { keys: [key] } },
  "gzip": { codec: gzip },
  "gzip, encrypted": { codec: gzip, encrypt: { keys: [key] } },
};

/** A cart, as a shop's bot has it: names repeat, numbers do not. */
function sessionOf(bytes: number): object {
  const cart: object[] = [];
  const session = { step: "checkout", cart };
  for (let seed = 1; JSON.stringify(session).length < bytes; seed = seed * 48271 % 2147483647) {
    cart.push({ id: seed, name: `Article ${seed % 97}`, price: seed % 9999 / 100, count: 1 });
  }
  return session;
}

/** Makes a function that stores and reads the session once, and returns the stored text. */
function roundTrip(options: StoreOptions, session: object): () => string {
  const backend = { ...memoryBackend(), place: "telegraf-sessions" };
  const codec = new PlainCodec(backend.codec, options);
  const values = new StoredValues(backend, options);
  return () => {
    const stored: Entry<string> = values.stored({ key: "1:1", value: codec.encode(session) });
    codec.decode(values.plain(stored).value, "1:1");
    return stored.value;
  };
}

const sizes = [300, 4_000, 60_000];
const rounds = 200;
console.log("| format | " + sizes.map((size) => `${size} bytes`).join(" | ") + " |");
console.log("| --- |" + " --- |".repeat(sizes.length));
const times = sizes.map((size) => {
  const all = Object.values(formats).map((options) => roundTrip(options, sessionOf(size)));
  const found = all.map(() => [] as number[]);
  const batch = Math.ceil(60_000 / size);
  // One after the other in each round, so that the load of the machine is the same for all.
  for (let round = 0; round < rounds; round++) {
    for (const [i, run] of all.entries()) {
      const start = performance.now();
      for (let n = 0; n < batch; n++) run();
      found[i]!.push((performance.now() - start) / batch * 1000);
    }
  }
  return found.map((each) => each.toSorted((a, b) => a - b)[rounds / 2]!);
});
for (const [i, name] of Object.keys(formats).entries()) {
  const cells = sizes.map((size, j) => {
    const { length } = roundTrip(formats[name]!, sessionOf(size))();
    return `${length} bytes, ${times[j]![i]!.toFixed(0)} µs`;
  });
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}

/** The published suite fails for a backend with a fault. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createStore } from "../../backend.ts";
import type { Backend, Leases } from "../../src/backend.ts";
import { memoryBackend, MemoryData } from "../../src/memory.ts";
import { conformance } from "../../testing.ts";

type Change = (backend: Backend, leases: Leases<string>) => Partial<Backend>;

/** What a backend may do wrong, and a word in the title of the first test that fails then. */
const faults: Record<string, [expected: RegExp, change: Change]> = {
  "nothing": [/^$/, () => ({})],
  "forgets a write": [/set\(\) stored/, () => ({ write() {} })],
  "deletes nothing": [/delete\(\)/, () => ({ remove() {} })],
  "folds the case of keys": [
    /byte by byte/,
    ({ read, write }) => ({
      read: (keys, signal) => read(keys.map((key) => key.toLowerCase()), signal),
      write: (entries, signal) =>
        write(entries.map((it) => ({ ...it, key: it.key.toLowerCase() })), signal),
    }),
  ],
  "stores only the first entry of a batch": [
    /./,
    ({ write }) => ({ write: (entries, signal) => write(entries.slice(0, 1), signal) }),
  ],
  "lists no more than a page": [
    /keys\(\), entries\(\)/,
    ({ page }) => ({
      page: async (...query) => ({ entries: (await page(...query)).entries }),
    }),
  ],
  "forgets the expiry": [
    /expire|expiry/,
    ({ write }) => ({
      write: (entries, signal) => write(entries.map(({ key, value }) => ({ key, value })), signal),
    }),
  ],
  "does not renew": [/unless an update reads it/, () => ({ renew() {} })],
  "replaces what has changed": [
    /replace/,
    ({ write }) => ({
      replace: (all, signal) => write(all.map(({ key, after }) => ({ key, value: after })), signal),
    }),
  ],
  "grants a lease that is held": [
    /move|lease|update/,
    (_, leases) => ({
      leases: {
        ...leases,
        async claim(claims, signal) {
          for (const { key, token } of await leases.find(claims.map(({ key }) => key), signal)) {
            await leases.settle([{ key, token, length: 0, change: undefined }], signal);
          }
          return leases.claim(claims, signal);
        },
      },
    }),
  ],
  "claims the leases that it looks for": [
    /found by its key/,
    (_, leases) => ({
      leases: {
        ...leases,
        find(keys, signal) {
          leases.claim(keys.map((key) => ({ key, token: "t", length: 60_000 })), signal);
          return [];
        },
      },
    }),
  ],
  "lets anyone settle": [
    /./,
    ({ write }, leases) => ({
      leases: {
        ...leases,
        async settle(settlements, signal) {
          for (const { change } of settlements) if (change) await write([change], signal);
          await leases.settle(settlements, signal);
          return [];
        },
      },
    }),
  ],
};

/** Runs the suite until a test fails, and returns its title. */
async function firstFailure(change: Change): Promise<string> {
  const places = new Map<string, MemoryData>();
  const backend = (place: string): Backend => {
    const data = places.get(place) ?? new MemoryData();
    places.set(place, data);
    const memory = memoryBackend(data);
    return { ...memory, ...change(memory, memory.leases as Leases<string>) };
  };
  const tests: [title: string, body: () => Promise<void>][] = [];
  conformance({
    test: (title, body) => tests.push([title, body]),
    name: "Faulty",
    store: (place, options) => createStore(backend(place), options),
    backend,
    updates: 50,
  });
  assert.ok(tests.length > 100);
  for (const [title, body] of tests) {
    try {
      await body();
    } catch {
      return title;
    }
  }
  return "";
}

describe("the conformance suite", () => {
  for (const [fault, [expected, change]] of Object.entries(faults)) {
    it(`fails for a backend that does wrong: ${fault}`, async () => {
      assert.match(await firstFailure(change), expected);
    });
  }
});

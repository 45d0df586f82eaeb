import { memoryBackend, MemoryData } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { transformed } from "../../src/transform/backend.ts";
import { Memory } from "../../mod.ts";
import { conformance, encryptedConformance, type Harness } from "../support/conformance.ts";

const places = new Map<string, MemoryData>();

/** The data of a place. */
function data(where: string): MemoryData {
  const found = places.get(where) ?? new MemoryData();
  places.set(where, found);
  return found;
}

const backend = (where: string) => ({ ...memoryBackend(data(where)), place: where });

const harness: Harness = {
  name: "Memory",
  store(where, options) {
    Memory(options); // checks the options as its users see it
    return makeStore(transformed("Memory", backend(where), options ?? {}), options);
  },
  backend,
  drop(where) {
    places.delete(where);
    return Promise.resolve();
  },
  corrupt(where, key) {
    data(where).sessions.set(key, { key, value: "{no JSON" });
    return Promise.resolve();
  },
};

conformance(harness);
encryptedConformance(harness);

import type { Entry } from "../../src/backend.ts";
import { memoryBackend } from "../../src/memory.ts";
import { createStore } from "../../src/store/store.ts";
import { Memory } from "../../mod.ts";
import { conformance, type Harness } from "../suites/conformance/index.ts";
import { underTelegraf } from "../suites/telegraf.ts";

const places = new Map<string, Map<string, Entry<string>>>();

/** The sessions of a place. */
function sessions(where: string): Map<string, Entry<string>> {
  const found = places.get(where) ?? new Map();
  places.set(where, found);
  return found;
}

const harness: Harness = {
  name: "Memory",
  dates: "text",
  prunes: true,
  store(where, options) {
    Memory(options); // checks the options as its users see it
    return createStore(memoryBackend(sessions(where)), options);
  },
  drop(where) {
    places.delete(where);
    return Promise.resolve();
  },
  corrupt(where, key) {
    sessions(where).set(key, { key, value: "{no JSON" });
    return Promise.resolve();
  },
};

conformance(harness);
underTelegraf(harness);

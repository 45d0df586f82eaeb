/**
 * The smallest backend: sessions in a `Map`.
 *
 * @module
 */

import type { Backend, Entry } from "./backend.ts";
import { json } from "./codec.ts";

/** A backend on a map; each is a connection of its own. */
export function memoryBackend(sessions: Map<string, Entry<string>> = new Map()): Backend {
  return {
    handle: {},
    scope: "",
    codec: json,
    limits: { keys: Infinity, bytes: Infinity },
    open() {},
    read: (keys) => keys.flatMap((key) => sessions.get(key) ?? []),
    write(entries) {
      for (const entry of entries) sessions.set(entry.key, entry);
    },
    remove(keys) {
      for (const key of keys) sessions.delete(key);
    },
    close() {},
    transient: () => false,
  };
}

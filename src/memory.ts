/**
 * The smallest backend: sessions in a `Map`.
 *
 * @module
 */

import type { Backend, Entry } from "./backend.ts";
import { json } from "./codec/json.ts";

/** A backend on a map. Each one is independent of all others. */
export function memoryBackend(sessions: Map<string, Entry<string>> = new Map()): Backend {
  return {
    handle: {},
    scope: "",
    codec: json,
    open: () => ({ keys: Infinity, bytes: Infinity }),
    read: (keys) => keys.flatMap((key) => sessions.get(key) ?? []),
    write(entries) {
      for (const entry of entries) sessions.set(entry.key, entry);
    },
    renew(keys, expires) {
      for (const key of keys) {
        const entry = sessions.get(key);
        if (entry !== undefined) sessions.set(key, { ...entry, expires });
      }
    },
    remove(keys) {
      for (const key of keys) sessions.delete(key);
    },
    page: (start = "", size) => {
      const keys = [...sessions.keys()].filter((key) => key > start).sort().slice(0, size);
      const entries = keys.map((key) => sessions.get(key)!);
      return { entries, next: keys.length < size ? undefined : keys.at(-1) };
    },
    prune(now) {
      const old = [...sessions.values()].filter(({ expires = Infinity }) => expires <= now);
      for (const { key } of old) sessions.delete(key);
      return old.length;
    },
    close() {},
    transient: () => false,
  };
}

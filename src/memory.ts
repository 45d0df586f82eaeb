/**
 * The smallest backend: sessions in a `Map`.
 *
 * @module
 */

import type { Backend, Claim, Entry, Held, Leases } from "./backend.ts";
import { json } from "./codec/json.ts";

/** A lease that is held until a time in ms since the epoch, or that was released at 0. */
interface Lease {
  readonly token: string;
  readonly until: number;
  note: string | undefined;
}

/** What a backend in memory stores. Two backends may share it. */
export class MemoryData {
  readonly sessions: Map<string, Entry<string>> = new Map();
  readonly leases: Map<string, Lease> = new Map();
}

/**
 * A backend on a map. Each one is independent of all others.
 *
 * @param now the clock of leases, in ms since the epoch.
 */
export function memoryBackend(
  { sessions, leases }: MemoryData = new MemoryData(),
  now: () => number = Date.now,
): Backend {
  return {
    system: "memory",
    handle: {},
    scope: "",
    place: "",
    codec: json,
    leases: memoryLeases({ sessions, leases }, now),
    open: () => ({ keys: Infinity, bytes: Infinity }),
    read: (keys) => keys.flatMap((key) => sessions.get(key) ?? []),
    write(entries) {
      for (const entry of entries) sessions.set(entry.key, entry);
    },
    replace(replacements) {
      for (const { key, before, after } of replacements) {
        const entry = sessions.get(key);
        if (entry?.value === before) sessions.set(key, { ...entry, value: after });
      }
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
    page: (start = "", size, _signal, prefix = "") =>
      page([...sessions.values()].filter(({ key }) => key.startsWith(prefix)), start, size),
    prune(time) {
      const old = [...sessions.values()].filter(({ key, expires = Infinity }) =>
        expires <= time && !((leases.get(key)?.until ?? 0) > now())
      );
      for (const { key } of old) sessions.delete(key);
      return old.length;
    },
    close() {},
    transient: () => false,
  };
}

function memoryLeases({ sessions, leases }: MemoryData, now: () => number): Leases<string> {
  const hold = ({ key, token, length }: Claim) =>
    leases.set(key, { token, until: length > 0 ? now() + length : 0, note: leases.get(key)?.note });
  const find = (keys: Iterable<string>): Held[] =>
    [...keys].flatMap((key) => {
      const { token = "", until = 0 } = leases.get(key) ?? {};
      return until > now() ? { key, token, left: until - now() } : [];
    });
  return {
    claim: (claims) =>
      claims.map((claim) => {
        const { key, token } = claim;
        const held = leases.get(key);
        if (held !== undefined && held.token !== token && held.until > now()) {
          return { key, token: held.token };
        }
        hold(claim);
        return { key, token, entry: sessions.get(key), note: held?.note };
      }),
    settle: (settlements) =>
      settlements.flatMap((settlement) => {
        const { key, token, length, change, absent, note } = settlement;
        const held = leases.get(key);
        if (held?.token !== token) {
          const nothing = !change && length === 0 && held === undefined && !sessions.has(key);
          return nothing ? [] : { key, token: held?.token };
        }
        if (change) sessions.set(key, change);
        else if (change === null) sessions.delete(key);
        const removed = change === null || absent && change === undefined && !sessions.has(key);
        held.note = note ?? held.note;
        if (removed && length === 0 && held.note === undefined) leases.delete(key);
        else hold(settlement);
        return [];
      }),
    held(start = "", size) {
      const { entries, next } = page(find(leases.keys()), start, size);
      return { leases: entries, next };
    },
    find,
  };
}

/** The items whose keys follow `start`, in the order of keys. */
function page<T extends { readonly key: string }>(all: T[], start: string, size: number) {
  const entries = all.filter(({ key }) => key > start)
    .sort((a, b) => a.key < b.key ? -1 : 1).slice(0, size);
  return { entries, next: entries.length < size ? undefined : entries.at(-1)?.key };
}

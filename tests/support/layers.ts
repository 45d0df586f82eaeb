/** Stores with the options `encrypt`, `codec` and `version`, on data in memory. */

import { Buffer } from "node:buffer";
import type { Store, StoreOptions } from "../../mod.ts";
import { memoryBackend, type MemoryData } from "../../src/memory.ts";
import { makeStore } from "../../src/store/store.ts";
import { transformed } from "../../src/transform/backend.ts";

/** Keys for tests, the newest last. */
export const keys: string[] = [1, 2, 3].map((byte) => Buffer.alloc(32, byte).toString("base64"));

/** A store of one process on data that several may share. */
export function storeOn(
  data: MemoryData,
  options: StoreOptions = {},
  place = "sessions",
  // deno-lint-ignore no-explicit-any
): Store<any> {
  const backend = { ...memoryBackend(data), place };
  return makeStore(transformed("Memory", backend, options), options);
}

/** Stores a session in the way of a process with these options. */
export async function store(
  data: MemoryData,
  key: string,
  session: unknown,
  options: StoreOptions = {},
  place?: string,
): Promise<void> {
  await using store = storeOn(data, options, place);
  await store.set(key, session);
}

/** Reads a session in the way of a process with these options. */
export async function load(
  data: MemoryData,
  key: string,
  options: StoreOptions = {},
  place?: string,
): Promise<unknown> {
  await using store = storeOn(data, options, place);
  return await store.get(key);
}

/** What the database has under a key. */
export function valueOf(data: MemoryData, key: string): string {
  return data.sessions.get(key)!.value;
}

/** Changes what the database has under a key. */
export function put(data: MemoryData, key: string, value: string): void {
  data.sessions.set(key, { key, value });
}

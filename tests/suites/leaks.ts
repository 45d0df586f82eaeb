/** Checks that closed stores leave nothing in memory or on clients that live longer. */

import assert from "node:assert/strict";
import type { EventEmitter } from "node:events";
import { setTimeout as wait } from "node:timers/promises";
import BetterSqlite3 from "better-sqlite3";
import { MongoClient } from "mongodb";
import { createPool } from "mysql2";
import pg from "pg";
import { createClient } from "redis";
import type { Store, StoreOptions } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import type { Backend } from "../../src/backend.ts";
import { SharedBackend } from "../../src/store/shared.ts";
import { collect, heapUsed } from "../support/heap.ts";
import { place, type Server } from "../support/servers.ts";

/** A client, pool or database that many stores share. */
export interface Shared extends AsyncDisposable {
  readonly handle: object;
  /** Makes a store on it with its data in the place. */
  // deno-lint-ignore no-explicit-any
  store(place: string, options?: StoreOptions): Store<any>;
  /** The scope that its backend gives to the place. */
  scope(place: string): string;
  /** Deletes the data of the place. */
  drop(place: string): Promise<unknown>;
}

/** A client of each backend. */
export const clients: Record<string, (urls: Record<Server, string>) => Promise<Shared>> = {
  async Redis({ redis: url }) {
    const client = await createClient({ url }).on("error", () => {}).connect();
    return {
      handle: client,
      store: (where, options) => Redis({ client, prefix: `${where}:`, ...options }),
      scope: (where) => `${where}:`,
      async drop(where) {
        for await (const keys of client.scanIterator({ MATCH: `${where}:*`, COUNT: 1000 })) {
          if (keys.length > 0) await client.del(keys);
        }
      },
      [Symbol.asyncDispose]: () => Promise.resolve(client.destroy()),
    };
  },
  async MongoDB({ mongodb: url }) {
    const client = await new MongoClient(url).connect();
    return {
      handle: client,
      store: (collection, options) => Mongo({ client, collection, ...options }),
      scope: (collection) => client.db().collection(collection).namespace,
      drop: (collection) => client.db().collection(collection).drop(),
      [Symbol.asyncDispose]: () => client.close(),
    };
  },
  PostgreSQL({ postgres: url }) {
    const pool = new pg.Pool({ connectionString: url });
    return Promise.resolve({
      handle: pool,
      store: (table, options) => Postgres({ pool, table, ...options }),
      scope: (table) => `\0${table}`,
      drop: (table) => pool.query(`DROP TABLE "${table}"`),
      [Symbol.asyncDispose]: () => pool.end(),
    });
  },
  MySQL({ mysql: url }) {
    const pool = createPool(url);
    return Promise.resolve({
      handle: pool,
      store: (table, options) => MySQL({ pool, table, ...options }),
      scope: (table) => `\0${table}`,
      drop: (table) => pool.promise().query(`DROP TABLE \`${table}\``),
      [Symbol.asyncDispose]: () => pool.promise().end(),
    });
  },
  SQLite() {
    const database = new BetterSqlite3(":memory:");
    return Promise.resolve({
      handle: database,
      store: (table, options) => SQLite({ database, table, ...options }),
      scope: (table) => table,
      drop: (table) => Promise.resolve(database.exec(`DROP TABLE "${table}"`)),
      [Symbol.asyncDispose]: () => Promise.resolve(void database.close()),
    });
  },
};

/** The number of listeners of a client. A database has none. */
function listeners(client: object): number {
  const { eventNames, listenerCount } = client as Partial<EventEmitter>;
  if (eventNames === undefined) return 0;
  const counts = eventNames.call(client).map((name) => listenerCount!.call(client, name));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** The shared backend of the stores of a place, found by its handle and scope. */
function connection(shared: Shared, place: string): SharedBackend<unknown> {
  const backend = { handle: shared.handle, scope: shared.scope(place) };
  return SharedBackend.of(backend as Backend<unknown>)!;
}

/** Asserts that 50 closed stores leave no listener on their client and no object in memory. */
export async function leaveNothing(shared: Shared): Promise<void> {
  const places = Array.from({ length: 25 }, place);

  /** Uses and closes two stores per place; returns weak references to their shared backends. */
  async function use(places: string[]) {
    const open = (where: string) => shared.store(where, { timeout: 8_000 });
    const stores = [...places, ...places].map(open);
    const refs = places.map((where) => new WeakRef(connection(shared, where)));
    for (const store of stores) {
      await store.set("k", { a: 1 });
      assert.deepEqual(await store.get("k"), { a: 1 });
    }
    assert.ok(refs.every((ref) => ref.deref()?.opened));
    const count = listeners(shared.handle);
    await Promise.all(stores.map((store) => store.close()));
    assert.equal(listeners(shared.handle), count);
    return { refs, count };
  }

  const few = await use(places.slice(0, 1));
  const { refs, count } = await use(places);
  assert.equal(count, few.count);
  // The timer of an operation references its store until the timer fires.
  const end = Date.now() + 60_000;
  let alive = refs.length;
  // Some runtimes mistake a word on the stack for a reference.
  while (alive > 3 && Date.now() < end) {
    await wait(500);
    collect();
    alive = refs.filter((ref) => ref.deref() !== undefined).length;
  }
  assert.ok(alive <= 3, `${alive} of ${refs.length} are still in memory`);
  for (const where of places) await shared.drop(where);
}

/** Counts the listeners that were added to abort signals and not removed. */
function countAbortListeners(): { count: number } & Disposable {
  const { prototype } = AbortSignal;
  const own = Object.getOwnPropertyDescriptors(prototype);
  const { addEventListener, removeEventListener } = prototype;
  const counter = {
    count: 0,
    [Symbol.dispose]() {
      for (const name of ["addEventListener", "removeEventListener"] as const) {
        delete (prototype as Partial<AbortSignal>)[name];
        if (own[name] !== undefined) Object.defineProperty(prototype, name, own[name]);
      }
    },
  };
  Object.assign(prototype, {
    addEventListener(this: AbortSignal, ...args: Parameters<typeof addEventListener>) {
      counter.count++;
      addEventListener.apply(this, args);
    },
    removeEventListener(this: AbortSignal, ...args: Parameters<typeof removeEventListener>) {
      counter.count--;
      removeEventListener.apply(this, args);
    },
  });
  return counter;
}

/** Runs operations, always on new keys; returns the used heap during the run, in bytes. */
export async function operate(shared: Shared, operations: number): Promise<number[]> {
  const where = place();
  const heap: number[] = [];
  const store = shared.store(where, { timeout: 60_000 });
  try {
    await store.ready();
    const { queue } = connection(shared, where);
    using listeners = countAbortListeners();
    const rounds = Math.ceil(operations / 400);
    const distance = Math.ceil(rounds / 30);
    for (let round = 0; round < rounds; round++) {
      const keys = Array.from({ length: 100 }, (_, i) => `${round}:${i}`);
      const written = Promise.all(keys.map((key) => store.set(key, { key })));
      assert.equal(queue.size, 100);
      await written;
      const sessions = await Promise.all(keys.map((key) => store.get(key)));
      await Promise.all(sessions.map((session, i) => store.set(keys[i]!, { ...session, round })));
      await Promise.all(keys.map((key) => store.delete(key)));
      assert.equal(queue.size, 0);
      if (round % distance === 0) heap.push(heapUsed());
    }
    assert.ok(listeners.count < 10, `signals have ${listeners.count} listeners`);
  } finally {
    await store.close();
    await shared.drop(where);
  }
  return heap;
}

/** Puts stores under load for a long time and cuts connections; checks updates and memory. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { LeaseError, type Store, type StoreOptions } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import { heapUsed } from "../support/heap.ts";
import { clients } from "./leaks.ts";
import { Proxy } from "../support/proxy.ts";
import { place, type Server } from "../support/servers.ts";
import { makeCounter, message } from "../../src/testing/telegraf.ts";

/** The results. */
export interface Soaked {
  /** The numbers of updates of each bot. */
  readonly updates: Record<string, Updates>;
  /** The used heap at equal intervals after garbage collection, in bytes. */
  readonly heap: number[];
}

/** How many updates a bot was sent. */
interface Updates {
  acknowledged: number;
  /** Those that failed because the lease of all sessions was lost. They may be stored nevertheless. */
  refused: number;
}

const users = 20;

const timeout = 60_000;

/** Makes a store with its data in the place. */
// deno-lint-ignore no-explicit-any
type Open = (where: string, options: StoreOptions) => Store<any>;

/** The stores of each database: each has its own place. The small cache has room for half of the users. */
const variants: Record<string, StoreOptions> = {
  "": {},
  " with cache": { cache: true },
  " with a small cache": { cache: { entries: users / 2 } },
};

/** Runs bots on all databases for `duration` ms. */
export async function soak(urls: Record<Server, string>, duration: number): Promise<Soaked> {
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-soak-"));
  const proxies: Proxy[] = [];
  const through = async (server: Server) => {
    const proxy = await Proxy.to(urls[server]);
    proxies.push(proxy);
    return Object.assign(new URL(urls[server]), { host: proxy.host }).href;
  };
  const redis = await through("redis");
  const mongodb = await through("mongodb");
  const postgres = await through("postgres");
  const mysql = await through("mysql");
  const databases: Record<string, Open> = {
    Redis: (where, options) => Redis({ url: redis, prefix: `${where}:`, timeout, ...options }),
    MongoDB: (where, options) => Mongo({ url: mongodb, collection: where, timeout, ...options }),
    PostgreSQL: (where, options) => Postgres({ url: postgres, table: where, timeout, ...options }),
    MySQL: (where, options) => MySQL({ url: mysql, table: where, timeout, ...options }),
    SQLite: (where, options) =>
      SQLite({ filename: join(folder, `${where}.sqlite`), timeout, ...options }),
  };
  const bots = Object.entries(databases).flatMap(([database, open]) =>
    Object.entries(variants).flatMap(([variant, options]) =>
      // FerretDB 1, which stands in for MongoDB, cannot have leases.
      database === "MongoDB" && options.cache !== undefined
        ? []
        : { name: database + variant, database, open, options, where: place() }
    )
  );
  const end = Date.now() + duration;
  const updates: Record<string, Updates> = {};
  const heap: number[] = [];
  try {
    await Promise.all([
      ...bots.map(async ({ name, open, options, where }) => {
        const counts = new Counts();
        await using store = open(where, options);
        await counts.work(store, end);
        await using other = open(where, {});
        updates[name] = await counts.check(other);
      }),
      disturb(proxies, end),
      measure(heap, duration, end),
    ]);
    return { updates, heap };
  } finally {
    await Promise.all(proxies.map((proxy) => proxy[Symbol.asyncDispose]()));
    rmSync(folder, { recursive: true });
    for (const { database, where } of bots) {
      if (database === "SQLite") continue;
      await using client = await clients[database]!(urls);
      await client.drop(where);
    }
  }
}

/** Counts the updates of several users, and knows how many each of them was sent. */
class Counts {
  readonly #acknowledged: number[] = Array(users).fill(0);
  readonly #refused: number[] = Array(users).fill(0);

  /** Sends updates to a bot, three of each user at the same time. */
  async work(store: Store<{ count: number }>, end: number): Promise<void> {
    const bot = makeCounter(store);
    bot.use((ctx) => void ctx.session.count++);
    for (let round = 0; Date.now() < end; round++) {
      const all = Array.from({ length: 3 * users }, async (_, i) => {
        const user = i % users;
        const update = bot.handleUpdate(message("hi", 1 + user));
        (await isStored(update) ? this.#acknowledged : this.#refused)[user]!++;
      });
      await Promise.all(all);
      // A key that is used only once must leave nothing behind.
      await isStored(store.set(`once-${round}`, { count: round }));
      await isStored(store.delete(`once-${round}`));
      await wait(5);
    }
  }

  /** Checks that every acknowledged update is stored, and returns the sums. */
  async check(store: Store<{ count: number }>): Promise<Updates> {
    for (const [user, acknowledged] of this.#acknowledged.entries()) {
      const { count } = (await store.get(`${1 + user}:${1 + user}`))!;
      const most = acknowledged + this.#refused[user]!;
      assert.ok(acknowledged <= count && count <= most, `${acknowledged} ≤ ${count} ≤ ${most}`);
    }
    const sum = (counts: number[]) => counts.reduce((sum, count) => sum + count);
    return { acknowledged: sum(this.#acknowledged), refused: sum(this.#refused) };
  }
}

/** Waits for a change. Returns false if it was refused because the lease of all sessions was lost. */
async function isStored(change: Promise<unknown>): Promise<boolean> {
  try {
    await change;
    return true;
  } catch (error) {
    if (error instanceof LeaseError) return false;
    throw error;
  }
}

async function disturb(proxies: Proxy[], end: number): Promise<void> {
  for (let i = 0; Date.now() < end; i++) {
    await wait(200 + Math.random() * 600);
    proxies[i % proxies.length]!.cut();
  }
}

async function measure(heap: number[], duration: number, end: number): Promise<void> {
  while (Date.now() < end) {
    await wait(duration / 40);
    heap.push(heapUsed());
  }
}

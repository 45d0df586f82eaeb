/** Puts stores under load for a long time and cuts connections; checks updates and memory. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import type { Store } from "../../mod.ts";
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
  /** The number of updates that each bot has handled. */
  readonly updates: Record<string, number>;
  /** The used heap at equal intervals after garbage collection, in bytes. */
  readonly heap: number[];
}

const users = 20;

/** Runs bots on all databases for `duration` ms. */
export async function soak(urls: Record<Server, string>, duration: number): Promise<Soaked> {
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-soak-"));
  const where = place();
  const proxies: Proxy[] = [];
  const through = async (server: Server) => {
    const proxy = await Proxy.to(urls[server]);
    proxies.push(proxy);
    return Object.assign(new URL(urls[server]), { host: proxy.host }).href;
  };
  const timeout = 60_000;
  // deno-lint-ignore no-explicit-any
  const stores: Record<string, Store<any>> = {
    Redis: Redis({ url: await through("redis"), prefix: `${where}:`, timeout }),
    MongoDB: Mongo({ url: await through("mongodb"), collection: where, timeout }),
    PostgreSQL: Postgres({ url: await through("postgres"), table: where, timeout }),
    MySQL: MySQL({ url: await through("mysql"), table: where, timeout }),
    SQLite: SQLite({ filename: join(folder, "soak.sqlite"), timeout }),
  };
  const end = Date.now() + duration;
  const updates: Record<string, number> = {};
  const heap: number[] = [];
  try {
    await Promise.all([
      ...Object.entries(stores).map(async ([name, store]) => {
        updates[name] = await work(store, end);
      }),
      disturb(proxies, end),
      measure(heap, duration, end),
    ]);
    return { updates, heap };
  } finally {
    await Promise.all(Object.values(stores).map((store) => store.close()));
    await Promise.all(proxies.map((proxy) => proxy[Symbol.asyncDispose]()));
    rmSync(folder, { recursive: true });
    for (const name of ["Redis", "MongoDB", "PostgreSQL", "MySQL"]) {
      await using client = await clients[name]!(urls);
      await client.drop(where);
    }
  }
}

/** Counts the updates of several users, three of each at the same time, and checks the counts. */
async function work(store: Store<{ count: number }>, end: number): Promise<number> {
  const bot = makeCounter(store);
  bot.use((ctx) => void ctx.session.count++);
  let rounds = 0;
  while (Date.now() < end) {
    const all = Array.from({ length: 3 * users }, (_, i) => message("hi", 1 + i % users));
    await Promise.all(all.map((update) => bot.handleUpdate(update)));
    rounds++;
    // A key that is used only once must leave nothing behind.
    await store.set(`once-${rounds}`, { count: rounds });
    await store.delete(`once-${rounds}`);
    await wait(5);
  }
  for (let user = 1; user <= users; user++) {
    assert.deepEqual(await store.get(`${user}:${user}`), { count: 3 * rounds });
  }
  return 3 * users * rounds;
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

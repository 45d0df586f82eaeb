/**
 * Type-checked, not run: correct code of users must compile with every version of Telegraf that has
 * `session({ store })`, and wrong code must not.
 */

import * as telegraf from "telegraf";
import * as telegraf4120 from "telegraf-4.12.0";
import * as telegraf4131 from "telegraf-4.13.1";
import type { SqliteDialect } from "kysely";
import { DenoKV } from "../../denokv.ts";
import { KyselyStore } from "../../kysely.ts";
import { followMigrations, Memory, type Store } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";

interface Session {
  count: number;
}

declare const dialect: SqliteDialect;

/** Inline, with the default type of the factories. */
{
  const { session, Telegraf } = telegraf;
  interface Context extends telegraf.Context {
    session: Session;
  }
  const bot = new Telegraf<Context>("token");
  bot.use(session({ store: Redis({ url: "redis://localhost" }) }));
  bot.use(session({ store: Mongo({ url: "mongodb://localhost", database: "bot" }) }));
  bot.use(session({ store: SQLite({ filename: "sessions.sqlite" }) }));
  bot.use(session({ store: Postgres({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: MySQL({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: KyselyStore({ dialect }) }));
  bot.use(session({ store: DenoKV({ path: "sessions.kv" }) }));
  bot.use(session({ store: Memory() }));
  bot.use(session({ store: new Redis({}), defaultSession: () => ({ count: 0 }) }));
  bot.use(session({ store: Redis<Session>({}), defaultSession: () => ({ count: 0 }) }));
  const store = Postgres<Session>({});
  bot.use(session({ store }));
  new Telegraf("token").use(session({ store: Redis({}) }));
}
{
  const { session, Telegraf } = telegraf4120;
  interface Context extends telegraf4120.Context {
    session: Session;
  }
  const bot = new Telegraf<Context>("token");
  bot.use(session({ store: Redis({ url: "redis://localhost" }) }));
  bot.use(session({ store: Mongo({ url: "mongodb://localhost", database: "bot" }) }));
  bot.use(session({ store: SQLite({ filename: "sessions.sqlite" }) }));
  bot.use(session({ store: Postgres({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: MySQL({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: KyselyStore({ dialect }) }));
  bot.use(session({ store: DenoKV({ path: "sessions.kv" }) }));
  bot.use(session({ store: Memory() }));
  bot.use(session({ store: Redis<Session>({}), defaultSession: () => ({ count: 0 }) }));
}
{
  const { session, Telegraf } = telegraf4131;
  interface Context extends telegraf4131.Context {
    session: Session;
  }
  const bot = new Telegraf<Context>("token");
  bot.use(session({ store: Redis({ url: "redis://localhost" }) }));
  bot.use(session({ store: Mongo({ url: "mongodb://localhost", database: "bot" }) }));
  bot.use(session({ store: SQLite({ filename: "sessions.sqlite" }) }));
  bot.use(session({ store: Postgres({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: MySQL({ host: "localhost", database: "bot" }) }));
  bot.use(session({ store: KyselyStore({ dialect }) }));
  bot.use(session({ store: DenoKV({ path: "sessions.kv" }) }));
  bot.use(session({ store: Memory() }));
  bot.use(session({ store: Redis<Session>({}), defaultSession: () => ({ count: 0 }) }));
}

/** Leases, inline and with options. */
{
  const { session, Telegraf } = telegraf;
  interface Context extends telegraf.Context {
    session: Session;
  }
  const bot = new Telegraf<Context>("token");
  const store = Redis<Session>({});
  bot.use(store.exclusive(), session({ store }));
  bot.use(store.exclusive({ getSessionKey: (ctx) => ctx.from && `${ctx.from.id}` }));
  bot.use(store.exclusive({ wait: 1_000, lease: 5_000, most: 60_000 }));
  new Telegraf("token").use(store.exclusive());
  new telegraf4120.Telegraf("token").use(store.exclusive());
  new telegraf4131.Telegraf("token").use(store.exclusive());
  store.update("k", (session) => ({ count: (session?.count ?? 0) + 1 }));
  store.update("k", (session) => void (session!.count = 1), { wait: 1_000 });
  store.update("k", () => Promise.resolve(null));
  // @ts-expect-error: there may be no session
  store.update("k", (session) => void (session.count = 1));
  // @ts-expect-error: not a session
  store.update("k", () => ({ cuont: 1 }));
  // @ts-expect-error: unknown option
  store.exclusive({ leas: 1_000 });
}

/** Prefixes, and sessions that move. */
{
  const { session, Telegraf } = telegraf;
  interface Context extends telegraf.Context {
    session: Session;
  }
  const bot = new Telegraf<Context>("token");
  const store = Redis<Session>({});
  bot.use(followMigrations(store), store.exclusive(), session({ store }));
  bot.use(followMigrations(store, { rename: (key, from, to) => key.replace(`${from}`, `${to}`) }));
  new telegraf4120.Telegraf("token").use(followMigrations(store));
  new telegraf4131.Telegraf("token").use(followMigrations(store));
  store.keys({ prefix: "123:" });
  store.size({ prefix: undefined });
  store.move("1:2", "1:3", { overwrite: true, wait: 1_000 });
  // @ts-expect-error: not a prefix
  store.clear({ prefix: 123 });
  // @ts-expect-error: unknown option
  store.entries({ prefx: "123:" });
  // @ts-expect-error: unknown option
  store.move("1:2", "1:3", { overwite: true });
}

/** Wrong code does not compile. */
{
  const store: Store<Session> = Redis<Session>({});
  // @ts-expect-error: not a session
  store.set("k", { cuont: 1 });
  // @ts-expect-error: unknown option
  Redis({ prefx: "" });
  // @ts-expect-error: a number of ms
  Redis({ timeout: "5 s" });
}

/** Options may be omitted if none is needed, and may be the text of environment variables. */
{
  for (const store of [Memory(), Redis(), Postgres(), MySQL(), new Memory(), new Redis()]) {
    store.set("k", {});
  }
  const stores: Store<Session>[] = [Redis<Session>(), new Postgres<Session>(), Memory<Session>()];
  stores.pop();
  Postgres({ port: "5432" });
  MySQL({ port: "3306" });
}

/** A factory that is not called is not a store. */
{
  const { session } = telegraf;
  // @ts-expect-error: not called
  session({ store: Memory });
  // @ts-expect-error: not called
  session({ store: Redis });
  // @ts-expect-error: not called
  session({ store: Mongo });
  // @ts-expect-error: not called
  session({ store: SQLite });
  // @ts-expect-error: not called
  session({ store: Postgres });
  // @ts-expect-error: not called
  session({ store: MySQL });
  // @ts-expect-error: not called
  session({ store: KyselyStore });
  // @ts-expect-error: not called
  session({ store: DenoKV });
}

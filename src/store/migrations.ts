/**
 * Middleware that moves the sessions of a group that becomes a supergroup.
 *
 * @module
 */

import { type Rules, rules } from "../options.ts";
import { checkOptions } from "../validation.ts";
import type { Store } from "./store.ts";

/** The part of Telegraf's context that is used. */
export interface MigrationContext {
  /** The chat. */
  readonly chat?: { readonly id: number } | undefined;
  /** The message, if the update has one. */
  readonly message?: object | undefined;
}

/** Options of {@link followMigrations}. */
export interface MigrationOptions {
  /**
   * Returns the new key of a session, or `undefined` if it does not belong to the old chat. Called with
   * each key of the store, the ID of the group, and the ID of the supergroup.
   *
   * @default The ID after the last colon, for Telegraf's keys `<user id>:<chat id>`.
   */
  rename?: ((key: string, from: number, to: number) => string | undefined) | undefined;
}

const migrationRules: Rules<MigrationOptions> = { rename: rules.callback };

/** How many sessions are moved at the same time. */
const batch = 64;

/**
 * Telegraf middleware: when a group becomes a supergroup, which has another ID, its sessions get the new
 * keys. Put it before `session()` and before `exclusive()`.
 *
 * Telegram reports the change in both chats. The first of the two updates moves the sessions. In this
 * process, updates of both chats wait meanwhile. A session that the supergroup already has stays, and so
 * does the old one. If a session cannot be moved, the update fails with the `StoreError`.
 *
 * ```ts
 * import { followMigrations, Memory } from "@telegraf/session";
 * import { session, Telegraf } from "telegraf";
 *
 * const bot = new Telegraf(process.env.BOT_TOKEN ?? "");
 * const store = Memory();
 * bot.use(followMigrations(store), session({ store }));
 * ```
 *
 * @throws {TypeError} if an option is unknown or has the wrong type.
 */
export function followMigrations<Context extends MigrationContext>(
  // deno-lint-ignore no-explicit-any
  store: Pick<Store<any>, "keys" | "has" | "move">,
  options: MigrationOptions = {},
): (ctx: Context, next: () => Promise<void>) => Promise<void> {
  checkOptions("followMigrations()", options, migrationRules);
  const { rename = renameTelegrafKey } = options;
  /** The migrations in progress, by both chats. */
  const running = new Map<number, Promise<void>>();

  async function moveAll(from: number, to: number): Promise<void> {
    const moves: [key: string, newKey: string][] = [];
    for await (const key of store.keys()) {
      const newKey = rename(key, from, to);
      if (newKey !== undefined) moves.push([key, newKey]);
    }
    for (let i = 0; i < moves.length; i += batch) {
      await Promise.all(
        moves.slice(i, i + batch).map(async ([key, newKey]) => {
          if (!await store.has(newKey)) await store.move(key, newKey);
        }),
      );
    }
  }

  async function follow(from: number, to: number): Promise<void> {
    const moving = running.get(from) ?? moveAll(from, to);
    for (const chat of [from, to]) running.set(chat, moving);
    try {
      await moving;
    } finally {
      for (const chat of [from, to]) running.delete(chat);
    }
  }

  return async (ctx, next) => {
    const { id } = ctx.chat ?? {};
    const { migrate_to_chat_id: to, migrate_from_chat_id: from } = (ctx.message ?? {}) as Migration;
    if (id !== undefined) {
      if (to !== undefined) await follow(id, to);
      else if (from !== undefined) await follow(from, id);
      else await running.get(id)?.catch(() => {}); // that update fails
    }
    await next();
  };
}

/** Fields of a message that reports a migration. */
interface Migration {
  readonly migrate_to_chat_id?: number;
  readonly migrate_from_chat_id?: number;
}

function renameTelegrafKey(key: string, from: number, to: number): string | undefined {
  const end = key.lastIndexOf(":") + 1;
  return end > 0 && key.slice(end) === `${from}` ? key.slice(0, end) + to : undefined;
}

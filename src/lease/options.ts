/**
 * The options of `exclusive()` and `update()`.
 *
 * @module
 */

import { milliseconds, type Rules, rules } from "../options.ts";

/** The part of Telegraf's context that is used. */
export interface UpdateContext {
  /** The user. */
  readonly from?: { readonly id: number } | undefined;
  /** The chat. */
  readonly chat?: { readonly id: number } | undefined;
  /** Gets `lease` while the update holds one. */
  readonly state: object;
  /** The update, for the option `once`. */
  readonly update: { readonly update_id: number };
}

/** What a function of `update()` may return: another session, or `null` to delete the session. */
export type Changed<Session> = Session | null | undefined | void;

/** Options of `update()`. */
export interface UpdateOptions {
  /**
   * How long to wait for the lease, in ms. If it cannot be had, the call rejects with a `LeaseError`.
   * From 1 to 2147483647.
   *
   * @default {30000}
   */
  wait?: number | undefined;
}

/** Options of `move()`. */
export interface MoveOptions extends UpdateOptions {
  /**
   * Whether a session that the new key already has is overwritten. Otherwise the call rejects with a
   * `StoreError`.
   *
   * @default {false}
   */
  overwrite?: boolean | undefined;
}

/** Options of `exclusive()`. */
export interface ExclusiveOptions<Context> extends UpdateOptions {
  /**
   * The key of an update's session, the same function as that of `session()`. An update without a key
   * passes through.
   *
   * @default Telegraf's: the user's ID, a colon, and the chat's ID.
   */
  getSessionKey?: ((ctx: Context) => string | undefined | Promise<string | undefined>) | undefined;
  /**
   * How long the other processes wait for a process that has died, in ms. While an update runs, its
   * lease is renewed every third of this. From 1000 to 2147483647.
   *
   * @default {15000}
   */
  lease?: number | undefined;
  /**
   * How long an update may hold its lease, in ms. After that others go on, and nothing that the update
   * changes is stored. From 1000 to 2147483647.
   *
   * @default {600000}
   */
  most?: number | undefined;
  /**
   * Whether to skip an update that this session has seen. Telegram sends a webhook's update again when the
   * answer was late or an error, and after a crash. The IDs of up to 64 updates of the last 24 hours are
   * stored with the session, in the same write.
   *
   * @default {false}
   */
  once?: boolean | undefined;
}

/** Values of options that are not given. */
export const leaseDefaults = { wait: 30_000, lease: 15_000, most: 600_000 } as const;

/** The rules of `update()`. */
export const updateRules: Rules<UpdateOptions> = { wait: milliseconds(1) };

/** The rules of `move()`. */
export const moveRules: Rules<MoveOptions> = { ...updateRules, overwrite: rules.flag };

/** The rules of `exclusive()`. */
export const exclusiveRules: Rules<ExclusiveOptions<never>> = {
  ...updateRules,
  getSessionKey: rules.callback,
  lease: milliseconds(1_000),
  most: milliseconds(1_000),
  once: rules.flag,
};

/** The key that Telegraf's `session()` uses. */
export function defaultSessionKey({ from, chat }: UpdateContext): string | undefined {
  return from === undefined || chat === undefined ? undefined : `${from.id}:${chat.id}`;
}

/**
 * Exclusive access to sessions: `exclusive()` and `update()` of a store.
 *
 * @module
 */

import { LeaseError, type Operation, type StoreError } from "../errors.ts";
import type { Clock } from "../store/clock.ts";
import { checkKey } from "../store/entry.ts";
import type { SharedBackend } from "../store/shared.ts";
import { LeaseManager } from "./leases.ts";
import type { UpdateContext } from "./options.ts";
import { Turn, type TurnOptions } from "./turn.ts";

/** The parts of a store that exclusive access uses. */
export interface StoreParts<Encoded> {
  readonly shared: SharedBackend<Encoded>;
  readonly clock: Clock;
  readonly timeout: number;
  /** The error that the caller gets. */
  fail(error: unknown, options: { operation: Operation; key?: string }): StoreError;
  report(error: unknown): void;
}

/** What `ctx.state.lease` has while an update holds a lease. */
export interface Lease {
  /** The key of the session. */
  readonly key: string;
  /** Aborts when the lease is lost. What the update changes after that is not stored. */
  readonly signal: AbortSignal;
}

/** The options of a call, without the store's own. */
type Times = Omit<TurnOptions, "timeout">;

/** The turns of a store. */
export class Exclusive<Encoded> {
  readonly #parts: StoreParts<Encoded>;
  readonly #manager: LeaseManager<Encoded>;
  readonly #turns = new Set<Turn<Encoded>>();
  #idle: (() => void) | undefined;

  constructor(parts: StoreParts<Encoded>) {
    this.#parts = parts;
    this.#manager = LeaseManager.of(parts.shared, parts.clock);
  }

  /** Runs the rest of an update's middleware chain under the lease of its session. */
  async middleware(
    ctx: UpdateContext,
    next: () => Promise<void>,
    key: string,
    options: Times,
  ): Promise<void> {
    key = checkKey(key);
    if (this.#manager.turn(key) !== undefined) return await next(); // an outer one has the lease
    if (this.#manager.hasRead(key) && hasAccessor(ctx)) {
      throw new TypeError(
        "exclusive() must come before session(), which has already read the session: " +
          "bot.use(store.exclusive(), session({ store }))",
      );
    }
    const turn = this.#newTurn(key, options);
    const state = ctx.state as { lease?: Lease };
    const { lease } = state;
    await this.#run(turn, async () => {
      if (turn.isRepeated) return;
      state.lease = {
        key,
        get signal() {
          return turn.signal;
        },
      };
      try {
        await next();
      } finally {
        if (lease === undefined) delete state.lease;
        else state.lease = lease;
      }
    });
  }

  /**
   * Changes a session in a turn of its own.
   *
   * @param change gets and sets the session. If it throws, nothing is stored.
   */
  async update<T>(
    rawKey: string,
    options: Times,
    change: () => Promise<T>,
  ): Promise<T> {
    const key = checkKey(rawKey);
    if (this.#manager.turn(key) !== undefined) {
      const why = "this update already holds its lease, and would wait for itself; " +
        "change the session directly";
      throw new LeaseError(why, { operation: "lock", key });
    }
    const turn = this.#newTurn(key, options);
    turn.isRead = true;
    return await this.#run(turn, async () => {
      try {
        return await change();
      } catch (error) {
        turn.change = undefined;
        throw error;
      }
    });
  }

  /** The turn of the key in which the caller runs, if there is one. */
  turn(key: string): Turn<Encoded> | undefined {
    return this.#manager.turn(key);
  }

  /**
   * The turn from which a `get` is answered, if there is one.
   *
   * @throws {TypeError} if the update holds the lease of another session than `session()` reads.
   */
  turnToRead(key: string): Turn<Encoded> | undefined {
    const turn = this.#manager.turn(key);
    if (turn === undefined) {
      const other = this.#manager.innermost();
      if (other?.isRead === false) {
        throw new TypeError(
          `the update holds the lease of session "${other.key}", and session() reads "${key}"; ` +
            "give both exclusive() and session() the same getSessionKey",
        );
      }
      this.#manager.noteRead(key);
    } else turn.isRead = true;
    return turn;
  }

  /**
   * The turn that takes a `set` or `delete`, if there is one.
   *
   * @throws {LeaseError} if the change must not be stored.
   */
  turnToWrite(key: string): Turn<Encoded> | undefined {
    const turn = this.#manager.turn(key);
    if (turn === undefined) return undefined;
    if (turn.lost !== undefined) throw turn.lost;
    // Telegraf gives an update the session object of one that still runs, without reading it.
    if (!turn.isRead && this.#manager.isOverdue(key)) {
      const why =
        "an earlier update of this session took too long, and its changes are in the session";
      throw new LeaseError(why, { operation: "write", key });
    }
    return turn;
  }

  /** Waits for all turns, up to the store's timeout, and then ends the others. */
  async close(error: StoreError): Promise<void> {
    const { clock, timeout } = this.#parts;
    const abandon = () => {
      for (const turn of this.#turns) this.#manager.abandon(turn, error);
      this.#idle?.();
    };
    if (this.#turns.size === 0) return;
    const timer = clock.setTimeout(abandon, timeout);
    await new Promise<void>((resolve) => this.#idle = resolve);
    clock.clearTimeout(timer);
  }

  #newTurn(key: string, options: Times): Turn<Encoded> {
    return new Turn(key, { ...options, timeout: this.#parts.timeout });
  }

  /** Does the work in the turn. Ends when its change is stored. */
  async #run<T>(turn: Turn<Encoded>, work: () => Promise<T>): Promise<T> {
    const { key, operation } = turn;
    const since = this.#parts.clock.now();
    this.#turns.add(turn);
    try {
      let begun = false;
      let result: T;
      try {
        result = await this.#manager.run(turn, () => {
          begun = true;
          if (operation !== undefined) {
            operation.waited = (operation.waited ?? 0) + this.#parts.clock.now() - since;
          }
          return work();
        });
      } catch (error) {
        if (!begun) throw this.#parts.fail(error, { operation: "lock", key });
        const why = await turn.stored;
        if (why !== undefined) {
          this.#parts.report(this.#parts.fail(why, { operation: "write", key }));
        }
        throw error;
      }
      const error = await turn.stored;
      if (error !== undefined) throw this.#parts.fail(error, { operation: "write", key });
      return result;
    } finally {
      this.#turns.delete(turn);
      if (this.#turns.size === 0) this.#idle?.();
    }
  }
}

/** Whether some `session()` has given the context a property. */
function hasAccessor(ctx: object): boolean {
  return Object.values(Object.getOwnPropertyDescriptors(ctx)).some(({ get }) => get !== undefined);
}

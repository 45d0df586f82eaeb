/**
 * The leases of a database, and the turns of this process.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import type { Clock } from "../store/clock.ts";
import { DeadlineTimer } from "../store/deadline.ts";
import type { SharedBackend } from "../store/shared.ts";
import { Fairness } from "./fairness.ts";
import { Line, type Lines } from "./line.ts";
import { LeaseQueue } from "./queue.ts";
import type { Turn } from "./turn.ts";

/**
 * What is known about the asynchronous context: the turns in which it runs, and the last session that
 * it read without a lease.
 */
interface Frame {
  readonly leases: unknown;
  readonly turn?: Turn<unknown>;
  readonly read?: { readonly leases: unknown; readonly key: string };
  readonly outer?: Frame | undefined;
}

const frames = new AsyncLocalStorage<Frame>();

/** The leases of a shared backend. */
export class LeaseManager<Encoded> {
  // deno-lint-ignore no-explicit-any
  static readonly #all = new WeakMap<object, LeaseManager<any>>();

  /** The manager of a shared backend, one for all stores. The database must have leases. */
  static of<Encoded>(shared: SharedBackend<Encoded>, clock: Clock): LeaseManager<Encoded> {
    let manager = LeaseManager.#all.get(shared);
    if (manager === undefined) {
      LeaseManager.#all.set(shared, manager = new LeaseManager(shared, clock));
    }
    return manager;
  }

  readonly #lines = new Map<string, Line<Encoded>>();
  readonly #shared: Lines<Encoded>;

  private constructor(shared: SharedBackend<Encoded>, clock: Clock) {
    if (typeof shared.leases === "string") throw new TypeError(shared.leases);
    const serving = new Set<Line<Encoded>>();
    const check = (now: number) => {
      let next = Infinity;
      for (const line of serving) next = Math.min(next, line.check(now));
      return next;
    };
    this.#shared = {
      queue: new LeaseQueue(shared, shared.leases, clock),
      clock,
      serving,
      // An update that hangs does not keep the process alive.
      checks: new DeadlineTimer(clock, check, () => serving.size === 0, true),
      fairness: new Fairness(clock),
      unanswered: new Map(),
      overdue: new Set(),
      onEmpty: (key) => this.#lines.delete(key),
    };
  }

  /** Waits for the lease of the turn's key, and does the work. Its change is stored after that. */
  async run<T>(turn: Turn<Encoded>, work: () => Promise<T>): Promise<T> {
    let line = this.#lines.get(turn.key);
    if (line === undefined) {
      this.#lines.set(turn.key, line = new Line(turn.key, this.#shared));
    }
    line.add(turn);
    const error = await turn.begun;
    if (error !== undefined) throw error;
    try {
      return await frames.run({ leases: this, turn, outer: frames.getStore() }, work);
    } catch (error) {
      turn.hasFailed = true;
      throw error;
    } finally {
      turn.end();
      this.#shared.overdue.delete(turn);
    }
  }

  /** Ends a turn that has not begun, or whose work does not end. */
  abandon(turn: Turn<Encoded>, error: Error): void {
    this.#lines.get(turn.key)?.refuse(turn, error);
    if (turn.isRunning) turn.abandon(error);
  }

  /**
   * The turn of the key in which the caller runs. A turn that has lost its lease counts also after its
   * end, because what it changes then must not be stored.
   */
  turn(key: string): Turn<Encoded> | undefined {
    return this.#find((turn) => turn.key === key && (turn.isRunning || turn.lost !== undefined));
  }

  /** The innermost turn in which the caller runs, of any key. */
  innermost(): Turn<Encoded> | undefined {
    return this.#find(({ isRunning }) => isRunning);
  }

  /** Whether another turn of the key still runs although it has taken too long. */
  isOverdue(key: string): boolean {
    return [...this.#shared.overdue].some((turn) => turn.key === key);
  }

  /** Notes that the caller reads the session without a lease. */
  noteRead(key: string): void {
    const read = { leases: this, key };
    frames.enterWith({ leases: undefined, ...frames.getStore(), read });
  }

  /** Whether this was the last session that the caller read without a lease. */
  hasRead(key: string): boolean {
    const { read } = frames.getStore() ?? {};
    return read?.leases === this && read.key === key;
  }

  #find(accepts: (turn: Turn<Encoded>) => boolean): Turn<Encoded> | undefined {
    for (let frame = frames.getStore(); frame !== undefined; frame = frame.outer) {
      const turn = frame.leases === this ? frame.turn as Turn<Encoded> : undefined;
      if (turn !== undefined && accepts(turn)) return turn;
    }
    return undefined;
  }
}

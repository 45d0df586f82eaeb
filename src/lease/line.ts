/**
 * The turns of one key in this process, in order of arrival.
 *
 * While turns of this process wait, the lease is handed on without the database: the next turn begins
 * immediately with the session in memory, while the change of the last one is being stored.
 *
 * @module
 */

import type { Claimed, Refusal, Settlement } from "../backend.ts";
import { ClosedError, LeaseError } from "../errors.ts";
import type { Clock } from "../store/clock.ts";
import { type DeadlineTimer, timedOut } from "../store/deadline.ts";
import { isAlive } from "../store/entry.ts";
import type { Content } from "../store/queue.ts";
import { newCall } from "../store/tracing.ts";
import type { LeaseQueue } from "./queue.ts";
import { type Fairness, Polls } from "./fairness.ts";
import { addSeen, hasSeen } from "./seen.ts";
import { describeHolder, holderOf, newToken } from "./token.ts";
import type { Turn } from "./turn.ts";

/** What all lines of a database share. */
export interface Lines<Encoded> {
  readonly queue: LeaseQueue<Encoded>;
  readonly clock: Clock;
  readonly fairness: Fairness;
  /** The tokens of claims that failed without an answer, by key. */
  readonly unanswered: Map<string, string>;
  /** Turns that still run although they have taken too long. */
  readonly overdue: Set<Turn<Encoded>>;
  /** The lines that have a lease. */
  readonly serving: Set<Line<Encoded>>;
  /** Calls `check` of these lines when it is time. */
  readonly checks: DeadlineTimer;
  /** Called when no turn waits any more. */
  onEmpty(key: string): void;
}

/** A lease that this process holds. */
interface Lease<Encoded> {
  readonly token: string;
  readonly length: number;
  /** When it was granted, in ms of the clock's `now()`. */
  readonly granted: number;
  /** The session, with the changes that are still being stored. */
  content: Content<Encoded>;
  /** The updates that the session has seen; `undefined` if the claim did not ask for them. */
  seen: string | undefined;
  turn: Turn<Encoded> | undefined;
  /** When the turn has taken too long, in ms of the clock's `now()`. */
  turnEnds: number;
  /** Why it is lost. */
  lost: Error | undefined;
  /** When to renew it, in ms of the clock's `now()`. */
  renewAt: number;
  /** Resolves when the database has answered the last settlement. */
  settled: Promise<unknown> | undefined;
}

/** The turns of one key in this process. */
export class Line<Encoded> {
  readonly #key: string;
  readonly #lines: Lines<Encoded>;
  readonly #clock: Clock;
  readonly #waiting: Turn<Encoded>[] = [];
  #serving = false;
  /** The lease under which turns run. */
  #lease: Lease<Encoded> | undefined;

  constructor(key: string, lines: Lines<Encoded>) {
    this.#key = key;
    this.#lines = lines;
    this.#clock = lines.clock;
  }

  add(turn: Turn<Encoded>): void {
    this.#waiting.push(turn);
    if (!this.#serving) this.#serve();
  }

  /** Refuses a turn that has not begun. */
  refuse(turn: Turn<Encoded>, error: unknown): void {
    const place = this.#waiting.indexOf(turn);
    if (place < 0) return;
    this.#waiting.splice(place, 1);
    turn.refuse(error);
  }

  /**
   * Renews the lease and abandons its turn, if it is time. A renewal that fails is followed by another
   * one. Returns when to check again.
   */
  check(now: number): number {
    const lease = this.#lease!;
    if (now >= lease.turnEnds) {
      lease.turnEnds = Infinity;
      lease.turn!.abandonOverdue();
    }
    if (now >= lease.renewAt && lease.lost === undefined) {
      const { length } = lease;
      lease.renewAt = now + length / 3;
      this.#settle(lease, { length, change: undefined }, length / 3);
    }
    return Math.min(lease.turnEnds, lease.lost === undefined ? lease.renewAt : Infinity);
  }

  async #serve(): Promise<void> {
    this.#serving = true;
    while (this.#waiting.length > 0) {
      const pause = this.#lines.fairness.pause(this.#key);
      if (pause > 0) await this.#sleep(pause);
      const lease = await this.#claim();
      if (lease !== undefined) await this.#serveTurns(lease);
    }
    this.#lines.onEmpty(this.#key);
  }

  /** Claims the lease for the first turn. Returns `undefined` if no turn is left. */
  async #claim(): Promise<Lease<Encoded> | undefined> {
    const key = this.#key;
    const { unanswered } = this.#lines;
    let token = unanswered.get(key) ?? newToken(this.#clock.date());
    const polls = new Polls(this.#clock);
    for (;;) {
      const [turn] = this.#waiting;
      if (turn === undefined) return undefined;
      const { lease: length, wait, timeout } = turn.options;
      turn.firstAt ??= this.#clock.now();
      const noted = this.#waiting.some(({ options }) => options.update !== undefined);
      let claimed: Claimed<Encoded>;
      try {
        const now = this.#clock.now();
        const call = newCall(now, turn.operation);
        claimed = await this.#lines.queue.claim({ key, token, length, noted }, now + timeout, call);
      } catch (error) {
        // The claim may have been granted. The next one has the same token, so it is granted again.
        unanswered.set(key, token);
        for (const turn of [...this.#waiting]) this.refuse(turn, error);
        continue;
      }
      unanswered.delete(key);
      if (claimed.token === token) {
        const { note = noted ? "" : undefined } = claimed;
        return await this.#granted({ ...claimed, note }, length, timeout);
      }
      this.#lines.fairness.noteRival(key);
      const waitsFor = turn.firstAt + wait - this.#clock.now();
      if (waitsFor > 0) await this.#sleep(Math.min(waitsFor, polls.next(claimed.token)));
      else this.refuse(turn, this.#notHad(claimed.token, wait));
      token = newToken(this.#clock.date());
    }
  }

  /** Returns `undefined` if all turns have been refused meanwhile. */
  async #granted(
    { token, entry, note }: Claimed<Encoded>,
    length: number,
    timeout: number,
  ): Promise<Lease<Encoded> | undefined> {
    const granted = this.#clock.now();
    const lease: Lease<Encoded> = {
      token,
      length,
      granted,
      content: isAlive(entry, this.#clock.date()) ? entry : undefined,
      seen: note,
      turn: undefined,
      turnEnds: Infinity,
      lost: undefined,
      renewAt: granted + length / 3,
      settled: undefined,
    };
    if (this.#waiting.length === 0) {
      const absent = lease.content === undefined;
      await this.#settle(lease, { length: 0, change: undefined, absent }, timeout);
      return undefined;
    }
    return lease;
  }

  /** Serves turns until none waits, others have waited for long, or the lease is lost. */
  async #serveTurns(lease: Lease<Encoded>): Promise<void> {
    const { serving, checks } = this.#lines;
    this.#lease = lease;
    serving.add(this);
    checks.add(lease.renewAt);
    for (let handsOn = true; handsOn;) {
      const turn = lease.turn = this.#waiting.shift()!;
      lease.turnEnds = this.#clock.now() + turn.options.most;
      checks.add(lease.turnEnds);
      const { update } = turn.options;
      turn.isRepeated = update !== undefined && hasSeen(lease.seen!, update, this.#clock.date());
      turn.earlier = lease.settled;
      await turn.begin(lease.content);
      lease.turnEnds = Infinity;
      if (turn.isRunning) this.#lines.overdue.add(turn);
      // A closed store leaves the lease until it expires because the work may still do something.
      if (turn.lost instanceof ClosedError) lease.lost ??= turn.lost;
      const [next] = this.#waiting;
      handsOn = next !== undefined && lease.lost === undefined &&
        (lease.seen !== undefined || next.options.update === undefined) &&
        this.#clock.now() - lease.granted < this.#lines.fairness.longestHold(this.#key);
      this.#endTurn(lease, turn, handsOn ? lease.length : 0);
    }
    serving.delete(this);
    await lease.settled;
    this.#lines.fairness.noteRelease(this.#key, lease.granted);
  }

  /** Stores the change of a turn, and releases the lease if `length` is 0. */
  async #endTurn(lease: Lease<Encoded>, turn: Turn<Encoded>, length: number): Promise<void> {
    const change = turn.lost === undefined ? turn.change : undefined;
    if (change !== undefined) lease.content = change ?? undefined;
    else if (turn.change !== undefined) turn.settle(turn.lost);
    else if (turn.isReplaced) lease.content = turn.content;
    const note = this.#noteUpdate(lease, turn, change !== undefined);
    let error: unknown;
    if (lease.lost === undefined && (change !== undefined || note !== undefined || length === 0)) {
      const absent = lease.content === undefined;
      error = await this.#settle(lease, { length, change, note, absent }, turn.options.timeout);
    } else if (turn.isRepeated) error = lease.lost ?? await lease.settled;
    // A repeated update must not succeed before what it repeats is stored.
    turn.settle(change === undefined && !turn.isRepeated ? undefined : error);
  }

  /**
   * Adds the turn's update to those that the session has seen. Returns them, if there is one to add: the
   * update has changed the session, or has ended well and there is a session.
   */
  #noteUpdate(lease: Lease<Encoded>, turn: Turn<Encoded>, changed: boolean): string | undefined {
    const { options: { update }, isRepeated, hasFailed, lost } = turn;
    if (update === undefined || isRepeated || lost !== undefined) return undefined;
    if (!changed && (hasFailed || lease.content === undefined)) return undefined;
    return lease.seen = addSeen(lease.seen!, update, this.#clock.date());
  }

  /** Resolves with the error of a settlement that was refused or that failed. */
  #settle(
    lease: Lease<Encoded>,
    settlement: Omit<Settlement<Encoded>, "key" | "token">,
    timeout: number,
  ): Promise<unknown> {
    const { token } = lease;
    const all = { key: this.#key, token, ...settlement };
    const now = this.#clock.now();
    const deadline = now + timeout;
    const call = newCall(now, lease.turn?.operation);
    return lease.settled = new Promise<unknown>((resolve) =>
      this.#lines.queue.settle(all, {
        deadline,
        call,
        resolve: (refusal) => resolve(refusal && this.#lose(lease, refusal)),
        reject: (error) => {
          if (settlement.change === undefined && settlement.note === undefined) {
            return resolve(error);
          }
          // It may still arrive, and would undo a later one.
          this.#lose(lease);
          if (error === timedOut) return resolve(error);
          // The database answers, so others need not wait until the lease expires.
          const release = { key: this.#key, token, length: 0, change: undefined };
          const done = () => resolve(error);
          this.#lines.queue.settle(release, { deadline, call, resolve: done, reject: done });
        },
      })
    );
  }

  #lose(lease: Lease<Encoded>, refusal?: Refusal): Error {
    const holder = holderOf(refusal?.token);
    const who = holder === undefined ? "" : `; it went to ${describeHolder(holder)}`;
    const why = `its lease was lost before it was stored${who}`;
    lease.lost ??= new LeaseError(why, { operation: "write", key: this.#key, holder });
    lease.turn?.lose(lease.lost);
    return lease.lost;
  }

  #notHad(token: string, wait: number): LeaseError {
    const holder = holderOf(token);
    const why = `${describeHolder(holder)} holds its lease; waited for ${wait} ms`;
    return new LeaseError(why, { operation: "lock", key: this.#key, holder });
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#clock.setTimeout(resolve, ms));
  }
}

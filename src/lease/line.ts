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
import type { Clock, Timer } from "../store/clock.ts";
import { isAlive } from "../store/entry.ts";
import type { Content } from "../store/queue.ts";
import type { LeaseQueue } from "./queue.ts";
import { describeHolder, holderOf, newToken } from "./token.ts";
import type { Turn } from "./turn.ts";

/** After this time a process lets other processes in, in ms. */
const longestHold = 1_000;

/** The longest time between two polls of a process that waits, in ms, without the jitter. */
const longestPoll = 50;

/** How long a process that lets others in keeps away: longer than their polls, in ms. */
const pause = longestPoll * 1.3;

/** A time in which this process had a key and let no others in. In ms of the clock's `now()`. */
interface Occupation {
  readonly since: number;
  /** When it last released the lease. */
  readonly released: number;
}

/** What all lines of a database share. */
export interface Lines<Encoded> {
  readonly queue: LeaseQueue<Encoded>;
  readonly clock: Clock;
  /** The latest occupations, in the order of their ends. */
  readonly occupations: Map<string, Occupation>;
  /** Turns that still run although they have taken too long. */
  readonly overdue: Set<Turn<Encoded>>;
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
  turn: Turn<Encoded> | undefined;
  /** Why it is lost. */
  lost: Error | undefined;
  renewal: Timer | undefined;
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

  async #serve(): Promise<void> {
    this.#serving = true;
    while (this.#waiting.length > 0) {
      await this.#letOthersIn();
      const lease = await this.#claim();
      if (lease !== undefined) await this.#serveTurns(lease);
    }
    this.#lines.onEmpty(this.#key);
  }

  /**
   * Waits if this process has occupied the key for long: a process that waits notices a free lease only
   * with its next poll. Guarded by "no process starves" in `tests/core/leases.test.ts`.
   */
  async #letOthersIn(): Promise<void> {
    const { since, released } = this.#lines.occupations.get(this.#key) ?? { since: 0, released: 0 };
    const rest = released + pause - this.#clock.now();
    if (released - since >= longestHold && rest > 0) await this.#sleep(rest);
  }

  /** Claims the lease for the first turn. Returns `undefined` if no turn is left. */
  async #claim(): Promise<Lease<Encoded> | undefined> {
    const key = this.#key;
    let token = newToken(this.#clock.date());
    const poll = new Poll();
    for (;;) {
      const [turn] = this.#waiting;
      if (turn === undefined) return undefined;
      const { lease: length, wait, timeout } = turn.options;
      turn.firstAt ??= this.#clock.now();
      let claimed: Claimed<Encoded>;
      try {
        const deadline = this.#clock.now() + timeout;
        claimed = await this.#lines.queue.claim({ key, token, length }, deadline);
      } catch (error) {
        // The claim may have been granted. The next one has the same token, so it is granted again.
        for (const turn of [...this.#waiting]) this.refuse(turn, error);
        continue;
      }
      if (claimed.token === token) return this.#granted(claimed, length);
      const waitsFor = turn.firstAt + wait - this.#clock.now();
      if (waitsFor > 0) {
        await this.#sleep(Math.min(waitsFor, poll.delay(claimed.token, this.#clock)));
      } else this.refuse(turn, this.#notHad(claimed.token, wait));
      token = newToken(this.#clock.date());
    }
  }

  #granted({ token, entry }: Claimed<Encoded>, length: number): Lease<Encoded> {
    const lease: Lease<Encoded> = {
      token,
      length,
      granted: this.#clock.now(),
      content: isAlive(entry, this.#clock.date()) ? entry : undefined,
      turn: undefined,
      lost: undefined,
      renewal: undefined,
      settled: undefined,
    };
    this.#renewLater(lease);
    return lease;
  }

  /** Serves turns until none waits, others have waited for long, or the lease is lost. */
  async #serveTurns(lease: Lease<Encoded>): Promise<void> {
    for (let handsOn = true; handsOn;) {
      const turn = lease.turn = this.#waiting.shift()!;
      await turn.begin(lease.content, this.#clock);
      if (turn.isRunning) this.#lines.overdue.add(turn);
      // A closed store leaves the lease until it expires because the work may still do something.
      if (turn.lost instanceof ClosedError) lease.lost ??= turn.lost;
      handsOn = this.#waiting.length > 0 && lease.lost === undefined &&
        this.#clock.now() - lease.granted < longestHold;
      this.#endTurn(lease, turn, handsOn ? lease.length : 0);
    }
    this.#clock.clearTimeout(lease.renewal);
    await lease.settled;
    this.#noteOccupation(lease);
  }

  /** Stores the change of a turn, and releases the lease if `length` is 0. */
  async #endTurn(lease: Lease<Encoded>, turn: Turn<Encoded>, length: number): Promise<void> {
    const change = turn.lost === undefined ? turn.change : undefined;
    if (change === undefined) turn.settle(turn.change === undefined ? undefined : turn.lost);
    else lease.content = change ?? undefined;
    if (lease.lost !== undefined || change === undefined && length > 0) return;
    const absent = lease.content === undefined;
    const error = await this.#settle(lease, { length, change, absent }, turn.options.timeout);
    turn.settle(error);
  }

  /** Resolves with the error of a settlement that was refused or that failed. */
  #settle(
    lease: Lease<Encoded>,
    settlement: Omit<Settlement<Encoded>, "key" | "token">,
    timeout: number,
  ): Promise<unknown> {
    const { token } = lease;
    const all = { key: this.#key, token, ...settlement };
    const deadline = this.#clock.now() + timeout;
    return lease.settled = new Promise<unknown>((resolve) =>
      this.#lines.queue.settle(all, {
        deadline,
        resolve: (refusal) => resolve(refusal && this.#lose(lease, refusal)),
        reject: (error) => {
          // It may still arrive, and would undo a later one.
          if (settlement.change !== undefined) this.#lose(lease);
          resolve(error);
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

  /** Renews the lease while turns run. A renewal that fails is followed by another one. */
  #renewLater(lease: Lease<Encoded>): void {
    lease.renewal = this.#clock.setTimeout(() => {
      const { length } = lease;
      this.#settle(lease, { length, change: undefined }, length / 3);
      if (lease.lost === undefined) this.#renewLater(lease);
    }, lease.length / 3);
    lease.renewal.unref();
  }

  /** Joins the occupation to the one before if no other process had the time to get in. */
  #noteOccupation({ granted }: Lease<Encoded>): void {
    const { occupations } = this.#lines;
    const released = this.#clock.now();
    const before = occupations.get(this.#key);
    const since = before !== undefined && granted - before.released < pause
      ? before.since
      : granted;
    occupations.delete(this.#key); // so that it moves to the end
    occupations.set(this.#key, { since, released });
    for (const [key, occupation] of occupations) {
      if (released - occupation.released < pause) break;
      occupations.delete(key);
    }
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

/** How long to wait between claims while another process holds the lease. */
class Poll {
  #holder: string | undefined;
  /** When the current holder was first seen. */
  #seen = 0;
  /** How many holders have overtaken this process. */
  #overtaken = -1;

  /** The time until the next claim, in ms. A process that others overtake asks more often. */
  delay(holder: string, clock: Clock): number {
    const now = clock.now();
    if (holder !== this.#holder) {
      this.#holder = holder;
      this.#seen = now;
      this.#overtaken++;
    }
    const delay = Math.min(longestPoll, 10 + (now - this.#seen) / 4) / (1 + this.#overtaken);
    return Math.max(2, delay * (0.75 + Math.random() / 2));
  }
}

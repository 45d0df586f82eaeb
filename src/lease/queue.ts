/**
 * Claims and settlements of leases, in batches.
 *
 * @module
 */

import type { Claim, Claimed, Leases, Refusal, Settlement } from "../backend.ts";
import type { Clock } from "../store/clock.ts";
import { DeadlineTimer } from "../store/deadline.ts";
import { OwnerGuard } from "./guard.ts";
import { byKey, type Job, Lane, type Waiter } from "../store/lane.ts";
import type { SharedBackend } from "../store/shared.ts";
import type { Call } from "../store/tracing.ts";

interface ClaimJob<Encoded> extends Job<Claimed<Encoded>> {
  readonly claim: Claim;
}

interface SettlementJob<Encoded> extends Job<Refusal | undefined> {
  settlement: Settlement<Encoded>;
}

/**
 * One lane for claims and one for settlements. A key is in one of them at a time because its turns
 * follow each other.
 */
export class LeaseQueue<Encoded> {
  readonly #shared: SharedBackend<Encoded>;
  readonly #claims: Lane<Claimed<Encoded>, ClaimJob<Encoded>, Claimed<Encoded>[]>;
  readonly #settlements: Lane<Refusal | undefined, SettlementJob<Encoded>, Refusal[]>;
  readonly #deadlines: DeadlineTimer;

  constructor(shared: SharedBackend<Encoded>, leases: Leases<Encoded>, clock: Clock) {
    this.#shared = shared;
    const { queue } = shared;
    const guard = new OwnerGuard(leases, clock);
    const lanes = {
      executor: shared,
      // An earlier `set` without a lease comes first, so that an `update` sees it.
      ready: (key: string) => !queue.isWriting(key),
      onBatchEnd: () => resumeWrites(),
    };
    this.#claims = new Lane({
      ...lanes,
      execute: (jobs, signal) => {
        const claims = jobs.map(({ claim }) => claim);
        const claim = () => leases.claim(claims, signal);
        const work = () => shared.isCaching ? claim() : guard.claim(claim, signal);
        return shared.runLeased("claim", claims, work, signal, jobs);
      },
      results: (answers, jobs) => byKey(answers, jobs) as Claimed<Encoded>[],
    });
    this.#settlements = new Lane({
      ...lanes,
      size: ({ settlement }) => settlement.change ? shared.size(settlement.change.value) : 0,
      execute: (jobs, signal) => {
        const settlements = jobs.map(({ settlement }) => settlement);
        const isChange = settlements.some(({ change }) => change !== undefined);
        const settle = () => leases.settle(settlements, signal);
        const work = () => isChange && !shared.isCaching ? guard.change(settle, signal) : settle();
        return shared.runLeased("settle", settlements, work, signal, jobs);
      },
      results: byKey,
    });
    const both = [this.#claims, this.#settlements];
    this.#deadlines = new DeadlineTimer(
      clock,
      (now) => Math.min(...both.map((lane) => lane.rejectOverdue(now))),
      () => both.every((lane) => lane.size === 0),
    );
    const resumeWrites = queue.attach({
      isRunning: (key) => both.some((lane) => lane.isRunning(key)),
      isSettling: (key) => this.#settlements.get(key) !== undefined,
      schedule: () => both.forEach((lane) => lane.schedule()),
      stop: () => this.#deadlines.stop(),
    });
  }

  /** Claims a lease. Resolves with its state. */
  claim(claim: Claim, deadline: number, call: Call | undefined): Promise<Claimed<Encoded>> {
    return new Promise((resolve, reject) => {
      this.#claims.add({ key: claim.key, claim, waiters: [{ deadline, call, resolve, reject }] });
      this.#deadlines.add(deadline);
    });
  }

  /**
   * Settles a lease. A settlement that has not started is replaced by a newer one of the same lease, and
   * both end together. The waiter gets the refusal, if the lease is lost.
   */
  settle(settlement: Settlement<Encoded>, waiter: Waiter<Refusal | undefined>): void {
    const { key, change } = settlement;
    if (change !== undefined) this.#shared.queue.countWrite(key);
    const job = this.#settlements.waiting.get(key);
    if (job !== undefined) {
      const earlier = job.settlement;
      job.settlement = {
        ...settlement,
        change: change === undefined ? earlier.change : change,
        note: settlement.note ?? earlier.note,
      };
      job.waiters.push(waiter);
    } else this.#settlements.add({ key, settlement, waiters: [waiter] });
    this.#deadlines.add(waiter.deadline);
  }
}

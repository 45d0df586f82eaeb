/**
 * A turn: the exclusive use of a session by one update, or by one call of `update()`.
 *
 * @module
 */

import type { Entry } from "../backend.ts";
import { LeaseError } from "../errors.ts";
import type { Content } from "../store/queue.ts";
import { currentOperation, type OperationTrace } from "../store/tracing.ts";

/** How long a turn may wait, and how long it may hold its lease, in ms; and whose turn it is. */
export interface TurnOptions {
  /** How long to wait for the lease, from the moment when the turn is the first one in its process. */
  readonly wait: number;
  /** How long the lease lasts unless it is renewed. */
  readonly lease: number;
  /** How long the turn may hold the lease. */
  readonly most: number;
  /** How long a statement on the database may take. */
  readonly timeout: number;
  /** The update, if it must not run again. */
  readonly update?: number | undefined;
}

/** Reads and changes a session in memory. A settlement of the lease stores the change. */
export class Turn<Encoded> {
  readonly key: string;
  readonly options: TurnOptions;
  /** The call that needs the turn, if it is traced. */
  readonly operation: OperationTrace | undefined = currentOperation();
  /** The session as the turn sees it. */
  content: Content<Encoded>;
  /** What has to be stored; `null` for a deletion. */
  change: Entry<Encoded> | null | undefined;
  /** Resolves when the changes of the turns before it are stored, or cannot be. */
  earlier: Promise<unknown> | undefined;
  /** Whether `content` has been stored without the turn. */
  isReplaced = false;
  /** Whether the session has been read in this turn. */
  isRead = false;
  /** Whether the session has seen the update before. */
  isRepeated = false;
  /** Whether the work ended with an error. */
  hasFailed = false;
  /** Why nothing that the turn changes is stored any more. */
  lost: Error | undefined;
  /** Whether the work is in progress. */
  isRunning = false;
  /** When the turn became the first one in its process, in ms of the clock's `now()`. */
  firstAt: number | undefined;
  #abort: AbortController | undefined;
  readonly #begun = new Outcome();
  readonly #ended = new Outcome();
  readonly #stored = new Outcome();

  constructor(key: string, options: TurnOptions) {
    this.key = key;
    this.options = options;
  }

  /** Resolves when the turn has the lease, or with the reason why it cannot have it. */
  get begun(): Promise<unknown> {
    return this.#begun.promise;
  }

  /** Resolves when the change is stored, or with the reason why it is not. */
  get stored(): Promise<unknown> {
    return this.#stored.promise;
  }

  /** Aborts when the lease is lost. Made when it is needed, because most handlers do not need it. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.lost !== undefined) this.#abort.abort(this.lost);
    return this.#abort.signal;
  }

  /** Ends a turn that has not begun. */
  refuse(error: unknown): void {
    this.#begun.set(error);
  }

  /** Lets the work begin. Resolves when it has ended, or was abandoned. */
  begin(content: Content<Encoded>): Promise<unknown> {
    this.content = content;
    this.isRunning = true;
    this.#begun.set();
    return this.#ended.promise;
  }

  /** Called when the work has ended. */
  end(): void {
    this.isRunning = false;
    this.#ended.set();
  }

  /** Ends the turn for others because it has taken longer than `most`. */
  abandonOverdue(): void {
    const { key, options: { most } } = this;
    const why = `the update still ran after ${most} ms, the option "most" of exclusive()`;
    this.abandon(new LeaseError(why, { operation: "write", key }));
  }

  /** Ends the turn for others, although the work may still run. */
  abandon(error: Error): void {
    this.lose(error);
    this.#ended.set();
  }

  /** Changes the session. */
  write(change: Entry<Encoded> | null): void {
    this.change = change;
    this.content = change ?? undefined;
  }

  /** Notes what has been stored without the turn, for the turns after it. */
  replace(content: Content<Encoded>): void {
    this.content = content;
    this.isReplaced = true;
  }

  lose(error: Error): void {
    this.lost ??= error;
    this.#abort?.abort(this.lost);
  }

  /** Called when the change is stored, or cannot be. */
  settle(error?: unknown): void {
    this.#stored.set(error);
  }
}

/** A promise that may resolve with an error, so that nobody has to wait for it. */
class Outcome {
  readonly promise: Promise<unknown>;
  /** Resolves the promise. Later calls do nothing. */
  set!: (error?: unknown) => void;

  constructor() {
    this.promise = new Promise((resolve) => this.set = resolve);
  }
}

/**
 * What stores know about failovers behind a pool. A former primary still answers reads, so a connection
 * to it would return sessions that are outdated.
 *
 * @module
 */

/** What a server says about itself. */
export interface Answer {
  /** Whether it takes writes. */
  readonly writable: boolean;
  /** Its identity, if its word is not enough. */
  readonly server?: string;
}

/** How long the word of a server that has refused a write is not enough, in ms. */
const distrust = 60_000;

/**
 * The failovers of one pool. Until the first one, every connection is trusted. A failover is noticed when
 * a server refuses a write because it is read-only. From then on, connections that were opened before are
 * to be discarded, and each newer one is asked once whether its server takes writes: a proxy may still
 * send new connections to the former primary.
 */
export class Failovers<Connection extends object> {
  // deno-lint-ignore no-explicit-any
  static readonly #all = new WeakMap<object, Failovers<any>>();

  /** The failovers of a pool or a Kysely, the same for all stores. */
  static of<Connection extends object>(pool: object): Failovers<Connection> {
    let failovers = Failovers.#all.get(pool);
    if (failovers === undefined) Failovers.#all.set(pool, failovers = new Failovers());
    return failovers;
  }

  /** The same, for a pool that emits an event with each connection that it opens. */
  static watch<Connection extends object>(
    pool: { on(event: string, listener: (connection: Connection) => void): unknown },
    event: string,
  ): Failovers<Connection> {
    const isNew = !Failovers.#all.has(pool);
    const failovers = Failovers.of<Connection>(pool);
    if (isNew) pool.on(event, (it) => failovers.#opened.set(it, failovers.#count));
    return failovers;
  }

  #count = 0;
  /** Whether a server that takes writes has been found since the last failover. */
  #found = true;
  /** The number of failovers before each connection was opened. */
  readonly #opened = new WeakMap<Connection, number>();
  /** The number of failovers before the server of each connection was found to take writes. */
  readonly #confirmed = new WeakMap<Connection, number>();

  /** The server of each connection, where it is known. */
  readonly #servers = new WeakMap<Connection, string>();
  /**
   * The server that was the last one to refuse a write. A member that is leaving its group refuses writes
   * for seconds before it says so.
   */
  #refused: { readonly server: string; readonly until: number } | undefined;

  /** Whether there was one. */
  get any(): boolean {
    return this.#count > 0;
  }

  /** Whether the connection may be used without a question to its server. */
  isTrusted(connection: Connection): boolean {
    return this.#count === 0 || this.#confirmed.get(connection) === this.#count;
  }

  /** Whether the connection was opened before the last failover. */
  isOutdated(connection: Connection): boolean {
    return this.#count > (this.#opened.get(connection) ?? 0);
  }

  /**
   * Notes that a server has refused a write, or a new connection. It is a failover only if the server was
   * believed to take writes. Otherwise each attempt to write would make all connections outdated again.
   */
  note(connection?: Connection): void {
    const server = connection && this.#servers.get(connection);
    if (server !== undefined) this.#refused = { server, until: performance.now() + distrust };
    if (connection === undefined ? !this.#found : !this.isTrusted(connection)) return;
    this.#count++;
    this.#found = false;
  }

  /**
   * Asks a server whether it takes writes. Returns whether its connection may be used. A read-only server
   * may serve reads until another one has been found, because none can have newer sessions of the stores
   * before that.
   */
  async check(connection: Connection, ask: () => Promise<Answer>): Promise<boolean> {
    const count = this.#count;
    const { writable, server } = await this.#ask(connection, ask);
    if (!writable || this.#hasRefused(server)) return !this.#found;
    this.#confirmed.set(connection, count);
    if (count === this.#count) this.#found = true;
    return true;
  }

  /** Asks for the server of a connection, if it is not known. */
  async identify(connection: Connection, ask: () => Promise<Answer>): Promise<void> {
    if (!this.#servers.has(connection)) await this.#ask(connection, ask);
  }

  async #ask(connection: Connection, ask: () => Promise<Answer>): Promise<Answer> {
    const answer = await ask();
    if (answer.server !== undefined) this.#servers.set(connection, answer.server);
    return answer;
  }

  #hasRefused(server: string | undefined): boolean {
    return server !== undefined && server === this.#refused?.server &&
      performance.now() < this.#refused.until;
  }
}

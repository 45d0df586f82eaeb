/**
 * Opens the database of a URL without a store, so that stored values can be copied unchanged. Sessions are
 * in their plain form: see `src/transform/`.
 *
 * @module
 */

import { existsSync } from "node:fs";
import type {
  Backend,
  Codec,
  Entry,
  Held,
  Limits,
  MaybePromise,
  Page,
  Plan,
  Replacement,
} from "../backend.ts";
import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";
import { describeOwner } from "../lease/token.ts";
import { systemClock } from "../store/clock.ts";
import { timedOut, withTimeout } from "../store/deadline.ts";
import { ownersKey } from "../store/entry.ts";
import type { StoreOptions } from "../options.ts";
import { backendOf } from "../store/factory.ts";
import { SharedBackend } from "../store/shared.ts";
import { layered } from "../transform/backend.ts";
import { type Renew, type Rewritable, rewrite } from "../transform/rewrite.ts";
import type { Context } from "./context.ts";
import { isMissing, missingDriver } from "./driver.ts";
import { exit, Failure, sentence, unlessInterrupted } from "./failure.ts";
import { describe, fileOf, type Kind, kinds, type Location } from "./url.ts";

/** Options of a store that tell how its sessions are stored. */
export type Transforms = Pick<StoreOptions, "codec" | "version" | "migrate">;

/** How to open a database. */
export interface Access {
  /** Whether to create or upgrade the schema. Otherwise opening changes nothing. */
  readonly prepare?: boolean;
  /** Whether sessions will be changed: if a process has them in memory, prints a warning. */
  readonly changes?: boolean;
  /** Whether a missing table, collection or file is no error. */
  readonly mayBeMissing?: boolean;
  /** How sessions are decoded and encoded. By default in the database's own format and any version. */
  readonly transforms?: Transforms;
  /** Called with problems that do not prevent opening. */
  readonly warn?: (text: string) => void;
}

/** The time limit of an operation, in ms, including retries: long, because batches are large. */
const operationTimeout = 60_000;

/** An open database. */
export class Database implements AsyncDisposable {
  readonly title: string;
  /** The state of the schema; `undefined` for a database without a schema, and after `prepare`. */
  readonly plan: Plan | undefined;
  /** The database's own format. */
  readonly format: Codec<unknown>;
  /** Whether sessions are encrypted when they are stored. */
  readonly encrypts: boolean;
  readonly #backend: Backend<Plain<unknown>>;
  readonly #connection: SharedBackend<Plain<unknown>>;
  readonly #signal: AbortSignal;

  private constructor(
    title: string,
    format: Codec<unknown>,
    backend: Backend<Plain<unknown>>,
    plan: Plan | undefined,
    { keys, signal }: Context,
  ) {
    this.title = title;
    this.format = format;
    this.encrypts = keys !== undefined;
    this.#backend = backend;
    this.#connection = SharedBackend.of(backend)!;
    this.#signal = signal;
    this.plan = plan;
  }

  /**
   * Opens a database.
   *
   * @throws {Failure} if the database cannot be opened, and after Ctrl-C.
   */
  static async open(
    location: Location,
    context: Context,
    access: Access = {},
  ): Promise<Database> {
    const { prepare = false, changes, mayBeMissing = false, transforms, warn = () => {} } = access;
    const { kind, url, parameters, title } = location;
    const { factories, keys, signal, timeout } = context;
    const file = fileOf(location);
    const found = prepare || file === undefined || existsSync(file);
    if (!found && !mayBeMissing) throw new Failure(`There is no file ${file}`);
    const options = file !== undefined
      ? { [kind === "sqlite" ? "filename" : "path"]: found ? file : ":memory:" }
      : { url, ...(kind === "pg" && { prepare: false }) }; // works behind any pooler
    let plan = undefined as Plan | undefined;
    let format: Codec<unknown>;
    let backend: Backend<Plain<unknown>> | undefined;
    try {
      const plain = backendOf(await factories[kind](), {
        ...options,
        ...parameters,
        timeout: operationTimeout,
      });
      format = plain.codec;
      backend = layered(plain, { encrypt: keys && { keys }, onNewer: "keep", ...transforms });
      const connection = SharedBackend.join(backend, {
        timeout: operationTimeout,
        expiring: !prepare,
        report: (error) => warn(`${title}: ${sentence(error)}`),
        ...(!prepare && { plan: (given) => plan = given }),
      }, systemClock);
      const open = (signal: AbortSignal) => connection.run(() => {}, signal);
      await interruptible(timeout, connection, open, signal);
    } catch (error) {
      if (plan?.exists !== false || signal.aborted) {
        const closed = backend?.close();
        // After Ctrl-C it is not awaited, because it may wait for a server.
        if (signal.aborted) Promise.resolve(closed).catch(() => {});
        else await closed;
        throw toFailure(error, kind, title, context);
      }
    }
    if (!found) plan ??= { exists: false, unique: true, changes: ["create the file"] };
    const database = new Database(title, format!, backend!, plan, context);
    if (plan?.exists === false && !mayBeMissing) {
      await database.close();
      throw new Failure(`${title} has no ${describe(location)}`);
    }
    if (changes) await database.#warnOfOwner(context);
    return database;
  }

  get codec(): Codec<Plain<unknown>> {
    return this.#backend.codec;
  }

  /** The name of the table, collection or prefix, to which encrypted sessions are bound. */
  get place(): string {
    return this.#backend.place;
  }

  get limits(): Limits {
    return this.#connection.limits;
  }

  /** Whether the table or collection does not exist. */
  get missing(): boolean {
    return this.plan?.exists === false;
  }

  /** Whether expired sessions stay in the database until `prune` deletes them. */
  get prunes(): boolean {
    return this.#backend.prune !== undefined;
  }

  /** All entries without their values, in pages. A table without a unique key may repeat keys. */
  async *pages(): AsyncGenerator<Page["entries"]> {
    let start: string | undefined;
    if (this.missing) return;
    do {
      const page = await this.#query((connection, signal) => connection.page(start, signal, 1_000));
      yield page.entries;
      start = page.next;
    } while (start !== undefined);
  }

  /** The entries that exist; of duplicates, the one that an upgrade would keep. */
  async read(keys: string[]): Promise<Entry<Plain<unknown>>[]> {
    if (this.missing || keys.length === 0) return [];
    const unique = [...new Set(keys)];
    const entries = await this.#query((connection, signal) => connection.read(unique, signal));
    // The last of the duplicates is the one that an upgrade keeps.
    return [...new Map(entries.map((entry) => [entry.key, entry])).values()];
  }

  /**
   * Inserts or overwrites entries.
   *
   * @param fresh whether none of them existed a moment ago.
   * @param timeout the time limit, in ms.
   */
  write(entries: Entry<Plain<unknown>>[], fresh: boolean, timeout?: number): Promise<void> {
    return this.#run((connection, signal) => connection.write(entries, signal, fresh), timeout);
  }

  /**
   * Rewrites sessions. Ctrl-C does not abort it.
   *
   * @param refuse gets each session that cannot be rewritten.
   * @returns the keys of those that it has rewritten.
   */
  rewrite(
    keys: string[],
    renew: Renew,
    refuse: (key: string, error: unknown) => void,
  ): Promise<ReadonlySet<string>> {
    const database: Rewritable = {
      read: (keys) => this.#run((connection, signal) => connection.read(keys, signal)),
      replace: (all: Replacement<Plain<unknown>>[]) =>
        this.#run((connection, signal) => connection.replace(all, signal)),
    };
    return rewrite(database, keys, renew, refuse);
  }

  renew(keys: string[], expires: number, timeout?: number): Promise<void> {
    return this.#run((connection, signal) => connection.renew(keys, expires, signal), timeout);
  }

  remove(keys: string[], timeout?: number): Promise<void> {
    return this.#run((connection, signal) => connection.remove(keys, signal), timeout);
  }

  /** Deletes a batch of expired entries, and returns their number. */
  prune(): Promise<number> {
    return this.#run((connection, signal) => connection.prune(signal));
  }

  /** All leases that are held. */
  async leases(): Promise<Held[]> {
    const { leases } = this.#connection;
    if (this.missing || typeof leases === "string") return [];
    const all = new Map<string, Held>();
    let start: string | undefined;
    do {
      const page = await this.#query((connection, signal) =>
        connection.run(() => leases.held(start, 1_000, signal), signal)
      );
      for (const lease of page.leases) all.set(lease.key, lease);
      start = page.next;
    } while (start !== undefined);
    return [...all.values()];
  }

  /** The process that has all sessions in memory, in words. */
  async owner(): Promise<string | undefined> {
    const { leases } = this.#connection;
    if (this.missing || typeof leases === "string") return undefined;
    const [owner] = await this.#query((connection, signal) =>
      connection.run(() => leases.find([ownersKey], signal), signal)
    );
    return owner && describeOwner(owner.token);
  }

  async #warnOfOwner({ stderr }: Context): Promise<void> {
    // Without the right to read leases, the changes may work nevertheless.
    const owner = await this.owner().catch(() => {});
    if (owner === undefined) return;
    const danger = "It does not notice these changes, and may overwrite them: stop it first";
    stderr.write(`Warning: ${this.title}: ${owner}. ${danger}.\n`);
  }

  async close(): Promise<void> {
    await this.#backend.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Runs a change. Ctrl-C does not abort it, so that its outcome is known and can be reported. */
  async #run<T>(work: Work<T>, timeout = operationTimeout, signal?: AbortSignal): Promise<T> {
    const connection = this.#connection;
    try {
      return await interruptible(timeout, connection, (signal) => work(connection, signal), signal);
    } catch (error) {
      if (error instanceof StoreError) throw error; // concerns one entry: the caller reports it
      if (error instanceof Failure && error.code === exit.interrupted) throw error;
      throw new Failure(`${this.title}: ${sentence(error)}`);
    }
  }

  /** Runs work that changes nothing; Ctrl-C aborts it. */
  #query<T>(work: Work<T>): Promise<T> {
    return this.#run(work, operationTimeout, this.#signal);
  }
}

type Work<T> = (connection: SharedBackend<Plain<unknown>>, signal: AbortSignal) => MaybePromise<T>;

/** Turns an error of opening into a message. If the driver is missing, says how to install it. */
function toFailure(error: unknown, kind: Kind, title: string, context: Context): Failure {
  if (error instanceof Failure && error.code === exit.interrupted) return error;
  const { driver, title: name } = kinds[kind];
  if (isMissing(error, driver)) return missingDriver(name, driver, context);
  if (error instanceof TypeError || error instanceof RangeError) {
    return new Failure(sentence(error), exit.usage);
  }
  return new Failure(`${title}: ${sentence(error)}`);
}

/**
 * Runs work with a time limit.
 *
 * @param interrupt aborts it earlier, after Ctrl-C.
 */
async function interruptible<T>(
  timeout: number,
  connection: SharedBackend<Plain<unknown>>,
  work: (signal: AbortSignal) => MaybePromise<T>,
  interrupt?: AbortSignal,
): Promise<T> {
  try {
    return await withTimeout(timeout, systemClock, (signal) => {
      if (interrupt === undefined) return work(signal);
      const either = AbortSignal.any([signal, interrupt]);
      return unlessInterrupted(interrupt, () => work(either));
    });
  } catch (error) {
    if (error !== timedOut) throw error;
    const { lastError } = connection;
    const last = lastError === undefined ? "" : `; last error: ${sentence(lastError)}`;
    throw new Failure(`timed out after ${timeout / 1000} s${last}`);
  }
}

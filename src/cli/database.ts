/**
 * Opens the database of a URL without a store, so that stored values can be copied unchanged.
 *
 * @module
 */

import { existsSync } from "node:fs";
import process from "node:process";
import type { Backend, Codec, Entry, Limits, MaybePromise, Page, Plan } from "../backend.ts";
import { Connection, within } from "../connection.ts";
import { StoreError } from "../errors.ts";
import { expired } from "../queue.ts";
import { backendOf } from "../store.ts";
import { type Context, exit, Failure, sentence, unlessInterrupted } from "./context.ts";

/** The supported databases, by the names of the modules that have their factories. */
const kinds = {
  redis: {
    title: "Redis",
    driver: "redis",
    schemes: /^rediss?$/,
    defaults: { prefix: "telegraf:" },
  },
  mongodb: {
    title: "MongoDB",
    driver: "mongodb",
    schemes: /^mongodb(\+srv)?$/,
    defaults: { collection: "telegraf-sessions" },
  },
  sqlite: {
    title: "SQLite",
    driver: "better-sqlite3",
    schemes: /^sqlite$/,
    defaults: { table: "telegraf-sessions" },
  },
  pg: {
    title: "PostgreSQL",
    driver: "pg",
    schemes: /^postgres(ql)?$/,
    defaults: { table: "telegraf-sessions", schema: undefined },
  },
  mysql: {
    title: "MySQL",
    driver: "mysql2",
    schemes: /^(mysql|mariadb)$/,
    defaults: { table: "telegraf-sessions" },
  },
} as const;

export type Kind = keyof typeof kinds;

/** Where sessions are stored. */
export interface Location {
  readonly kind: Kind;
  /** The URL for the driver, without our own parameters; for SQLite, the name of the file. */
  readonly url: string;
  /** The table, collection, prefix or schema that the URL names. */
  readonly parameters: { readonly [name: string]: string };
  /** A name for messages, without credentials. */
  readonly title: string;
}

/**
 * Parses a URL, or the name of an SQLite file. Our own parameters are cut out of the text, because
 * `URL` cannot parse the URLs of every driver: those of MongoDB may name several hosts.
 *
 * @throws {Failure} if the text does not name a database.
 */
export function locate(text: string): Location {
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(text)?.[1]?.toLowerCase();
  const kind = (Object.keys(kinds) as Kind[]).find((name) =>
    kinds[name].schemes.test(scheme ?? "")
  );
  if (kind === undefined) {
    if (scheme === undefined && /\.(sqlite3?|db3?)$/i.test(text)) {
      return { kind: "sqlite", url: text, parameters: {}, title: `SQLite ${text}` };
    }
    throw new Failure(unknownMessage(text, scheme), exit.usage);
  }
  if (kind !== "sqlite" && !/^[^:]+:\/\//.test(text)) {
    throw new Failure(`A ${scheme}: URL must begin with ${scheme}://`, exit.usage);
  }
  const [, base, query = ""] = /^([^?]*)\??(.*)$/s.exec(text)!;
  const parameters: Record<string, string> = {};
  const others = query.split("&").filter((parameter) => {
    const [name, value = ""] = parameter.split("=", 2) as [string, string?];
    if (!(name in kinds[kind].defaults)) return parameter !== "";
    parameters[name] = decode(value);
    return false;
  });
  if (others.length > 0 && (kind === "sqlite" || kind === "redis")) {
    const [name] = others[0]!.split("=");
    const known = Object.keys(kinds[kind].defaults).join(", ");
    throw new Failure(
      `Unknown parameter "${name}" in a ${scheme}: URL; known parameters: ${known}`,
      exit.usage,
    );
  }
  const { title } = kinds[kind];
  if (kind === "sqlite") {
    const url = decode(base!.slice("sqlite:".length).replace(/^\/\//, ""));
    if (url === "") {
      throw new Failure(
        "The sqlite: URL has no file name; write sqlite:bot.db, for example",
        exit.usage,
      );
    }
    return { kind, url, parameters, title: `${title} ${url}` };
  }
  const url = base + (others.length > 0 ? `?${others.join("&")}` : "");
  return { kind, url, parameters, title: `${title} ${base!.replace(/^[^:]+:\/\/(.*@)?/s, "")}` };
}

/** The message for a text that does not name a database, without a part that may be a password. */
function unknownMessage(text: string, scheme: string | undefined): string {
  const [, host, port] = /^(?:.*@)?([\w.-]+|\[[\da-f:.]+\]):(\d+)(?:[/?].*)?$/is.exec(text) ?? [];
  if (host !== undefined) {
    const known = ports[port!];
    const begin = known === undefined
      ? "redis://, mongodb://, postgres:// or mysql://"
      : `${known}, as in ${known}${host}:${port}`;
    return `"${host}:${port}" is not a URL: begin with ${begin}`;
  }
  if (scheme !== undefined && !text.includes("@")) {
    return `Unknown database "${scheme}:"; use redis:, mongodb:, sqlite:, postgres: or mysql:`;
  }
  const shown = text.replace(/^.*@/s, "***@");
  return `"${shown}" is neither a URL nor a file name that ends in .sqlite or .db; ` +
    'write "sqlite:" before other file names';
}

/** The beginning of a URL, by the default port of the server. */
const ports: Record<string, string | undefined> = {
  6379: "redis://",
  27017: "mongodb://",
  5432: "postgres://",
  3306: "mysql://",
};

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Failure(
      `"${text}" in the URL is not valid percent-encoding; write %25 for a percent sign`,
      exit.usage,
    );
  }
}

/** How to open a database. */
export interface Access {
  /** Whether to create or upgrade the schema. Otherwise opening changes nothing. */
  readonly prepare?: boolean;
  /** Whether a missing table, collection or file is no error. */
  readonly mayBeMissing?: boolean;
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
  readonly #backend: Backend<unknown>;
  readonly #connection: Connection<unknown>;
  readonly #signal: AbortSignal;

  private constructor(
    title: string,
    backend: Backend<unknown>,
    plan: Plan | undefined,
    signal: AbortSignal,
  ) {
    this.title = title;
    this.#backend = backend;
    this.#connection = Connection.of(backend, operationTimeout);
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
    { prepare = false, mayBeMissing = false, warn = () => {} }: Access = {},
  ): Promise<Database> {
    const { kind, url, parameters, title } = location;
    const { factories, signal, timeout } = context;
    const found = prepare || kind !== "sqlite" || existsSync(url);
    if (!found && !mayBeMissing) throw new Failure(`There is no file ${url}`);
    const options = kind === "sqlite"
      ? { filename: found ? url : ":memory:" }
      : { url, ...(kind === "pg" && { prepare: false }) }; // works behind any pooler
    let plan = undefined as Plan | undefined;
    let backend: Backend<unknown> | undefined;
    try {
      backend = backendOf(await factories[kind](), {
        ...options,
        ...parameters,
        timeout: operationTimeout,
      });
      const connection = Connection.of(backend, operationTimeout);
      if (!prepare) connection.expire();
      if (!prepare) connection.plan = (given) => plan = given;
      connection.reporters.add((error) => warn(`${title}: ${sentence(error)}`));
      const open = (signal: AbortSignal) => connection.attempt(() => {}, signal);
      await withTimeout(timeout, connection, open, signal);
    } catch (error) {
      if (plan?.exists !== false || signal.aborted) {
        const closed = backend?.close();
        // After Ctrl-C it is not awaited, because it may wait for a server.
        if (signal.aborted) Promise.resolve(closed).catch(() => {});
        else await closed;
        throw toFailure(error, kind, title, context);
      }
    }
    const database = new Database(title, backend!, plan, signal);
    if (plan?.exists === false && !mayBeMissing) {
      await database.close();
      throw new Failure(`${title} has no ${describe(location)}`);
    }
    return database;
  }

  get codec(): Codec<unknown> {
    return this.#backend.codec;
  }

  get limits(): Limits {
    return this.#backend.limits;
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
  async read(keys: string[]): Promise<Entry<unknown>[]> {
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
  write(entries: Entry<unknown>[], fresh: boolean, timeout?: number): Promise<void> {
    return this.#run((connection, signal) => connection.write(entries, signal, fresh), timeout);
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
      return await withTimeout(timeout, connection, (signal) => work(connection, signal), signal);
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

type Work<T> = (connection: Connection<unknown>, signal: AbortSignal) => MaybePromise<T>;

/** The name of a kind of database, for people. */
export function titleOf(kind: Kind): string {
  return kinds[kind].title;
}

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

/** Whether the error, or one of its causes, says that the driver is not installed. */
export function isMissing(error: unknown, driver: string): boolean {
  const { code, message = "", cause } = Object(error) as {
    code?: unknown;
    message?: string;
    cause?: unknown;
  };
  return /MODULE_NOT_FOUND/.test(String(code)) && message.includes(`'${driver}'`) ||
    message.startsWith(`${driver} is not installed`) ||
    cause !== undefined && isMissing(cause, driver);
}

/** The failure for a driver that is not installed, with the command that helps. */
export function missingDriver(name: string, driver: string, { npx }: Context): Failure {
  const needs = `${name} needs the package "${driver}", which is not installed; run`;
  if (npx === undefined) return new Failure(`${needs}: npm install ${driver}`);
  // npx installs only the packages that are named, so name the drivers of the other URLs as well.
  const schemes = npx.map((argument) => /^([a-z][a-z\d+.-]+):/i.exec(argument)?.[1] ?? "");
  const others = Object.values(kinds).filter(({ driver: other, schemes: known }) =>
    other === driver || other !== "better-sqlite3" && schemes.some((scheme) => known.test(scheme))
  );
  // better-sqlite3 13 needs Node.js 22.
  const old = Number.parseInt(process.versions.node) < 22;
  const packages = others.map(({ driver }) =>
    ` -p ${driver}${old && driver === "better-sqlite3" ? "@12" : ""}`
  ).join("");
  return new Failure(`${needs}: npx -p @telegraf/session${packages} telegraf-session …`);
}

/** Names the table, collection or prefix in a message, as `table "sessions"`. */
export function describe(location: Location): string {
  const [[thing, name]] = Object.entries(parametersOf(location)) as [[string, string]];
  return `${thing} "${name}"`;
}

/** The table, collection, prefix or schema; the default for each that the URL does not name. */
export function parametersOf(
  { kind, parameters }: Location,
): { readonly [name: string]: string | undefined } {
  return { ...kinds[kind].defaults, ...parameters };
}

/**
 * Runs work with a time limit.
 *
 * @param interrupt aborts it earlier, after Ctrl-C.
 */
async function withTimeout<T>(
  timeout: number,
  connection: Connection<unknown>,
  work: (signal: AbortSignal) => MaybePromise<T>,
  interrupt?: AbortSignal,
): Promise<T> {
  try {
    return await within(timeout, (signal) => {
      if (interrupt === undefined) return work(signal);
      const either = AbortSignal.any([signal, interrupt]);
      return unlessInterrupted(interrupt, () => work(either));
    });
  } catch (error) {
    if (error !== expired) throw error;
    const { trouble } = connection;
    const last = trouble === undefined ? "" : `; last error: ${sentence(trouble)}`;
    throw new Failure(`timed out after ${timeout / 1000} s${last}`);
  }
}

/**
 * Options of all stores, and the rules of options.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { KeyObject } from "node:crypto";
import process from "node:process";

/** The option `encrypt`. */
export interface EncryptOptions {
  /**
   * The newest key first. It encrypts, and all of them decrypt. Each is 32 random bytes: base64 text, or a
   * secret `KeyObject` of `node:crypto`.
   */
  keys: readonly (string | KeyObject)[];
  /**
   * Whether sessions that are not encrypted are refused with a `DecodeError`. Set it when `rotate()` has
   * encrypted all of them.
   *
   * @default {false}
   */
  required?: boolean | undefined;
}

/** The option `codec`: how sessions become text or bytes and back. Both functions are synchronous. */
export interface SessionCodec {
  /** Makes text or bytes of a session. */
  // deno-lint-ignore no-explicit-any
  encode(session: any): string | Uint8Array;
  /** Makes a new session of what `encode` returned. Throws if that is impossible. */
  // deno-lint-ignore no-explicit-any
  decode(stored: any): unknown;
}

/**
 * One step of the option `migrate`: changes a session of the version before, or returns another one.
 * Synchronous.
 */
// deno-lint-ignore no-explicit-any
export type Migration = (session: any) => unknown;

/** Options of the option `cache`. */
export interface CacheOptions {
  /**
   * How many sessions are kept. From 1.
   *
   * @default {10000}
   */
  entries?: number | undefined;
  /**
   * About how many bytes the kept sessions and their keys may have. From 1.
   *
   * @default {64000000}
   */
  bytes?: number | undefined;
  /**
   * How long a session is kept after it was last read from the database or stored, in ms. It limits how long
   * changes by others without the option stay unnoticed. From 1 to 2147483647.
   *
   * @default no limit
   */
  age?: number | undefined;
}

/** Options that every store has. */
export interface StoreOptions {
  /**
   * How long an operation may take, in ms, including retries. After that it rejects with a
   * `TimeoutError`. From 1 to 2147483647.
   *
   * @default {10000}
   */
  timeout?: number | undefined;
  /**
   * How long a session lives after the last update that read or changed it, in ms. Without it
   * sessions live for ever. Sessions that were stored without it live on until an update reads or
   * changes them. From 1 to 3155760000000 (100 years).
   */
  ttl?: number | undefined;
  /**
   * How often expired sessions are deleted, in ms, in databases that do not delete them by themselves:
   * PostgreSQL, MySQL and SQLite. The real interval is chosen at random, from half of this to one and
   * a half of it. 0 for never. Expired sessions are never returned, even if they are not deleted yet.
   * Up to 1431655764.
   *
   * @default {3600000}
   */
  pruneInterval?: number | undefined;
  /**
   * What `get` does with a stored value that cannot be decoded. `"throw"` rejects with a
   * `DecodeError`. `"discard"` returns `undefined`, so that the next `set` overwrites the value. A
   * function gets the value and the key, and returns the session.
   *
   * @default {"throw"}
   */
  onCorrupt?: "throw" | "discard" | ((value: unknown, key: string) => unknown) | undefined;
  /**
   * Called with errors in the background, for example when an idle connection is lost, or when the
   * database user may not upgrade an old table. Without it nothing is printed. Errors that it throws
   * are ignored.
   */
  onError?: ((error: unknown) => void) | undefined;
  /**
   * Called when the store cannot be opened, with a `StoreError` whose `cause` is the driver's error.
   * The operation that needed the open store rejects as well.
   */
  onInitError?: ((error: unknown) => void) | undefined;
  /**
   * Whether to look for sessions that change after they were stored, because a handler did not wait for
   * its work. Each is reported to `onError` as a `LateChangeError`; without `onError` each place is printed
   * once. For development: every session that is stored is encoded up to ten times more.
   *
   * @default {whether the environment variable `TELEGRAF_SESSION_DEBUG` is `1`}
   */
  debug?: boolean | undefined;
  /**
   * Encrypts sessions with AES-256-GCM. A stored session can only be read under its own key and in its own
   * table, collection or prefix. Sessions that were stored before stay readable, and are encrypted when an
   * update stores them. Keys of sessions and expiry are not encrypted.
   */
  encrypt?: EncryptOptions | undefined;
  /** Stores sessions in another format than JSON (on MongoDB, than documents). Older ones stay readable. */
  codec?: SessionCodec | undefined;
  /**
   * The version of the sessions that the bot works with, from 1. It is stored beside each session. Sessions
   * without one have version 0. One of a newer version is not read: see `onNewer`.
   */
  version?: number | undefined;
  /**
   * For each version from 1 to `version` the function that makes a session of the version before into one of
   * this version. A session passes through the missing steps when it is read, and is stored in its new form
   * with the update.
   */
  migrate?: { readonly [version: number]: Migration } | undefined;
  /**
   * What `get` does with a session of a newer version, as after a rollback of the bot. `"throw"` rejects with
   * a `VersionError`. `"keep"` returns it as it is, and stores it with its version.
   *
   * @default {"throw"}
   */
  onNewer?: "throw" | "keep" | undefined;
  /**
   * Whether traces contain keys as they are, which have the IDs of users and chats. Otherwise they contain
   * the first 16 hexadecimal digits of the SHA-256 of each key.
   *
   * @default {false}
   */
  traceKeys?: boolean | undefined;
  /**
   * Keeps the sessions that this process has read or stored lately in memory, so that an update need not read
   * its session. Changes are stored as before. For bots that run in one process: it takes a lease of all
   * sessions, without which it neither reads nor stores any. A second process with the option waits for up
   * to `timeout`, and then gets an error that names the first one. `update()` and `exclusive()` of other
   * processes reject with a `LeaseError`. Others that store sessions are not noticed.
   *
   * @default {false}
   */
  cache?: boolean | CacheOptions | undefined;
}

/** The global object of Deno and of browsers. */
declare const self: {
  Deno?: { permissions: { querySync(wanted: object): { state: string } } };
};

/** Whether the environment asks for `debug`. Deno without the permission would ask the user for it. */
export function debugByEnvironment(): boolean {
  const variable = "TELEGRAF_SESSION_DEBUG";
  const deno = typeof self === "undefined" ? undefined : self.Deno;
  const permission = deno?.permissions.querySync({ name: "env", variable });
  return permission?.state !== "prompt" && permission?.state !== "denied" &&
    process.env[variable] === "1";
}

/** Values of options that are not given. */
export const defaults = {
  timeout: 10_000,
  pruneInterval: 3_600_000,
  table: "telegraf-sessions",
  collection: "telegraf-sessions",
  prefix: "telegraf:",
} as const;

/** The `typeof` of an option. */
export type Type = "string" | "number" | "boolean" | "function" | "object";

/** The requirements of an option. */
export interface Rule {
  /** The `typeof` of the option, or several. */
  readonly type: Type | readonly Type[];
  /** The requirements in words, for messages. */
  readonly expected: string;
  /** Checks what the type alone does not tell. */
  readonly accepts?: (value: never) => boolean;
  /** Whether messages must not show the value. */
  readonly secret?: boolean;
  /** Whether the option takes plain objects only. */
  readonly plain?: boolean;
  /** Properties that have no effect in such an object, each with its replacement. */
  readonly misplaced?: Readonly<Record<string, string>>;
  /** A property by which an object is recognized as a value of this option. */
  readonly mark?: string;
}

/** The rules of a factory, one per option. */
export type Rules<Options> = { readonly [Name in keyof Required<Options>]: Rule };

/** The largest delay of a timer. */
const longest = 2 ** 31 - 1;

/** A whole number of ms in a range. */
export function milliseconds(least: number, most: number = longest): Rule {
  return {
    type: "number",
    expected: `a whole number of ms from ${least} to ${most}`,
    accepts: (value: number) => Number.isInteger(value) && value >= least && value <= most,
  };
}

/** Rules that several factories use. */
export const rules = {
  text: { type: "string", expected: "a string" },
  secret: { type: "string", expected: "a string", secret: true },
  /** Options of the driver. */
  config: (misplaced: Readonly<Record<string, string>>): Rule => ({
    type: "object",
    expected: "a plain object",
    secret: true,
    plain: true,
    misplaced,
  }),
  /** An object of the driver, recognized by its property `mark`. */
  existing: (expected: string, mark: string): Rule => ({
    type: "object",
    expected,
    secret: true,
    mark,
  }),
  flag: { type: "boolean", expected: "true or false" },
  callback: { type: "function", expected: "a function" },
  /** May be text because environment variables are text. */
  port: {
    type: ["number", "string"],
    expected: "an integer from 1 to 65535",
    accepts: (value: number | string) =>
      /^\d{1,5}$/.test(`${value}`) && Number(value) >= 1 && Number(value) <= 65535,
  },
  /** The name of a table or schema, with the maximum length of the database. */
  identifier: (most: number, unit: "bytes" | "characters" = "bytes"): Rule => ({
    type: "string",
    expected: `a name of 1 to ${most} ${unit} without NUL`,
    accepts: (value: string) =>
      value !== "" && !value.includes("\0") &&
      (unit === "bytes" ? Buffer.byteLength(value) : value.length) <= most,
  }),
} as const satisfies Record<string, Rule | ((...args: never[]) => Rule)>;

const url = 'option "url"';

const sql = {
  username: "config.user",
  hostname: "config.host",
  dbname: "config.database",
  db: "config.database",
  pass: "config.password",
  tls: "config.ssl",
  sslmode: "config.ssl",
  "ssl-mode": "config.ssl",
};

/**
 * Names that users may put into `config` by mistake, per driver, with the right name. The driver would
 * ignore them and connect to another server, as another user, or without TLS. (mongodb refuses unknown
 * options itself.)
 */
export const misplaced = {
  redis: {
    uri: url,
    connectionString: url,
    host: "config.socket.host",
    port: "config.socket.port",
    path: "config.socket.path",
    hostname: "config.socket.host",
    tls: "config.socket.tls",
    ssl: "config.socket.tls",
    user: "config.username",
    pass: "config.password",
    db: "config.database",
    keyPrefix: 'option "prefix"',
  },
  mongodb: { url, uri: url, connectionString: url, host: url, port: url },
  sqlite: {
    filename: 'option "filename"',
    file: 'option "filename"',
    path: 'option "filename"',
    readOnly: "config.readonly",
  },
  pg: { url, uri: url, ...sql },
  mysql: { url, connectionString: url, ...sql },
} as const;

/** The rules of the shared options. */
export const storeRules: Rules<StoreOptions> = {
  timeout: milliseconds(1),
  ttl: milliseconds(1, 100 * 365.25 * 24 * 60 * 60 * 1000),
  pruneInterval: milliseconds(0, Math.floor(longest / 1.5)),
  onCorrupt: {
    type: ["string", "function"],
    expected: '"throw", "discard" or a function',
    accepts: (value: unknown) =>
      typeof value === "function" || /^(throw|discard)$/.test(`${value}`),
  },
  onError: rules.callback,
  onInitError: rules.callback,
  debug: rules.flag,
  encrypt: rules.config({}),
  codec: { type: "object", expected: "an object with encode and decode" },
  version: {
    type: "number",
    expected: "a whole number from 1 to 999999999",
    accepts: (version: number) => Number.isInteger(version) && version >= 1 && version < 1e9,
  },
  migrate: { type: "object", expected: "a plain object", plain: true },
  onNewer: {
    type: "string",
    expected: '"throw" or "keep"',
    accepts: (value: string) => value === "throw" || value === "keep",
  },
  traceKeys: rules.flag,
  cache: { type: ["boolean", "object"], expected: "true, false or a plain object" },
};

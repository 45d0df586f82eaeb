/**
 * Options: what all stores share, and the check that each factory makes first.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** Options that every store has. */
export interface StoreOptions {
  /**
   * How long an operation may take, in ms, retries included; then it rejects with a
   * `TimeoutError`. From 1 to 2147483647.
   *
   * @default {10000}
   */
  timeout?: number | undefined;
  /**
   * How long a session lives after the last update that read or changed it, in ms; for ever without
   * it. Those that were stored without it live on until an update reads or changes them. From 1 to
   * 3155760000000 (100 years).
   */
  ttl?: number | undefined;
  /**
   * How often expired sessions are deleted, in ms, where the database does not do it by itself:
   * PostgreSQL, MySQL and SQLite. Chosen at random from half to one and a half of it; 0 for never.
   * Expired sessions are not returned, deleted or not. Up to 1431655764.
   *
   * @default {3600000}
   */
  pruneInterval?: number | undefined;
  /**
   * What `get` does with a stored value that cannot be decoded: `"throw"` rejects with a
   * `DecodeError`; `"discard"` takes it as no session, so that the next `set` overwrites it; a
   * function is given the value and the key, and what it returns is the session.
   *
   * @default {"throw"}
   */
  onCorrupt?: "throw" | "discard" | ((value: unknown, key: string) => unknown) | undefined;
  /**
   * Called with what goes wrong in the background: an idle connection was lost, the database user
   * may not upgrade an old table. Nothing is printed without it. What it throws is ignored.
   */
  onError?: ((error: unknown) => void) | undefined;
  /**
   * Called when the store cannot be opened, with a `StoreError` whose `cause` is the driver's
   * error. The operation that wanted to open it rejects as well.
   */
  onInitError?: ((error: unknown) => void) | undefined;
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
type Type = "string" | "number" | "boolean" | "function" | "object";

/** What an option must be. */
export interface Rule {
  /** The `typeof` of the option, or several. */
  readonly type: Type | readonly Type[];
  /** In words, for the message. */
  readonly expected: string;
  /** What the type alone does not say. */
  readonly accepts?: (value: never) => boolean;
  /** Never shown in a message. */
  readonly secret?: boolean;
  /** The option takes plain objects only. */
  readonly plain?: boolean;
  /** Properties that have no effect in such an object, and what to use instead. */
  readonly misplaced?: Readonly<Record<string, string>>;
  /** A property that tells that an object should be passed as this option. */
  readonly mark?: string;
}

/** The rules of a factory, one per option. */
export type Rules<Options> = { readonly [Name in keyof Required<Options>]: Rule };

/** The largest delay that timers take. */
const longest = 2 ** 31 - 1;

/** A whole number of ms in a range. */
function milliseconds(least: number, most: number): Rule {
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
  /** Options of the driver, without those that have no effect there. */
  config: (misplaced: Readonly<Record<string, string>>): Rule => ({
    type: "object",
    expected: "a plain object",
    secret: true,
    plain: true,
    misplaced,
  }),
  /** An object of the driver; the property `mark` tells it from other objects. */
  existing: (expected: string, mark: string): Rule => ({
    type: "object",
    expected,
    secret: true,
    mark,
  }),
  flag: { type: "boolean", expected: "true or false" },
  callback: { type: "function", expected: "a function" },
  /** Environment variables give it as text. */
  port: {
    type: ["number", "string"],
    expected: "an integer from 1 to 65535",
    accepts: (value: number | string) =>
      /^\d{1,5}$/.test(`${value}`) && Number(value) >= 1 && Number(value) <= 65535,
  },
  /** The name of a table or schema, up to what the database takes. */
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
 * What is easily put into `config`, where the driver ignores it, by driver: then the client would
 * connect to another place, as another user, or without TLS. (mongodb refuses unknown options itself.)
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
  timeout: milliseconds(1, longest),
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
};

/**
 * Checks options against the rules of their factory. An option that is `undefined` counts as absent.
 *
 * @param name the factory's name, for messages.
 * @param existing options that hand over a client, pool or database, with those that only make
 * sense without it.
 * @throws {TypeError} for an unknown option, one of the wrong type, or two that exclude each other.
 * @throws {RangeError} for a value out of range.
 */
export function checkOptions(
  name: string,
  options: unknown,
  rules: Readonly<Record<string, Rule>>,
  existing: Readonly<Record<string, readonly string[]>> = {},
): void {
  if (!isPlain(options)) {
    const found = described(options) + advice(options, rules);
    throw new TypeError(`${name}: options must be a plain object, but this is ${found}`);
  }
  const known = Object.keys(rules);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [option, value] of given) {
    const rule = known.includes(option) ? rules[option] : undefined;
    if (rule === undefined) {
      throw new TypeError(`${name}: unknown option "${option}"; ${suggestion(option, known)}`);
    }
    const shown = rule.secret ? described(value) : show(value);
    const message = `${name}: option "${option}" must be ${rule.expected}, but is ${shown}`;
    const fits = [rule.type].flat().includes(typeof value as Type) && value !== null &&
      (!rule.plain || isPlain(value)) && !isPromise(value, rule);
    if (!fits) throw new TypeError(message + advice(value, rules));
    for (const [property, instead] of Object.entries(rule.misplaced ?? {})) {
      if ((value as Record<string, unknown>)[property] === undefined) continue;
      throw new TypeError(`${name}: ${option}.${property} has no effect; use ${instead}`);
    }
    if (rule.accepts?.(value as never) === false) throw new RangeError(message);
    for (const [other] of given) {
      if (existing[option]?.includes(other)) {
        throw new TypeError(
          `${name}: option "${other}" has no effect together with "${option}"; leave one out`,
        );
      }
    }
  }
}

/** Whether it is an object without a class, of any realm. */
function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function isPromise(value: unknown, rule?: Rule): boolean {
  if (typeof value !== "object" || value === null || !("then" in value)) return false;
  return typeof value.then === "function" && (rule?.mark === undefined || !(rule.mark in value));
}

/** What a value is, without its content: that may be a secret. */
export function described(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === "function") {
    return /^class\b/.test(Function.prototype.toString.call(value)) ? "a class" : "a function";
  }
  if (typeof value !== "object") return `a ${typeof value}`;
  if (Array.isArray(value)) return "an array";
  if (isPromise(value)) return "a promise";
  const { constructor } = value;
  const name = typeof constructor === "function" ? constructor.name : "";
  return isPlain(value) || !name ? "an object" : `an object of class ${name}`;
}

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  return typeof value === "number" || typeof value === "boolean" ? String(value) : described(value);
}

/** What to do with a value that is not an option, or not of the right type. */
function advice(value: unknown, rules: Readonly<Record<string, Rule>>): string {
  if (isPromise(value)) return "; await it first";
  if (typeof value === "string" || Object.prototype.toString.call(value) === "[object URL]") {
    const option = ["url", "filename"].find((option) => option in rules);
    return option === undefined ? "" : `; pass it as { ${option} }`;
  }
  if (typeof value !== "object" || value === null) return "";
  const option = Object.keys(rules).find((option) => {
    const { mark } = rules[option]!;
    return mark !== undefined && mark in value;
  });
  return option === undefined ? "" : `; pass it as { ${option} }`;
}

/** What options are called elsewhere, in lower case without separators. */
const otherNames: Readonly<Record<string, readonly string[]>> = {
  url: ["uri", "connectionstring", "connectionuri", "connection", "dsn", "href"],
  filename: ["file", "path", "filepath", "url", "uri"],
  user: ["username", "role"],
  password: ["pass", "passwd", "pwd"],
  host: ["hostname", "server"],
  database: ["db", "dbname", "databasename"],
  client: ["redis", "ioredis", "mongo", "mongoclient", "pool", "cluster"],
  pool: ["client", "connectionpool"],
  db: ["kysely", "database"],
  config: ["options", "clientoptions", "pooloptions"],
  collection: ["collectionname", "table", "tablename"],
  table: ["tablename", "collection", "collectionname"],
  schema: ["schemaname"],
  prefix: ["keyprefix", "namespace"],
  ttl: ["expire", "expires", "expiration", "maxage"],
};

/** What the user of an unknown option may have meant. */
function suggestion(option: string, known: readonly string[]): string {
  const plain = option.toLowerCase().replace(/[-_]/g, "");
  const other = known.find((name) => otherNames[name]?.includes(plain));
  const [near] = known
    .map((name) => ({ name, distance: distance(plain, name.toLowerCase()) }))
    .filter(({ name, distance }) => distance <= (name.length > 4 ? 2 : 1))
    .sort((a, b) => a.distance - b.distance);
  const meant = other ?? near?.name;
  if (meant !== undefined) return `did you mean "${meant}"?`;
  const driver = known.includes("config") ? '; put options of the driver into "config"' : "";
  return `the options are ${known.join(", ")}${driver}`;
}

/** How many letters must be inserted, deleted or replaced to make one word of another. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** What is given in options of a driver, without `left`. */
export function given(config: object = {}, left?: string): object {
  return Object.fromEntries(
    Object.entries(config).filter(([name, value]) => value !== undefined && name !== left),
  );
}

/** The server and the user, as options of SQL stores name them. */
export const place = ["host", "port", "database", "user", "password"] as const;

/** What is looked at in the options of a factory. */
export interface ConnectionOptions extends StoreOptions {
  readonly url?: string | undefined;
  readonly config?: object | undefined;
  readonly host?: string | undefined;
  readonly port?: number | string | undefined;
  readonly database?: string | undefined;
  readonly user?: string | undefined;
  readonly password?: unknown;
}

/**
 * The URL, which may also be in `config`, as the driver calls it.
 *
 * @throws {TypeError} if the place is given twice.
 */
export function urlOf(
  factory: string,
  options: ConnectionOptions,
  name: string,
): string | undefined {
  const own = (options.config as Record<string, unknown> | undefined)?.[name];
  if (own === undefined || own === null) return options.url;
  const twice = (["url", ...place] as const).find((it) => options[it] !== undefined);
  if (twice !== undefined) {
    const what = `option "${twice}" and config.${name} contradict each other`;
    throw new TypeError(`${factory}: ${what}; leave one out`);
  }
  if (typeof own === "string") return own;
  throw new TypeError(`${factory}: config.${name} must be a string, but is ${described(own)}`);
}

/**
 * Looks for parameters of a URL that say where or how safely to connect, but that the driver ignores.
 *
 * @param ignored the names of such parameters, with what to use instead.
 * @throws {TypeError} if there is one, without its value.
 */
export function checkParameters(
  factory: string,
  url: string,
  ignored: readonly (readonly [names: RegExp, instead: string])[],
): void {
  for (const name of new URLSearchParams(url.split("?", 2)[1]).keys()) {
    const [, instead] = ignored.find(([names]) => names.test(name)) ?? [];
    if (instead === undefined) continue;
    throw new TypeError(`${factory}: parameter "${name}" of the URL has no effect; use ${instead}`);
  }
}

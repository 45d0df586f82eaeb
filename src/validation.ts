/**
 * The check of options that each factory makes first, with its advice.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  type CacheOptions,
  type EncryptOptions,
  milliseconds,
  type Rule,
  type Rules,
  rules,
  type StoreOptions,
  type Type,
} from "./options.ts";

/**
 * Checks options against the rules of their factory. An option that is `undefined` counts as absent.
 *
 * @param name the factory's name, for messages.
 * @param existing options that pass in a client, pool or database, each with the options it makes
 * pointless.
 * @throws {TypeError} if an option is unknown, has the wrong type, or excludes another one.
 * @throws {RangeError} if a value is out of range.
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

/** Whether the value is an object without a class, in any realm. */
export function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Whether the value is a promise, but not an object of a driver that also has the method `then`. */
function isPromise(value: unknown, rule?: Rule): boolean {
  if (typeof value !== "object" || value === null || !("then" in value)) return false;
  return typeof value.then === "function" && (rule?.mark === undefined || !(rule.mark in value));
}

/** Whether the value is a `Uint8Array`, of any realm. (`node:util` would have to be loaded for it.) */
export function isBytes(value: unknown): value is Uint8Array {
  return Object.prototype.toString.call(value) === "[object Uint8Array]";
}

/** Describes a value without its content, which may be a secret. */
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

/** Advice about a value that is not an option or has the wrong type. */
function advice(value: unknown, rules: Readonly<Record<string, Rule>>): string {
  if (isPromise(value)) return "; await it first";
  if (typeof value === "string" || Object.prototype.toString.call(value) === "[object URL]") {
    const option = ["url", "filename", "prefix"].find((option) => option in rules);
    return option === undefined ? "" : `; pass it as { ${option} }`;
  }
  if (typeof value !== "object" || value === null) return "";
  const option = Object.keys(rules).find((option) => {
    const { mark } = rules[option]!;
    return mark !== undefined && mark in value;
  });
  return option === undefined ? "" : `; pass it as { ${option} }`;
}

/** The names of our options in other packages, in lower case without separators. */
const otherNames: Readonly<Record<string, readonly string[]>> = {
  url: ["uri", "connectionstring", "connectionuri", "connection", "dsn", "href"],
  filename: ["file", "path", "filepath", "url", "uri"],
  path: ["file", "filename", "filepath"],
  kv: ["database", "db", "denokv", "client"],
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
  encrypt: ["encryption", "secret", "crypto", "cipher"],
  codec: ["serializer", "serialize", "serialization"],
  migrate: ["migrations", "migration", "upgrade"],
  keys: ["key", "secret", "secrets"],
  ttl: ["expire", "expires", "expiration", "maxage"],
};

/** Suggests a known option instead of an unknown one. */
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

/** The Levenshtein distance: how many letters must be inserted, deleted or replaced. */
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

const encryptRules: Rules<EncryptOptions> = {
  keys: {
    type: "object",
    expected: "an array of keys",
    secret: true,
  },
  required: rules.flag,
};

const natural: Rule = {
  type: "number",
  expected: "a whole number from 1",
  accepts: (value: number) => Number.isSafeInteger(value) && value >= 1,
};

const cacheRules: Rules<CacheOptions> = {
  entries: natural,
  bytes: natural,
  age: milliseconds(1),
};

/**
 * Checks the parts of the options that their rules do not check.
 *
 * @param name the factory's name, for messages.
 * @throws {TypeError} if an option cannot work.
 */
export function checkTransforms(name: string, options: StoreOptions): void {
  const { encrypt, codec, version, migrate, onNewer, cache } = options;
  const refuse = (option: string, why: string) => {
    throw new TypeError(`${name}: option "${option}" ${why}`);
  };
  if (encrypt !== undefined) checkEncrypt(name, encrypt, refuse);
  if (typeof cache === "object") checkOptions(`${name}: cache`, cache, cacheRules);
  if (codec !== undefined) checkCodec(codec, refuse);
  if (version !== undefined) checkSteps(version, migrate ?? {}, refuse);
  else if (migrate !== undefined) refuse("migrate", 'needs the option "version"');
  else if (onNewer !== undefined) refuse("onNewer", 'needs the option "version"');
}

type Refuse = (option: string, why: string) => void;

function checkEncrypt(name: string, encrypt: EncryptOptions, refuse: Refuse): void {
  checkOptions(`${name}: encrypt`, encrypt, encryptRules);
  const { keys } = encrypt;
  if (!Array.isArray(keys) || keys.length === 0) {
    refuse("encrypt.keys", "must be an array with at least one key");
  }
  const texts = keys.map((key, i) => {
    const bytes = keyBytes(key);
    const found = bytes !== undefined
      ? `has ${bytes.length} bytes`
      : `is ${described(key)}${typeof key === "string" ? " that is not base64" : ""}`;
    if (bytes?.length !== 32) {
      const expected = "must have keys of 32 random bytes, as base64 or KeyObject";
      refuse("encrypt.keys", `${expected}, but key ${i + 1} ${found}`);
    }
    return bytes!.toString("base64");
  });
  if (new Set(texts).size < texts.length) refuse("encrypt.keys", "has the same key twice");
}

/** The bytes of a key; `undefined` if it is no key. */
export function keyBytes(key: EncryptOptions["keys"][number]): Buffer | undefined {
  if (typeof key === "string") {
    return /^[\w+/-]+={0,2}$/.test(key) ? Buffer.from(key, "base64") : undefined;
  }
  return key?.type === "secret" ? key.export() : undefined;
}

function checkCodec(codec: NonNullable<StoreOptions["codec"]>, refuse: Refuse): void {
  for (const name of ["encode", "decode"] as const) {
    if (typeof codec[name] !== "function") refuse("codec", `must have the function ${name}`);
  }
  const made = attempt(() => codec.encode({}));
  if (made === undefined) return;
  if (typeof made !== "string" && !isBytes(made)) {
    refuse("codec", `must encode to text or a Uint8Array, but made ${described(made)}`);
  }
  const session = attempt(() => codec.decode(made));
  if (isPromise(session)) refuse("codec", "must decode without a promise");
}

/** The result of a function that may need more than an empty session; `undefined` if it throws. */
function attempt(work: () => unknown): unknown {
  try {
    return work();
  } catch {
    return undefined;
  }
}

function checkSteps(
  version: number,
  migrate: NonNullable<StoreOptions["migrate"]>,
  refuse: Refuse,
): void {
  for (let step = 1; step <= version; step++) {
    const change = migrate[step];
    if (change === undefined) refuse("migrate", `has no step ${step}; version is ${version}`);
    if (typeof change !== "function") {
      refuse("migrate", `must have functions, but step ${step} is ${described(change)}`);
    }
    if (change!.constructor.name === "AsyncFunction") {
      refuse("migrate", `must have synchronous functions, but step ${step} is asynchronous`);
    }
  }
  const other = Object.keys(migrate).find((step) =>
    !(Number(step) >= 1 && Number(step) <= version && String(Number(step)) === step)
  );
  if (other !== undefined) refuse("migrate", `has a step ${other}; version is ${version}`);
}

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
  timeout?: number;
  /**
   * How long a session lives after the last update that read or changed it, in ms; for ever without
   * it. Those that were stored without it live on until an update reads or changes them. From 1 to
   * 3155760000000 (100 years).
   */
  ttl?: number;
  /**
   * How often expired sessions are deleted, in ms, where the database does not do it by itself:
   * PostgreSQL, MySQL and SQLite. Chosen at random from half to one and a half of it; 0 for never.
   * Expired sessions are not returned, deleted or not. Up to 1431655764.
   *
   * @default {3600000}
   */
  pruneInterval?: number;
  /**
   * What `get` does with a stored value that cannot be decoded: `"throw"` rejects with a
   * `DecodeError`; `"discard"` takes it as no session, so that the next `set` overwrites it; a
   * function is given the value and the key, and what it returns is the session.
   *
   * @default {"throw"}
   */
  onCorrupt?: "throw" | "discard" | ((value: unknown, key: string) => unknown);
  /**
   * Called with what goes wrong in the background: an idle connection was lost, the database user
   * may not upgrade an old table. Nothing is printed without it. What it throws is ignored.
   */
  onError?: (error: unknown) => void;
  /**
   * Called when the store cannot be opened, with a `StoreError` whose `cause` is the driver's
   * error. The operation that wanted to open it rejects as well.
   */
  onInitError?: (error: unknown) => void;
}

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
  object: { type: "object", expected: "an object", secret: true },
  flag: { type: "boolean", expected: "true or false" },
  callback: { type: "function", expected: "a function" },
  port: {
    type: "number",
    expected: "an integer from 1 to 65535",
    accepts: (value: number) => Number.isInteger(value) && value >= 1 && value <= 65535,
  },
  /** The name of a table or schema, up to what the database takes. */
  identifier: (most: number, unit: "bytes" | "characters" = "bytes"): Rule => ({
    type: "string",
    expected: `a name of 1 to ${most} ${unit} without NUL`,
    accepts: (value: string) =>
      value !== "" && !value.includes("\0") &&
      (unit === "bytes" ? Buffer.byteLength(value) : value.length) <= most,
  }),
} as const satisfies Record<string, Rule | ((most: number) => Rule)>;

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
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`${name}: options must be an object, but is ${show(options)}`);
  }
  const known = Object.keys(rules);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [option, value] of given) {
    const rule = known.includes(option) ? rules[option] : undefined;
    if (rule === undefined) {
      const names = known.join(", ");
      throw new TypeError(`${name}: unknown option "${option}"; the options are ${names}`);
    }
    const shown = rule.secret ? "something else" : show(value);
    const message = `${name}: option "${option}" must be ${rule.expected}, but is ${shown}`;
    if (![rule.type].flat().includes(typeof value as Type) || value === null) {
      throw new TypeError(message);
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

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : String(value);
}

/**
 * What sessions lose when they are stored: values that the format does not have.
 *
 * @module
 */

import { described } from "./options.ts";

/**
 * How a kind of value comes back: in words, or `undefined` if it comes back as it is.
 *
 * @param kind the kind, such as "Map", "NaN" or "class".
 */
export type Fate = (kind: string) => string | undefined;

/** The most reports of one store. */
const most = 20;

/** Finds what is lost, now and then, and reports each kind at each path once. */
export class Losses {
  readonly #fate: Fate;
  readonly #report: (error: unknown) => void;
  readonly #reported = new Set<string>();
  #count = 0;

  constructor(fate: Fate, report: (error: unknown) => void) {
    this.#fate = fate;
    this.#report = report;
  }

  /**
   * Looks at a session that is stored: the 1st, 2nd, 4th, 8th … and every 1024th, because a look
   * takes a few times as long as encoding.
   */
  look(session: unknown): void {
    const count = ++this.#count;
    if ((count & (count - 1)) !== 0 && count % 1024 !== 0) return;
    const visit = (value: unknown, path: string): boolean => {
      const kind = kindOf(value, path.endsWith("[]"));
      const fate = kind && this.#fate(kind);
      if (fate === undefined || this.#reported.size >= most) return kind === undefined;
      const what = kind === "ctx"
        ? "a whole ctx"
        : /class|BSON/.test(kind!)
        ? described(value)
        : kind;
      const message = `${at(path)} is stored as ${fate} because it is ${what}`;
      if (!this.#reported.has(message)) {
        this.#reported.add(message);
        this.#report(new Error(message));
      }
      return false;
    };
    try {
      walk(session, visit);
    } catch {
      // Nested too deep to look at, or a getter that throws: no reason to fail the write.
    }
  }
}

/** The path of the first value of a kind. */
export function pathOf(session: unknown, kind: string): string | undefined {
  let found: string | undefined;
  walk(session, (value, path) => {
    const own = kindOf(value, false);
    if (own === kind) found ??= at(path);
    return own === undefined && found === undefined;
  });
  return found;
}

const at = (path: string) => path === "" ? "the session" : `the session's value at "${path}"`;

/** Visits all values, of plain objects and arrays those in it if the visitor says so. */
function walk(session: unknown, visit: (value: unknown, path: string) => boolean): void {
  const seen = new Set<object>();
  const go = (value: unknown, path: string) => {
    if (!visit(value, path) || typeof value !== "object" || value === null) return;
    if (seen.has(value)) return;
    seen.add(value);
    if (Array.isArray(value)) {
      for (const item of value) go(item, `${path}[]`);
    } else {
      for (const [name, field] of Object.entries(value)) {
        // Other names may be of users, and too many.
        const shown = /^[a-z_$][\w$]{0,39}$/i.test(name) ? name : "*";
        go(field, path === "" ? shown : `${path}.${shown}`);
      }
    }
  };
  go(session, "");
}

const builtIn =
  /^(Date|RegExp|Error|Promise|(Weak)?(Map|Set)|WeakRef|(Shared)?ArrayBuffer|DataView|\w+\d(Clamped)?Array)$/;

/** The kind of a value that a format may not have; `undefined` for plain values. */
function kindOf(value: unknown, inArray: boolean): string | undefined {
  switch (typeof value) {
    case "object":
      return value === null ? undefined : kindOfObject(value);
    case "number":
      return Number.isFinite(value) ? undefined : String(value);
    case "undefined":
      return inArray ? "undefined" : undefined; // a missing field reads the same
    case "string":
    case "boolean":
      return undefined;
    default:
      return `a ${typeof value}`;
  }
}

function kindOfObject(value: object): string | undefined {
  if (Array.isArray(value)) return undefined;
  const prototype = Object.getPrototypeOf(value);
  if (prototype === null || Object.getPrototypeOf(prototype) === null) {
    return "toJSON" in value || "toBSON" in value ? "converter" : undefined;
  }
  if ("_bsontype" in value) return "BSON";
  if ("telegram" in value && "update" in value) return "ctx";
  // Of any realm.
  const tag = Object.prototype.toString.call(value).slice("[object ".length, -1);
  if (/^(Number|String|Boolean)$/.test(tag)) return undefined;
  if (builtIn.test(tag)) return /^[AEIO]/.test(tag) ? `an ${tag}` : `a ${tag}`;
  return "toJSON" in value ? "convertible class" : "class";
}

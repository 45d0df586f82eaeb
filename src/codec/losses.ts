/**
 * Finds values in sessions that the storage format does not have, so that they are lost or changed.
 *
 * @module
 */

import type { StoredAs } from "../backend.ts";
import { described } from "../validation.ts";

/** The largest number of reports per store. */
const most = 20;

/** Inspects a sample of the sessions and reports each kind of loss once per path. */
export class Losses {
  readonly #storedAs: StoredAs;
  readonly #report: (error: unknown) => void;
  readonly #reported = new Set<string>();
  #count = 0;

  constructor(storedAs: StoredAs, report: (error: unknown) => void) {
    this.#storedAs = storedAs;
    this.#report = report;
  }

  /**
   * Inspects the 1st, 2nd, 4th, 8th … and every 1024th session that is stored, because inspecting one
   * takes a few times as long as encoding.
   */
  inspect(session: unknown): void {
    const count = ++this.#count;
    if ((count & (count - 1)) !== 0 && count % 1024 !== 0) return;
    const visit = (value: unknown, path: string): boolean => {
      const kind = kindOf(value, path.endsWith("[]"));
      const storedAs = kind && this.#storedAs(kind);
      if (storedAs === undefined || this.#reported.size >= most) return kind === undefined;
      const what = kind === "ctx"
        ? "a whole ctx"
        : /class|BSON/.test(kind!)
        ? described(value)
        : kind;
      const message = `${at(path)} is stored as ${storedAs} because it is ${what}`;
      if (!this.#reported.has(message)) {
        this.#reported.add(message);
        this.#report(new Error(message));
      }
      return false;
    };
    try {
      walk(session, visit);
    } catch {
      // Nested too deep, or a getter that throws. Neither is a reason to fail the write.
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

/** A field's name in a path. Other names may be data of users, and there may be too many of them. */
export function shownName(name: string): string {
  return /^[a-z_$][\w$]{0,39}$/i.test(name) ? name : "*";
}

/** Visits all values. Descends into a plain object or array if the visitor returns true for it. */
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
        go(field, path === "" ? shownName(name) : `${path}.${shownName(name)}`);
      }
    }
  };
  go(session, "");
}

const builtIn =
  /^(Date|RegExp|Error|Promise|(Weak)?(Map|Set)|WeakRef|(Shared)?ArrayBuffer|DataView|\w+\d(Clamped)?Array)$/;

/** The kind of a value that some format does not have; `undefined` for plain values. */
function kindOf(value: unknown, inArray: boolean): string | undefined {
  switch (typeof value) {
    case "object":
      return value === null ? undefined : kindOfObject(value);
    case "number":
      return Number.isFinite(value) ? undefined : String(value);
    case "undefined":
      return inArray ? "undefined" : undefined; // as a field it reads like a missing field
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
  // In any realm.
  const tag = Object.prototype.toString.call(value).slice("[object ".length, -1);
  if (/^(Number|String|Boolean)$/.test(tag)) return undefined;
  if (builtIn.test(tag)) return /^[AEIO]/.test(tag) ? `an ${tag}` : `a ${tag}`;
  return "toJSON" in value ? "convertible class" : "class";
}

/**
 * Sessions as native documents of MongoDB.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { isDeepStrictEqual, types } from "node:util";
import type { Codec } from "../backend.ts";
import { headerOf, headerText, needsOption } from "./header.ts";

/** A session with its version, which MongoDB keeps in the field `version` beside the field `session`. */
export class Versioned {
  readonly version: number;
  readonly session: unknown;

  constructor(version: number, session: unknown) {
    this.version = version;
    this.session = session;
  }
}

/** The subtype of a `Binary` that begins with a header: the first one for applications. */
export const binarySubtype = 128;

/** Splits a `Binary` that begins with a header. Some clients return only its bytes. */
export function binaryWithHeader(value: unknown): { header: string; body: Buffer } | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { sub_type, buffer, position } = value as {
    sub_type?: number;
    buffer: Uint8Array;
    position: number;
  };
  if (sub_type !== binarySubtype && !types.isUint8Array(value)) return undefined;
  const bytes = types.isUint8Array(value) ? value : buffer.subarray(0, position);
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const header = headerOf(all.toString("latin1", 0, 64));
  return header === "" ? undefined : { header, body: all.subarray(header.length) };
}

/**
 * Native documents, as MongoDB stores them. Dates, binary data and the driver's own types keep their
 * type. Values that BSON does not have (`undefined`, functions, symbols) are left out, as in JSON.
 */
export const document: Codec<unknown> = {
  encode(session) {
    const copy = clone(session, new Set());
    if (copy === undefined) throw new TypeError(`a ${typeof session} is not a document`);
    return copy;
  },
  decode(value, key) {
    const header = value instanceof Versioned
      ? headerText({ version: value.version })
      : binaryWithHeader(value)?.header;
    if (header !== undefined) throw needsOption(header, key);
    return clone(value, new Set());
  },
  equal: isDeepStrictEqual,
  size: bsonSize,
  storedAs(kind) {
    if (/^(NaN|-?Infinity|converter|BSON|a (Date|RegExp|Uint8Array))$/.test(kind)) return undefined;
    if (kind === "undefined") return "null";
    if (/^a (function|symbol)$/.test(kind)) return "nothing";
    if (kind === "a bigint") return "a number or a Long";
    return /class|ctx|Map|Array$/.test(kind) ? "a plain object" : "an empty object";
  },
};

// Values may come from another realm, as under jest, where `instanceof` does not recognize them.
function clone(value: unknown, parents: Set<object>): unknown {
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (types.isDate(value)) return new Date(Number(value));
  if (types.isRegExp(value)) return new RegExp(value);
  if (types.isUint8Array(value)) return Buffer.from(value);
  // ObjectId, Long and so on, of any installed version of the driver. They are immutable.
  if ("_bsontype" in value) return value;
  if (parents.has(value)) throw new TypeError("circular structure");
  parents.add(value);
  let copy: unknown;
  if ("toBSON" in value && typeof value.toBSON === "function") {
    copy = clone(value.toBSON(), parents);
  } else if (Array.isArray(value)) {
    copy = value.map((item) => clone(item, parents) ?? null);
  } else {
    copy = {};
    const fields = types.isMap(value) ? value as Map<string, unknown> : Object.entries(value);
    for (const [name, field] of fields) {
      const fieldCopy = clone(field, parents);
      if (fieldCopy === undefined) continue;
      // Defined instead of assigned because a field may be called "__proto__".
      Object.defineProperty(copy, name, {
        value: fieldCopy,
        configurable: true,
        enumerable: true,
        writable: true,
      });
    }
  }
  parents.delete(value);
  return copy;
}

/**
 * The size in BSON, exact for plain data and close for the driver's own types. The driver's
 * `calculateObjectSize` is not used because it refuses types of another version of the driver, and
 * because the command line imports sessions without the driver.
 */
function bsonSize(value: unknown): number {
  switch (typeof value) {
    case "string":
      return 5 + Buffer.byteLength(value);
    case "boolean":
      return 1;
    case "number":
      return Number.isInteger(value) && Math.abs(value) < 2 ** 31 ? 4 : 8;
    case "object":
      break;
    default:
      return 8;
  }
  if (value === null) return 0;
  if (value instanceof Versioned) return bsonSize(value.session) + 17; // `version`, as a double
  if (types.isUint8Array(value)) return 5 + value.length;
  if (types.isDate(value)) return 8;
  if (types.isRegExp(value)) return 2 + Buffer.byteLength(value.source) + value.flags.length;
  if ("_bsontype" in value) {
    const { buffer } = value as { buffer?: unknown };
    return types.isUint8Array(buffer) ? 5 + buffer.length : 16;
  }
  let size = 5;
  for (const [name, field] of Object.entries(value)) {
    size += 2 + Buffer.byteLength(name) + bsonSize(field);
  }
  return size;
}

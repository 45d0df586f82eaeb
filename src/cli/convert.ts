/**
 * Converts stored sessions between codecs. Values that JSON cannot express are replaced, and the
 * replacements are counted.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Codec } from "../backend.ts";
import { document } from "../codec/document.ts";
import { count } from "./text.ts";

/** Counts replaced values, by what they were and what they became. */
export class Tally {
  readonly #counts = new Map<string, number>();

  add(change: string): void {
    this.#counts.set(change, (this.#counts.get(change) ?? 0) + 1);
  }

  /** One sentence for each kind of replacement. */
  sentences(): string[] {
    return [...this.#counts].map(([change, number]) => {
      const [thing, became] = change.split(" > ") as [string, string];
      return `${count(number, thing)} became ${became}.`;
    });
  }
}

/** Makes a function that converts stored values from one codec to another. */
export function converter(
  from: Codec<unknown>,
  to: Codec<unknown>,
  tally: Tally,
): (value: unknown) => unknown {
  if (from === to) return (value) => value;
  return (value) => {
    const session = from.decode(value);
    return to.encode(from === document ? toPlain(session, tally) : session);
  };
}

/**
 * Converts a stored value to JSON text.
 *
 * @throws {SyntaxError} if the value is text that is not JSON.
 */
export function jsonText(codec: Codec<unknown>, value: unknown, tally: Tally): string {
  const json = codec === document ? JSON.stringify(toPlain(value, tally)) : value as string;
  JSON.parse(json); // throws if it is invalid
  return json;
}

/** Replaces what JSON cannot express in a value of BSON. */
function toPlain(value: unknown, tally: Tally): unknown {
  if (typeof value === "bigint") return replace(value.toString(), "64-bit number > text", tally);
  if (typeof value === "number" && !Number.isFinite(value)) {
    return replace(null, "NaN or infinite number > null", tally);
  }
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Date) {
    const date = Number.isNaN(value.getTime()) ? null : value.toISOString();
    return replace(date, "date > ISO text", tally);
  }
  if (value instanceof RegExp) return replace(String(value), "regular expression > text", tally);
  if (value instanceof Uint8Array) {
    return replace(Buffer.from(value).toString("base64"), "binary value > base64 text", tally);
  }
  if ("_bsontype" in value) return replaceDriverType(value as Typed, tally);
  if (Array.isArray(value)) return value.map((item) => toPlain(item, tally));
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [name, toPlain(field, tally)]),
  );
}

/** A value of a type that the MongoDB driver defines. */
interface Typed {
  readonly _bsontype: string;
  readonly buffer?: Uint8Array;
  readonly position?: number;
}

function replaceDriverType(value: Typed, tally: Tally): unknown {
  const { _bsontype: type, buffer, position } = value;
  if (type === "Binary") return toPlain(buffer!.subarray(0, position), tally);
  if (type === "Int32" || type === "Double") return toPlain(Number(value), tally);
  return replace(String(value), `${type} > text`, tally);
}

function replace<T>(value: T, change: string, tally: Tally): T {
  tally.add(change);
  return value;
}

/** The size of a stored value, in bytes. */
export function sizeOf(codec: Codec<unknown>, value: unknown): number {
  return codec === document ? codec.size(value) : Buffer.byteLength(value as string);
}

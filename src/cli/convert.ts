/**
 * Converts sessions between the formats of databases. Values that JSON cannot express are replaced, and
 * the replacements are counted.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Codec } from "../backend.ts";
import { document } from "../codec/document.ts";
import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";
import { Failure } from "./failure.ts";
import { places } from "./keys.ts";
import { checkReadable } from "./readable.ts";
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

/** Where sessions come from. */
export interface Origin {
  /** The database's own format. */
  readonly format: Codec<unknown>;
  /** The name of its table, collection or prefix; absent if it is no database. */
  readonly place?: string;
}

/** Where sessions are stored. */
export interface Destination extends Origin {
  /** Whether sessions are encrypted when they are stored. */
  readonly encrypts: boolean;
}

/** Makes a function that converts sessions from one database for another. */
export function converter(
  from: Origin,
  to: Destination,
  tally: Tally,
): (plain: Plain<unknown>, key: string) => Plain<unknown> {
  return (plain, key) => {
    const { version, form, content, stored, problem } = plain;
    if (problem instanceof StoreError && !to.encrypts && whyBound(from, to) === undefined) {
      return { version: 0, content: stored }; // as it is, with its header
    }
    if (problem !== undefined) checkUnbound(plain, from, to);
    if (form !== undefined || from.format === to.format) return { version, form, content };
    const session = from.format.decode(content, key);
    return {
      version,
      content: to.format.encode(from.format === document ? toPlain(session, tally) : session),
    };
  };
}

/** Why an encrypted session cannot be copied as it is; `undefined` if it can. */
function whyBound(from: Origin, to: Origin): string | undefined {
  if (from.format !== to.format) return "the databases store sessions in different formats";
  if (from.place === to.place) return undefined;
  const [own, other] = [from.place, to.place].map((name) => JSON.stringify(name));
  return `it can only be decrypted in its table, collection or prefix, ${own}, and not in ${other}`;
}

/** @throws {Error} always: says why the session cannot be copied. */
function checkUnbound(plain: Plain<unknown>, from: Origin, to: Destination): void {
  const { problem, keyId } = plain;
  if (problem instanceof StoreError && keyId !== undefined && !to.encrypts) {
    const why = `it is encrypted with key ${keyId}, and ${whyBound(from, to)}`;
    throw new Failure(`${why}; put this key into ${places}`);
  }
  checkReadable(plain);
}

/**
 * Converts a session to JSON text.
 *
 * @throws {Error} if it cannot be read, or if it is text that is not JSON.
 */
export function jsonText(format: Codec<unknown>, plain: Plain<unknown>, tally: Tally): string {
  checkReadable(plain);
  const { content } = plain;
  const json = format === document ? JSON.stringify(toPlain(content, tally)) : content as string;
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

/** The size of a stored value or of a session's content, in bytes. */
export function sizeOf(format: Codec<unknown>, value: unknown): number {
  return format === document ? format.size(value) : Buffer.byteLength(value as string);
}

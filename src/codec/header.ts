/**
 * The header of stored values that are not plain sessions of version 0: `~v3,k1a2b3c4d:` before the value.
 * JSON never begins with `~`, so values with and without a header can be side by side.
 *
 * @module
 */

import { DecodeError, type StoreError, VersionError } from "../errors.ts";

/** How a value was made. */
export interface Header {
  /** The version of the session; 0 if it has none. */
  readonly version: number;
  /** The type of what the option `codec` returned; absent for the database's own format. */
  readonly form?: "text" | "bytes" | undefined;
  /** The ID of the key that encrypted it, if it is encrypted. */
  readonly keyId?: string | undefined;
}

/** A session in plain form, and how it is stored. */
export interface Plain<Encoded> extends Header {
  /** The session in the format of the database, or what the option `codec` made of it. */
  readonly content: Encoded | string | Uint8Array;
  /** The value in the database, if it was read there. */
  readonly stored?: Encoded;
  /** Whether the newest key has encrypted it. */
  readonly hasNewestKey?: boolean;
  /** Whether it would now be stored in another way, for example with a newer key. */
  readonly outdated?: boolean;
  /** Why there is no content. Of a `StoreError` the caller is told; the others are for `onCorrupt`. */
  readonly problem?: Error;
}

const pattern = /^~([\w,]+):/;

/** The text of a header; empty if the value needs none. */
export function headerText({ version, form, keyId }: Header): string {
  const fields = [
    ...(version === 0 ? [] : [`v${version}`]),
    ...(form === undefined ? [] : [form]),
    ...(keyId === undefined ? [] : [`k${keyId}`]),
  ];
  return fields.length === 0 ? "" : `~${fields.join(",")}:`;
}

/** The version, if the header has nothing else. */
export function versionOnly(text: string): number | undefined {
  const version = /^~v(\d+):$/.exec(text)?.[1];
  return version === undefined ? undefined : Number(version);
}

/** The text of the header with which a value begins; empty if it has none. */
export function headerOf(value: string): string {
  return pattern.exec(value)?.[0] ?? "";
}

/**
 * Parses the text of a header.
 *
 * @throws {DecodeError} if it has a field that is not known.
 */
export function parseHeader(text: string, key: string): Header {
  const header: { -readonly [Name in keyof Header]: Header[Name] } = { version: 0 };
  for (const field of pattern.exec(text)![1]!.split(",")) {
    if (/^v[1-9]\d{0,8}$/.test(field)) header.version = Number(field.slice(1));
    else if (field === "text" || field === "bytes") header.form = field;
    else if (/^k[\da-f]{8}$/.test(field)) header.keyId = field.slice(1);
    else throw unreadable(`a newer version of this package stored it: its header is ${text}`, key);
  }
  return header;
}

/**
 * The error of a value that is not corrupt: another store can read it, with other options or of a newer
 * version of this package. `onCorrupt` is not for it.
 */
export function unreadable(why: string, key: string): DecodeError {
  return new DecodeError(why, { operation: "read", key });
}

/** The error for a value that needs an option that the store does not have. */
export function needsOption(text: string, key: string): StoreError {
  const { version, form, keyId } = parseHeader(text, key);
  if (keyId !== undefined) {
    const why = `it is encrypted with key ${keyId}, and the store has no option "encrypt"`;
    return unreadable(why, key);
  }
  if (form !== undefined) return needsCodec(key);
  return new VersionError(newer(version, 0), { operation: "read", key, version });
}

/** The error for a value that another codec made. */
export function needsCodec(key: string): StoreError {
  return unreadable('it was stored with the option "codec", which this store does not have', key);
}

/** Why a session of a newer version is not read. */
export function newer(version: number, own: number): string {
  return `it has version ${version}, and this store ${own === 0 ? "none" : `version ${own}`}`;
}

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

/** The text of the header with which a value begins; empty if it has none. */
export function headerOf(value: string): string {
  return pattern.exec(value)?.[0] ?? "";
}

/**
 * Parses the text of a header.
 *
 * @throws {Error} if it has a field that is not known.
 */
export function parseHeader(text: string): Header {
  const header: { -readonly [Name in keyof Header]: Header[Name] } = { version: 0 };
  for (const field of pattern.exec(text)![1]!.split(",")) {
    if (/^v[1-9]\d{0,8}$/.test(field)) header.version = Number(field.slice(1));
    else if (field === "text" || field === "bytes") header.form = field;
    else if (/^k[\da-f]{8}$/.test(field)) header.keyId = field.slice(1);
    else throw new Error(`a newer version of this package stored it: its header is ${text}`);
  }
  return header;
}

/** The error for a value that needs an option that the store does not have. */
export function needsOption(text: string, key: string): StoreError {
  const options = { operation: "read", key } as const;
  let header: Header;
  try {
    header = parseHeader(text);
  } catch (error) {
    return new DecodeError((error as Error).message, options);
  }
  const { version, form, keyId } = header;
  if (keyId !== undefined) {
    const why = `it is encrypted with key ${keyId}, and the store has no option "encrypt"`;
    return new DecodeError(why, options);
  }
  if (form !== undefined) return needsCodec(key);
  return new VersionError(newer(version, 0), { ...options, version });
}

/** The error for a value that another codec made. */
export function needsCodec(key: string): StoreError {
  const why = 'it was stored with the option "codec", which this store does not have';
  return new DecodeError(why, { operation: "read", key });
}

/** Why a session of a newer version is not read. */
export function newer(version: number, own: number): string {
  return `it has version ${version}, and this store ${own === 0 ? "none" : `version ${own}`}`;
}

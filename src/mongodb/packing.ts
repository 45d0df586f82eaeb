/**
 * Values with a header in MongoDB. A plain session has its version in the field `version` beside it; all
 * others are a `Binary` of a subtype for applications: the header, and then the bytes.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Packing } from "../backend.ts";
import { headerText, versionOnly } from "../codec/header.ts";
import { binarySubtype, binaryWithHeader, Versioned } from "../codec/document.ts";

/** The parts of the driver that are used. */
export interface BsonDriver {
  readonly BSON: {
    serialize(document: object): Uint8Array;
    deserialize(bytes: Uint8Array): object;
  };
  readonly Binary: new (bytes: Uint8Array, subtype: number) => { readonly buffer: Uint8Array };
}

/** Values with a header, by means of the driver. */
export function documentPacking({ BSON, Binary }: BsonDriver): Packing<unknown> {
  return {
    split(stored) {
      if (stored instanceof Versioned) {
        return { header: headerText({ version: stored.version }), body: stored.session };
      }
      return binaryWithHeader(stored) ?? { header: "", body: stored };
    },
    join(header, body) {
      if (header === "") return body;
      const version = versionOnly(header);
      if (version !== undefined) return new Versioned(version, body);
      const bytes = Buffer.from(body as Uint8Array);
      return new Binary(Buffer.concat([Buffer.from(header), bytes]), binarySubtype);
    },
    text: (body) => Buffer.from(body as Uint8Array).toString(),
    bytes: (body) => Buffer.from(body as Uint8Array),
    serialize: (session) => BSON.serialize({ session }),
    deserialize: (bytes) => (BSON.deserialize(bytes) as { session: unknown }).session,
  };
}

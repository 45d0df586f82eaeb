/**
 * Values with a header in databases that store text.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Packing } from "../backend.ts";
import { headerOf } from "../codec/header.ts";

/** The header, and then the text, or base64 of the bytes. */
export const textPacking: Packing<string> = {
  split(stored) {
    const header = headerOf(stored);
    return { header, body: stored.slice(header.length) };
  },
  join: (header, body) =>
    header + (typeof body === "string" ? body : Buffer.from(body).toString("base64")),
  text: (body) => body as string,
  bytes: (body) => Buffer.from(body as string, "base64"),
  serialize: (session) => Buffer.from(session),
  deserialize: (bytes) => bytes.toString(),
};

/**
 * Sessions as JSON text. `document.ts` has the form for MongoDB.
 *
 * @module
 */

import type { Codec } from "../backend.ts";
import { headerOf, needsOption } from "./header.ts";
import { pathOf } from "./losses.ts";

/** JSON text. Empty text means no session because the tables of 2.0.0-beta allow NULL. */
export const json: Codec<string> = {
  encode(session) {
    let text: string | undefined;
    try {
      text = JSON.stringify(session);
    } catch (error) {
      const where = pathOf(session, "a bigint");
      if (where === undefined) throw error;
      throw new TypeError(`${where} is a bigint, which JSON does not have`);
    }
    if (text === undefined) throw new TypeError(`a ${typeof session} is not JSON`);
    return text;
  },
  decode(text, key) {
    try {
      return text === "" ? undefined : JSON.parse(text);
    } catch (error) {
      const header = headerOf(text);
      throw header === "" ? error : needsOption(header, key);
    }
  },
  equal: (a, b) => a === b,
  size: (text) => text.length,
  storedAs(kind) {
    if (kind === "converter") return undefined; // a plain object with its own `toJSON`
    if (/^(NaN|-?Infinity|undefined)$/.test(kind)) return "null";
    if (/^a (function|symbol)$/.test(kind)) return "nothing";
    if (kind === "a Date") return "text";
    if (kind === "convertible class" || kind === "BSON") return "what its toJSON() returns";
    return /class|ctx|Array$/.test(kind) ? "a plain object" : "an empty object";
  },
};

/**
 * How sessions become text. What they are in MongoDB is in `document.ts`.
 *
 * @module
 */

import type { Codec } from "./backend.ts";

/** JSON text. Empty text is no session (upstream's tables allow NULL). */
export const json: Codec<string> = {
  encode(session) {
    const text = JSON.stringify(session);
    if (text === undefined) throw new TypeError(`a ${typeof session} is not JSON`);
    return text;
  },
  decode: (text) => text === "" ? undefined : JSON.parse(text),
  equal: (a, b) => a === b,
  size: (text) => text.length,
};

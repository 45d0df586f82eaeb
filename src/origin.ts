/**
 * Where a session came from, noted on the session itself, so that a `set` of what `get` returned is
 * recognized.
 *
 * @module
 */

import type { Entry } from "./backend.ts";

/** Where a session was decoded from. */
export interface Origin<Encoded> {
  readonly content: Entry<Encoded>;
  /** The connection that read it. */
  readonly connection: object;
  /** What the queue counted for its key before. */
  readonly version: number;
}

/** Makes an existing object the `this` of a subclass' constructor, so that it gets its fields. */
class Existing {
  constructor(object: object) {
    return object;
  }
}

/**
 * A private field of an object of somebody else: nobody but this class sees it, and it goes when the
 * object goes. A `WeakMap` would do, but costs the garbage collector a third of a whole operation.
 */
class Marked extends Existing {
  #origin: Origin<unknown>;

  constructor(session: object, origin: Origin<unknown>) {
    super(session);
    this.#origin = origin;
  }

  static read(session: object): Origin<unknown> | undefined {
    return #origin in session ? session.#origin : undefined;
  }

  static write(session: object, origin: Origin<unknown>): void {
    if (#origin in session) session.#origin = origin;
    else if (Object.isExtensible(session)) new Marked(session, origin);
  }
}

/** Where the session came from, if it came from this connection. */
export function originOf<Encoded>(
  session: unknown,
  connection: object,
): Origin<Encoded> | undefined {
  if (typeof session !== "object" || session === null) return undefined;
  const origin = Marked.read(session);
  return origin?.connection === connection ? origin as Origin<Encoded> : undefined;
}

/** Notes where the session came from; a value that is no object is written again each time. */
export function setOrigin<Encoded>(session: unknown, origin: Origin<Encoded>): void {
  if (typeof session === "object" && session !== null) Marked.write(session, origin);
}

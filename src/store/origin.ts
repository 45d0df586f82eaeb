/**
 * Notes on a session where it came from, so that a `set` of what `get` returned is recognized.
 *
 * @module
 */

import type { Entry } from "../backend.ts";

/** The entry from which a session was decoded. */
export interface Origin<Encoded> {
  readonly content: Entry<Encoded>;
  /** The shared backend that read it. */
  readonly shared: object;
  /** The queue's version of the key, taken before the read. */
  readonly version: number;
  /** The epoch of the lease of all sessions, taken before the read. */
  readonly epoch: number;
}

/**
 * The "return override" trick: a constructor that returns an object makes that object the `this` of
 * a subclass, so that an existing object gets the private fields of the subclass.
 */
class ReturnOverride {
  constructor(object: object) {
    return object;
  }
}

/**
 * Adds a private field to an object of the bot. Only this class can see the field, and it is
 * collected with the object. A `WeakMap` would do the same, but its cost in the garbage collector is
 * a third of a whole operation.
 */
class Marked extends ReturnOverride {
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

/** The origin of the session, if it was read through this shared backend. */
export function originOf<Encoded>(session: unknown, shared: object): Origin<Encoded> | undefined {
  if (typeof session !== "object" || session === null) return undefined;
  const origin = Marked.read(session);
  return origin?.shared === shared ? origin as Origin<Encoded> : undefined;
}

/** Notes the origin. A primitive value cannot carry it, and is therefore written each time. */
export function setOrigin<Encoded>(session: unknown, origin: Origin<Encoded>): void {
  if (typeof session === "object" && session !== null) Marked.write(session, origin);
}

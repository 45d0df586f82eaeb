/**
 * The errors that stores reject with.
 *
 * @module
 */

/** What the store was asked to do when it failed. */
export type Operation = "open" | "read" | "write" | "delete" | "prune" | "close";

/** What a {@link StoreError} says about itself. */
export interface StoreErrorOptions {
  /** What the store was asked to do. */
  operation: Operation;
  /** The session's key, where the operation has one. */
  key?: string | undefined;
  /** The driver's own error, where there is one. */
  cause?: unknown;
}

/**
 * An operation on a store failed. The session in the database is as it was before, unless the
 * connection broke before the database could tell.
 *
 * The package exists as ES modules and as CommonJS, each with its own copy of this class: where
 * both may meet, compare `name` instead of using `instanceof`.
 */
export class StoreError extends Error {
  /** The name of the class. */
  override name = "StoreError";
  /** What the store was asked to do. */
  readonly operation: Operation;
  /** The session's key, where the operation has one. */
  readonly key: string | undefined;

  /**
   * Makes an error; stores do.
   *
   * @param reason what went wrong, without credentials.
   * @param options what the store was asked to do, for which key, and the driver's error.
   */
  constructor(reason: string, options: StoreErrorOptions) {
    const { operation, key, cause } = options;
    const what = key === undefined ? `${operation} the store` : `${operation} session "${key}"`;
    super(`Cannot ${what}: ${reason}`, cause === undefined ? undefined : { cause });
    this.operation = operation;
    this.key = key;
  }
}

/** The store was closed before the operation began. */
export class ClosedError extends StoreError {
  /** The name of the class. */
  override name = "ClosedError";
}

/**
 * The operation did not end within the store's `timeout`. `cause` is the last transient error that
 * was met, if any. Whether a write was applied is not known.
 */
export class TimeoutError extends StoreError {
  /** The name of the class. */
  override name = "TimeoutError";
}

/** The session is larger than the database takes. What was stored before is still there. */
export class TooLargeError extends StoreError {
  /** The name of the class. */
  override name = "TooLargeError";
}

/** The session cannot be stored: it refers to itself, say. What was stored before is still there. */
export class EncodeError extends StoreError {
  /** The name of the class. */
  override name = "EncodeError";
}

/** The stored value is no session. It stays as it is. */
export class DecodeError extends StoreError {
  /** The name of the class. */
  override name = "DecodeError";
}

/** Takes user names and passwords out of the URLs in a text. */
export function redact(text: string): string {
  return text.replace(/(\b[a-z][a-z\d+.-]*:\/\/)\S*@/gi, "$1***@");
}

/**
 * Whether it is an error, of any realm: under jest, for example, the errors of the runtime are not
 * instances of the `Error` that modules know.
 */
export function isError(error: unknown): error is Error {
  return typeof (error as Error | null | undefined)?.message === "string";
}

/**
 * What an `import()` of a driver failed with. Where the driver is not installed, it is an error that
 * says what to do.
 */
export function missing(error: unknown, driver: string, others: string): unknown {
  const message = String(Object(error).message);
  // Of Node.js, Bun and Deno, and of bundles. A dependency of the driver has another name.
  const named = /^(?:Cannot (?:find|require) (?:package|module)|Dynamic require of|Import) (\S+)/;
  const name = named.exec(message)?.[1]?.replace(/["']/g, "");
  if (name !== driver && !message.startsWith("require is not defined")) return error;
  const why = `Cannot find package '${driver}': npm install ${driver}, ${others}`;
  return Object.assign(new Error(why, { cause: error }), { code: "ERR_MODULE_NOT_FOUND" });
}

/** What an error says, in one line without credentials. */
export function reason(error: unknown): string {
  if (!isError(error)) return redact(String(error));
  const { code } = error as { code?: unknown };
  const [line] = error.message.split("\n", 1);
  return redact(line || (code === undefined ? error.name : String(code)));
}

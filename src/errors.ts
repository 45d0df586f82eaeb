/**
 * The errors that stores reject with.
 *
 * @module
 */

/** The operation that failed. */
export type Operation = "open" | "read" | "write" | "delete" | "prune" | "lock" | "close";

/** The details of a {@link StoreError}. */
export interface StoreErrorOptions {
  /** The operation that failed. */
  operation: Operation;
  /** The session's key, if the operation has one. */
  key?: string | undefined;
  /** The driver's error, if there is one. */
  cause?: unknown;
}

/**
 * An operation on a store failed. The session in the database has not changed, unless the connection
 * broke before the database could answer.
 *
 * The ES modules and the CommonJS modules of the package each have their own copy of this class. If
 * a program may load both, compare `name` instead of using `instanceof`.
 */
export class StoreError extends Error {
  /** The name of the class. */
  override name = "StoreError";
  /** The operation that failed. */
  readonly operation: Operation;
  /** The session's key, if the operation has one. */
  readonly key: string | undefined;

  /**
   * Creates an error. Only stores need this.
   *
   * @param reason what went wrong, without credentials.
   * @param options the operation, its key, and the driver's error.
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
 * The operation did not end within the store's `timeout`. `cause` is the last transient error, if
 * there was one. A write may or may not have been applied.
 */
export class TimeoutError extends StoreError {
  /** The name of the class. */
  override name = "TimeoutError";
}

/** The holder of a lease. */
export interface LeaseHolder {
  /** The name of its machine; empty if it may not read it, as Deno without `--allow-sys`. */
  readonly host: string;
  /** The number of its process. */
  readonly pid: number;
  /** When it asked for the lease, by its own clock. */
  readonly since: Date;
}

/**
 * The lease on a session could not be had within `wait` (`operation` is `"lock"`), or it was lost before
 * the session was stored (`operation` is `"write"`). In both cases nothing of this update is stored.
 *
 * With the option `cache` it may be the lease of all sessions that was lost, and the last write of this
 * process may be stored. A process without the option gets this error if another one has all sessions.
 */
export class LeaseError extends StoreError {
  /** The name of the class. */
  override name = "LeaseError";
  /** Who holds the lease, if it is known. */
  readonly holder: LeaseHolder | undefined;

  /**
   * Creates an error. Only stores need this.
   *
   * @param reason what went wrong.
   * @param options the operation, its key, and the holder of the lease.
   */
  constructor(reason: string, options: StoreErrorOptions & { holder?: LeaseHolder | undefined }) {
    super(reason, options);
    this.holder = options.holder;
  }
}

/** The session exceeds the size limit of the database. The stored session has not changed. */
export class TooLargeError extends StoreError {
  /** The name of the class. */
  override name = "TooLargeError";
}

/**
 * The session cannot be stored, for example because it refers to itself. The stored session has not
 * changed.
 */
export class EncodeError extends StoreError {
  /** The name of the class. */
  override name = "EncodeError";
}

/** The error for a session that a codec refused. */
export function encodeError(key: string, cause: unknown): EncodeError {
  const why = `the session cannot be encoded: ${reason(cause)}`;
  return new EncodeError(why, { operation: "write", key, cause });
}

/** The stored value is not a session. It is neither changed nor deleted. */
export class DecodeError extends StoreError {
  /** The name of the class. */
  override name = "DecodeError";
}

/**
 * A session changed after it was stored, and the change is not in the database. Stores with `debug` report
 * this to `onError`.
 */
export class LateChangeError extends StoreError {
  /** The name of the class. */
  override name = "LateChangeError";
  /** The values that changed, such as `ctx.session.cart`. */
  readonly paths: readonly string[];

  /**
   * Creates an error. Only stores need this.
   *
   * @param reason what changed.
   * @param options the operation, its key, and the paths.
   */
  constructor(reason: string, options: StoreErrorOptions & { paths: readonly string[] }) {
    super(reason, options);
    this.paths = options.paths;
  }
}

/**
 * The session has a newer version than the store, or a migration to the store's version failed. The stored
 * session has not changed. `onCorrupt` is not called.
 */
export class VersionError extends StoreError {
  /** The name of the class. */
  override name = "VersionError";
  /** The version of the stored session. */
  readonly version: number;

  /**
   * Creates an error. Only stores need this.
   *
   * @param reason what went wrong.
   * @param options the operation, its key, and the version of the stored session.
   */
  constructor(reason: string, options: StoreErrorOptions & { version: number }) {
    super(reason, options);
    this.version = options.version;
  }
}

/** Removes user names and passwords from the URLs in a text. */
export function redact(text: string): string {
  return text.replace(/(\b[a-z][a-z\d+.-]*:\/\/)\S*@/gi, "$1***@");
}

/**
 * Whether the value is an error of any realm. Under jest, for example, errors of the runtime are not
 * instances of the `Error` that modules see.
 */
export function isError(error: unknown): error is Error {
  return typeof (error as Error | null | undefined)?.message === "string";
}

/**
 * The error to throw after the `import()` of a driver failed. If the driver is not installed, the error
 * says what to install.
 */
export function missing(error: unknown, driver: string, others: string): unknown {
  const message = String(Object(error).message);
  // Messages of Node.js, Bun, Deno and bundlers. A missing dependency of the driver has another name.
  const named = /^(?:Cannot (?:find|require) (?:package|module)|Dynamic require of|Import) (\S+)/;
  const name = named.exec(message)?.[1]?.replace(/["']/g, "");
  if (name !== driver && !message.startsWith("require is not defined")) return error;
  const why = `Cannot find package '${driver}': npm install ${driver}, ${others}`;
  return Object.assign(new Error(why, { cause: error }), { code: "ERR_MODULE_NOT_FOUND" });
}

/**
 * The error to throw after a driver has refused its options. Has no cause, and its message does not contain
 * the URL, because both may have a password.
 */
export function refusedOptions(
  factory: string,
  driver: string,
  error: unknown,
  url = "",
): TypeError {
  const message = isError(error) ? error.message : String(error);
  // An error of this package about an option.
  if (message.startsWith(`${factory}: `)) return error as TypeError;
  const why = reason(new Error(url === "" ? message : message.replaceAll(url, "url")));
  return new TypeError(`${factory}: ${driver} refuses these options: ${why}`);
}

/** The message of an error, in one line without credentials. */
export function reason(error: unknown): string {
  if (!isError(error)) return redact(String(error));
  const { code } = error as { code?: unknown };
  const [line] = error.message.split("\n", 1);
  return redact(line || (code === undefined ? error.name : String(code)));
}

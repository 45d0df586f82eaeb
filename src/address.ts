/**
 * The server to connect to, as options name it: by a URL, by single options, or in `config`.
 *
 * @module
 */

import { defaults, rules, type StoreOptions } from "./options.ts";
import { described } from "./validation.ts";

/** The options of a driver that are not `undefined`, without the option `except`. */
export function given(config: object = {}, except?: string): object {
  return Object.fromEntries(
    Object.entries(config).filter(([name, value]) => value !== undefined && name !== except),
  );
}

/** The rules of options that name the server, the database and the user. */
export const addressRules = {
  url: rules.secret,
  host: rules.text,
  port: rules.port,
  database: rules.text,
  user: rules.text,
  password: rules.secret,
} as const;

/** Options of SQL stores that name the server, the database and the user. */
export const addressOptions = ["host", "port", "database", "user", "password"] as const;

/** The server and user, if they are not given by a URL. */
export function address({ host, port, database, user, password }: ConnectionOptions): object {
  return { host, port: port === undefined ? undefined : Number(port), database, user, password };
}

/** The options of factories that say how to connect. */
export interface ConnectionOptions extends StoreOptions {
  readonly url?: string | undefined;
  readonly config?: object | undefined;
  readonly host?: string | undefined;
  readonly port?: number | string | undefined;
  readonly database?: string | undefined;
  readonly user?: string | undefined;
  readonly password?: unknown;
}

/**
 * The URL, which may also be given in `config`, under the driver's own name.
 *
 * @throws {TypeError} if the server is given twice.
 */
export function urlOf(
  factory: string,
  options: ConnectionOptions,
  name: string,
): string | undefined {
  const own = (options.config as Record<string, unknown> | undefined)?.[name];
  if (own === undefined || own === null) return options.url;
  const twice = (["url", ...addressOptions] as const).find((it) => options[it] !== undefined);
  if (twice !== undefined) {
    const what = `option "${twice}" and config.${name} contradict each other`;
    throw new TypeError(`${factory}: ${what}; leave one out`);
  }
  if (typeof own === "string") return own;
  throw new TypeError(`${factory}: config.${name} must be a string, but is ${described(own)}`);
}

/**
 * Refuses parameters of a URL that name a server, a user or TLS, but that the driver ignores.
 *
 * @param ignored the names of such parameters, each with its replacement.
 * @throws {TypeError} if there is one. The message does not contain its value.
 */
export function checkParameters(
  factory: string,
  url: string,
  ignored: readonly (readonly [names: RegExp, instead: string])[],
): void {
  for (const name of new URLSearchParams(url.split("?", 2)[1]).keys()) {
    const [, instead] = ignored.find(([names]) => names.test(name)) ?? [];
    if (instead === undefined) continue;
    throw new TypeError(`${factory}: parameter "${name}" of the URL has no effect; use ${instead}`);
  }
}

/**
 * How long the store's own pool waits for a connection, in ms: half of the operation's timeout, which
 * leaves time for a second attempt.
 */
export function connectTimeout({ timeout = defaults.timeout }: { timeout?: number }): number {
  return Math.min(5_000, Math.ceil(timeout / 2));
}

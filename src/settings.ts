/**
 * Options of the pools that the SQL stores create, made from `url` and `config`. `config` overrides
 * `url` for both drivers, which disagree about this themselves.
 *
 * @module
 */

import { reason } from "./errors.ts";
import { checkParameters, type ConnectionOptions, given, urlOf } from "./options.ts";
import { connectTimeout } from "./sql.ts";

/** An error about these options. Has no cause because the driver's error may contain the URL. */
export function refused(error: unknown, factory: string, driver: string): TypeError {
  const own = (error as Error).name === "TypeError" && (error as Error).message;
  if (own && own.startsWith(`${factory}: `)) return error as TypeError;
  const what = `option "url" or "config" is refused by ${driver}`;
  return new TypeError(`${factory}: ${what}: ${reason(error)}`);
}

/** The server and user, if they are not given by a URL. */
function address({ host, port, database, user, password }: ConnectionOptions): object {
  return { host, port: port === undefined ? undefined : Number(port), database, user, password };
}

/** The part of `pg.Client` that is used. */
type PgClient = new (options: object) => { connectionParameters: object };

/** Options of the store's own `pg.Pool`. */
export function pgSettings(Client: object, options: ConnectionOptions): object {
  const url = urlOf("Postgres", options, "connectionString");
  return {
    connectionTimeoutMillis: connectTimeout(options),
    ...(url === undefined ? address(options) : pgAddress(Client as PgClient, url)),
    ...given(options.config, "connectionString"),
  };
}

/**
 * The options in a URL, as pg parses it. Given to pg, the URL would override other options, even with
 * values that it does not contain.
 */
function pgAddress(Client: PgClient, url: string): object {
  if (!/^(postgres(ql)?|socket):/i.test(url)) throw new TypeError("Invalid URL");
  checkParameters("Postgres", url, [[/^(ssl[-_]mode|use_?ssl|tls)/i, "sslmode"]]);
  const { connectionParameters: read } = new Client({ connectionString: url });
  // The password is not enumerable.
  const { database, user, password } = read as {
    database?: string;
    user?: string;
    password?: string;
  };
  const named = database !== user || /^\w+:\/\/[^/?#]*\/[^?#]/.test(url);
  // Without a name the database has the name of the user, which `config` may change.
  return { ...read, password, database: named ? database : undefined };
}

/** Options of the store's own pool of mysql2. */
export function mysqlSettings(options: ConnectionOptions): object {
  const url = urlOf("MySQL", options, "uri");
  return {
    connectTimeout: connectTimeout(options),
    ...(url === undefined ? address(options) : mysqlAddress(url)),
    ...given(options.config, "uri"),
  };
}

/**
 * The options in a URL, as mysql2 parses it. Given to mysql2, the URL would override options that are
 * `false` or "".
 */
function mysqlAddress(url: string): object {
  if (!/^(mysql|mariadb):/i.test(url)) throw new TypeError("Invalid URL");
  // mysql2 ignores these with a warning, and connects without TLS.
  checkParameters("MySQL", url, [
    [/^(user(name)?|pass(word)?|host|port|database)$/i, "mysql://user:password@host:port/database"],
    [/^(ssl.|tls|(use|require)_?ssl)/i, "config.ssl"],
  ]);
  const { hostname, port, pathname, username, password, searchParams } = new URL(url);
  return {
    ...Object.fromEntries([...searchParams].map(([name, value]) => [name, parsed(value)])),
    host: decodeURIComponent(hostname.replace(/^\[(.*)\]$/, "$1")),
    port: port === "" ? undefined : Number(port),
    database: decodeURIComponent(pathname.slice(1)),
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
  };
}

/** The value of a parameter: JSON if it can be parsed, otherwise text. */
function parsed(value: string): unknown {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

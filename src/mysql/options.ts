/**
 * Options of the pool that the MySQL store creates.
 *
 * @module
 */

import {
  address,
  checkParameters,
  type ConnectionOptions,
  connectTimeout,
  given,
  urlOf,
} from "../address.ts";

/** Options of the store's own pool of mysql2. */
export function poolOptions(options: ConnectionOptions): object {
  const url = urlOf("MySQL", options, "uri");
  return {
    connectTimeout: connectTimeout(options),
    ...(url === undefined ? address(options) : optionsOf(url)),
    ...given(options.config, "uri"),
  };
}

/**
 * The options in a URL, as mysql2 parses it. Given to mysql2, the URL would override options that are
 * `false` or "".
 */
function optionsOf(url: string): object {
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

/**
 * Options of the pool that the PostgreSQL store creates, made from `url` and `config`. `config` overrides
 * `url`.
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

/** The part of `pg.Client` that is used. */
type PgClient = new (options: object) => { connectionParameters: object };

/** Options of the store's own `pg.Pool`. */
export function poolOptions(Client: object, options: ConnectionOptions): object {
  const url = urlOf("Postgres", options, "connectionString");
  return {
    connectionTimeoutMillis: connectTimeout(options),
    ...(url === undefined ? address(options) : optionsOf(Client as PgClient, url)),
    ...given(options.config, "connectionString"),
  };
}

/**
 * The options in a URL, as pg parses it. Given to pg, the URL would override other options, even with
 * values that it does not contain.
 */
function optionsOf(Client: PgClient, url: string): object {
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

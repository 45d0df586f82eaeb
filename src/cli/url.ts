/**
 * Parses the URLs of databases.
 *
 * @module
 */

import { defaults } from "../options.ts";
import { exit, Failure } from "./failure.ts";

/**
 * The supported databases, by the names of the modules that have their factories. `parameters` are
 * our own parameters in a URL, with their defaults.
 */
export const kinds = {
  redis: {
    title: "Redis",
    driver: "redis",
    schemes: /^rediss?$/,
    parameters: { prefix: defaults.prefix },
  },
  mongodb: {
    title: "MongoDB",
    driver: "mongodb",
    schemes: /^mongodb(\+srv)?$/,
    parameters: { collection: defaults.collection },
  },
  sqlite: {
    title: "SQLite",
    driver: "better-sqlite3",
    schemes: /^sqlite$/,
    parameters: { table: defaults.table },
  },
  pg: {
    title: "PostgreSQL",
    driver: "pg",
    schemes: /^postgres(ql)?$/,
    parameters: { table: defaults.table, schema: undefined },
  },
  mysql: {
    title: "MySQL",
    driver: "mysql2",
    schemes: /^(mysql|mariadb)$/,
    parameters: { table: defaults.table },
  },
  denokv: {
    title: "Deno KV",
    driver: "@deno/kv",
    schemes: /^denokv$/,
    parameters: { prefix: defaults.table },
  },
} as const;

export type Kind = keyof typeof kinds;

/** Where sessions are stored. */
export interface Location {
  readonly kind: Kind;
  /** The URL for the driver, without our own parameters; for a file, its name. */
  readonly url: string;
  /** The table, collection, prefix or schema that the URL names. */
  readonly parameters: { readonly [name: string]: string };
  /** A name for messages, without credentials. */
  readonly title: string;
}

/**
 * Parses a URL, or the name of an SQLite file. Our own parameters are cut out of the text, because
 * `URL` cannot parse the URLs of every driver: those of MongoDB may name several hosts.
 *
 * @throws {Failure} if the text does not name a database.
 */
export function locate(text: string): Location {
  const scheme = /^([a-z][a-z\d+.-]+):/i.exec(text)?.[1]?.toLowerCase();
  const kind = (Object.keys(kinds) as Kind[]).find((name) =>
    kinds[name].schemes.test(scheme ?? "")
  );
  if (kind === undefined) {
    if (scheme === undefined && /\.(sqlite3?|db3?)$/i.test(text)) {
      return { kind: "sqlite", url: text, parameters: {}, title: `SQLite ${text}` };
    }
    throw new Failure(unknownMessage(text, scheme), exit.usage);
  }
  if (kind !== "sqlite" && kind !== "denokv" && !/^[^:]+:\/\//.test(text)) {
    throw new Failure(`A ${scheme}: URL must begin with ${scheme}://`, exit.usage);
  }
  const [, base, query = ""] = /^([^?]*)\??(.*)$/s.exec(text)!;
  const parameters: Record<string, string> = {};
  const others = query.split("&").filter((parameter) => {
    const [name, value = ""] = parameter.split("=", 2) as [string, string?];
    if (!(name in kinds[kind].parameters)) return parameter !== "";
    parameters[name] = decode(value);
    return false;
  });
  if (others.length > 0 && (kind === "sqlite" || kind === "redis" || kind === "denokv")) {
    const [name] = others[0]!.split("=");
    const known = Object.keys(kinds[kind].parameters).join(", ");
    throw new Failure(
      `Unknown parameter "${name}" in a ${scheme}: URL; known parameters: ${known}`,
      exit.usage,
    );
  }
  const { title } = kinds[kind];
  if (kind === "denokv" && /^denokv:https?:/i.test(base!)) {
    const url = base!.slice("denokv:".length);
    return { kind, url, parameters, title: `${title} ${url.replace(/^[^:]+:\/\/(.*@)?/s, "")}` };
  }
  if (kind === "sqlite" || kind === "denokv") {
    const url = decode(base!.slice(`${kind}:`.length).replace(/^\/\//, ""));
    if (url === "") {
      const example = kind === "sqlite" ? "sqlite:bot.db" : "denokv:bot.kv";
      throw new Failure(
        `The ${kind}: URL has no file name; write ${example}, for example`,
        exit.usage,
      );
    }
    return { kind, url, parameters, title: `${title} ${url}` };
  }
  const url = base + (others.length > 0 ? `?${others.join("&")}` : "");
  return { kind, url, parameters, title: `${title} ${base!.replace(/^[^:]+:\/\/(.*@)?/s, "")}` };
}

/** The message for a text that does not name a database, without a part that may be a password. */
function unknownMessage(text: string, scheme: string | undefined): string {
  const [, host, port] = /^(?:.*@)?([\w.-]+|\[[\da-f:.]+\]):(\d+)(?:[/?].*)?$/is.exec(text) ?? [];
  if (host !== undefined) {
    const known = ports[port!];
    const begin = known === undefined
      ? "redis://, mongodb://, postgres:// or mysql://"
      : `${known}, as in ${known}${host}:${port}`;
    return `"${host}:${port}" is not a URL: begin with ${begin}`;
  }
  if (scheme !== undefined && !text.includes("@")) {
    return `Unknown database "${scheme}:"; use redis:, mongodb:, sqlite:, postgres:, mysql: or denokv:`;
  }
  const shown = text.replace(/^.*@/s, "***@");
  return `"${shown}" is neither a URL nor a file name that ends in .sqlite or .db; ` +
    'write "sqlite:" before other file names';
}

/** The beginning of a URL, by the default port of the server. */
const ports: Record<string, string | undefined> = {
  6379: "redis://",
  27017: "mongodb://",
  5432: "postgres://",
  3306: "mysql://",
};

/** The name of the file of a database that is a file. */
export function fileOf({ kind, url }: Location): string | undefined {
  return kind === "sqlite" || kind === "denokv" && !/^https?:/i.test(url) ? url : undefined;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Failure(
      `"${text}" in the URL is not valid percent-encoding; write %25 for a percent sign`,
      exit.usage,
    );
  }
}

/** The name of a kind of database, for people. */
export function titleOf(kind: Kind): string {
  return kinds[kind].title;
}

/** Names the table, collection or prefix in a message, as `table "sessions"`. */
export function describe(location: Location): string {
  const [[thing, name]] = Object.entries(parametersOf(location)) as [[string, string]];
  return `${thing} "${name}"`;
}

/** The table, collection, prefix or schema; the default for each that the URL does not name. */
export function parametersOf(
  { kind, parameters }: Location,
): { readonly [name: string]: string | undefined } {
  return { ...kinds[kind].parameters, ...parameters };
}

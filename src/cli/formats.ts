/**
 * The formats that `import` reads: lines of JSON, as `export` prints them, and the storage of other
 * packages.
 *
 * @module
 */

import { createReadStream } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { setTimeout as wait } from "node:timers/promises";
import type { Entry } from "../backend.ts";
import { defaults, storeRules } from "../options.ts";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { isMissing, missingDriver } from "./driver.ts";
import { exit, Failure, sentence } from "./failure.ts";
import { sourceOf } from "./transfer.ts";
import { type Kind, locate, type Location, titleOf } from "./url.ts";

/** A session, an entry that cannot be read, or the number of ignored entries. */
export type Found =
  | Entry<unknown> & { readonly version?: number }
  | { readonly where: string; readonly error: unknown }
  | Ignored;

/** Entries that are ignored because other programs wrote them. */
export interface Ignored {
  readonly ignored: number;
  /** The word for one of them: `key`, `document`. */
  readonly thing: string;
  /** A sentence: which entries are imported. */
  readonly imported: string;
}

/** How a package stores sessions. */
export interface Format {
  /** What SOURCE must be, for `--help`. */
  readonly source: string;
  /** Converts a key to the form that Telegraf uses; `undefined` if that is impossible. */
  readonly convertKey?: (key: string) => string | undefined;
  /** @param all whether to read sessions under any key. */
  read(source: string, context: Context, all: boolean): AsyncIterable<Found>;
}

/** Converts `<chat id>:<user id>`. */
const swapIds = (key: string) =>
  /^(-?\d+):(\d+)$/.test(key) ? key.split(":").reverse().join(":") : undefined;

/** Converts grammY's `<chat id>`, which is also the user id in a private chat. */
const addUserId = (key: string) => /^\d+$/.test(key) ? `${key}:${key}` : undefined;

/** The formats, by the values of `--format`. */
export const formats: { readonly [name: string]: Format } = {
  "jsonl": { source: "FILE, or - for standard input", read: readLines },
  "telegraf-session-local": { source: "FILE.json", convertKey: swapIds, read: readLowdb },
  "telegraf-session-redis": {
    source: "redis://…, keys like 1:-2",
    read: readRedis(/^-?\d+:-?\d+$/, "1:-2"),
  },
  "telegraf-session-mongodb": {
    source: "mongodb://…, collection sessions",
    read: (url, context) => readMongo(url, context, "data"),
  },
  "grammy-file": { source: "FOLDER", convertKey: addUserId, read: unwrap(readFolder) },
  "grammy-redis": {
    source: "redis://…, keys like -2",
    convertKey: addUserId,
    read: unwrap(readRedis(/^-?\d+$/, "-2")),
  },
  "grammy-mongodb": {
    source: "mongodb://…, collection sessions",
    convertKey: addUserId,
    read: unwrap((url, context) => readMongo(url, context, "value")),
  },
  "grammy-psql": {
    source: "postgres://…, table sessions",
    convertKey: addUserId,
    read: unwrap(readPostgres),
  },
};

/** Lines of JSON, from a file or from standard input. */
async function* readLines(file: string, { stdin }: Context): AsyncGenerator<Found> {
  const input = file === "-" ? Readable.from(stdin) : createReadStream(file);
  let failure: Error | undefined;
  const reader = createInterface({ input, crlfDelay: Infinity });
  input.once("error", (error: Error) => {
    failure = error;
    reader.close();
  });
  let number = 0;
  for await (const line of reader) {
    number++;
    if (line.trim() === "") continue;
    try {
      yield parseLine(line);
    } catch (error) {
      yield { where: `line ${number}`, error };
    }
  }
  // Ctrl-C also ends the other command of a pipe, so the input may end before our signal arrives.
  if (file === "-") await wait(100);
  if (failure !== undefined) throw new Failure(`Cannot read ${file}: ${sentence(failure)}`);
}

function parseLine(line: string): Found {
  const value: unknown = JSON.parse(line);
  if (typeof value !== "object" || value === null) throw new TypeError("not a JSON object");
  const { key, session, expires, version, ...others } = value as Record<string, unknown>;
  const [other] = Object.keys(others);
  if (typeof key !== "string") throw new TypeError('"key" is not a string');
  if (session === undefined || session === null) throw new TypeError('"session" is missing');
  if (expires !== undefined && !Number.isSafeInteger(expires)) {
    throw new TypeError('"expires" is not a whole number of ms since 1970');
  }
  if (version !== undefined && !storeRules.version.accepts!(version as never)) {
    throw new TypeError(`"version" is not ${storeRules.version.expected}`);
  }
  if (other !== undefined) {
    const known = '"key", "session", "expires" and "version"';
    throw new TypeError(`unknown field "${other}"; the fields are ${known}`);
  }
  return {
    key,
    value: session,
    expires: expires as number | undefined,
    version: version as number | undefined,
  };
}

/** The file of lowdb: `{ "sessions": [{ "id": …, "data": … }] }`. */
async function* readLowdb(file: string): AsyncGenerator<Found> {
  const { sessions } = await readJson(file) as { sessions?: unknown };
  if (!Array.isArray(sessions)) {
    throw new Failure(
      `${file} has no array "sessions", so telegraf-session-local did not write it`,
    );
  }
  for (const [i, session] of sessions.entries()) {
    const { id, data } = Object(session);
    if (typeof id === "string" && data !== undefined) yield { key: id, value: data };
    else yield { where: `session ${i + 1}`, error: new TypeError('"id" or "data" is missing') };
  }
}

/** One file per session, in a subfolder that is named after the end of its key. */
async function* readFolder(path: string): AsyncGenerator<Found> {
  const folders = await readdir(path).catch((error) => {
    throw new Failure(`Cannot read ${path}: ${sentence(error)}`);
  });
  for (const folder of folders) {
    const files = await readdir(join(path, folder)).catch(() => []);
    for (const file of files.filter((name) => name.endsWith(".json"))) {
      try {
        yield {
          key: file.slice(0, -".json".length),
          value: await readJson(join(path, folder, file)),
        };
      } catch (error) {
        yield { where: join(folder, file), error };
      }
    }
  }
}

async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new Failure(`Cannot read ${file}: ${sentence(error)}`);
  }
}

/**
 * JSON objects under keys without a prefix, unless the URL has one.
 *
 * @param pattern matches the keys that the package writes. Other programs may store JSON in the same
 * database, for example a job queue.
 * @param example a key that matches, for messages.
 */
function readRedis(pattern: RegExp, example: string): Format["read"] {
  return async function* (url, context, all) {
    const location = locateKind(url, "redis");
    const parameters = { prefix: "", ...location.parameters };
    await using database = await Database.open({ ...location, parameters }, context);
    let ignored = 0;
    for await (const { entries, read } of sourceOf(database).batches()) {
      const keys = entries.map(({ key }) => key)
        .filter((key) => !key.startsWith(defaults.prefix) && (all || pattern.test(key)));
      ignored += entries.length;
      for (const entry of await read(keys)) {
        const value = parseObject(entry.value.content as string);
        if (value === undefined) continue;
        ignored--;
        yield { ...entry, value };
      }
    }
    const imported = all
      ? `Only JSON objects are imported, except under keys that begin with "${defaults.prefix}".`
      : `Only JSON objects under keys like ${example} are imported. Use --all-keys to import JSON ` +
        "objects under any key. Add ?prefix= to the URL if all keys begin with a prefix.";
    if (ignored > 0) yield { ignored, thing: "key", imported };
  };
}

/** Parses JSON; `undefined` if it is not an object. */
function parseObject(json: string): object | undefined {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Documents `{ key, <field> }`. */
async function* readMongo(url: string, context: Context, field: string): AsyncGenerator<Found> {
  const { url: server, parameters } = locateKind(url, "mongodb");
  const { MongoClient } = await loadDriver("mongodb", "MongoDB", context);
  const client = new MongoClient(server, { serverSelectionTimeoutMS: context.timeout });
  try {
    const collection = client.db().collection(parameters.collection ?? "sessions");
    let ignored = 0;
    for await (const { key, [field]: value } of collection.find()) {
      if (key !== undefined && value != null) yield { key: String(key), value };
      else ignored++;
    }
    const imported = `Only documents with "key" and "${field}" are imported.`;
    if (ignored > 0) yield { ignored, thing: "document", imported };
  } finally {
    await client.close();
  }
}

/** Rows `(key, value)`, in which `value` is JSON text. */
async function* readPostgres(url: string, context: Context): AsyncGenerator<Found> {
  const { url: connectionString, parameters } = locateKind(url, "pg");
  const { default: { Client } } = await loadDriver("pg", "PostgreSQL", context);
  const client = new Client({ connectionString, connectionTimeoutMillis: context.timeout });
  const names = [parameters.schema, parameters.table ?? "sessions"].filter((name) =>
    name !== undefined
  );
  const table = names.map((name) => `"${name.replaceAll('"', '""')}"`).join(".");
  try {
    await client.connect();
    for (let last = "", more = true; more;) {
      const text = `SELECT key, value FROM ${table} WHERE key > $1 ORDER BY key LIMIT 500`;
      const { rows } = await client.query(text, [last]);
      for (const { key, value } of rows) {
        last = key;
        try {
          if (value !== null) yield { key, value: JSON.parse(value) };
        } catch (error) {
          yield { where: `session ${JSON.stringify(key)}`, error };
        }
      }
      more = rows.length === 500;
    }
  } finally {
    await client.end();
  }
}

/** Unwraps sessions of grammY's `enhanceStorage`, `{ __d, e?, v? }`; `e` is the expiry time. */
function unwrap(read: Format["read"]): Format["read"] {
  return async function* (source, context, all) {
    for await (const found of read(source, context, all)) {
      if ("error" in found || "ignored" in found || !("__d" in Object(found.value))) {
        yield found;
        continue;
      }
      const { __d, e } = found.value as { __d: unknown; e?: number };
      if (__d != null) yield { ...found, value: __d, expires: e ?? found.expires };
    }
  };
}

function locateKind(url: string, kind: Kind): Location {
  const location = locate(url);
  if (location.kind === kind) return location;
  const expected = titleOf(kind);
  throw new Failure(
    `This --format reads from ${expected}, but SOURCE is ${location.title}`,
    exit.usage,
  );
}

// deno-lint-ignore no-explicit-any
async function loadDriver(driver: "mongodb" | "pg", name: string, context: Context): Promise<any> {
  try {
    return await context.drivers[driver]();
  } catch (error) {
    throw isMissing(error, driver) ? missingDriver(name, driver, context) : error;
  }
}

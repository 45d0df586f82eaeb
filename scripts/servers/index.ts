/**
 * Starts a real server per backend, for tests and benchmarks. If `TEST_*_URL` is set, uses that
 * server. Otherwise starts a temporary one with the first of these that works: the program of
 * `TEST_*_PROGRAM`, a program of this machine, a program from npm or built with Go, a program from
 * `apt-get`, Docker Compose.
 *
 * Runs on Deno and on Node 24.
 *
 * @module
 */
import { constants } from "node:os";
import process from "node:process";
import { compose, hasCompose } from "./compose.ts";
import { documentdb } from "./documentdb.ts";
import { aptInstall } from "./install.ts";
import { launch } from "./launch.ts";
import { mongodb } from "./mongodb.ts";
import { mysql } from "./mysql.ts";
import { postgres } from "./postgres.ts";
import {
  type Backend,
  backends,
  type Program,
  type Recipe,
  type Scope,
  type Server,
} from "./recipe.ts";
import { redis } from "./redis.ts";

export { type Backend, backends, type Recipe, type Server };

export interface ServersOptions<B extends Backend = Backend> {
  /** @default all four */
  backends?: readonly B[];
  /** Whether to start DocumentDB too, if this machine can have it. @default {false} */
  documentdb?: boolean;
  /** Other recipes than the default ones, for other engines. */
  recipes?: Partial<Record<Backend, Recipe>> | undefined;
  /** Whether `apt-get` may install missing programs. @default {true} */
  install?: boolean;
  /** Whether to ignore `TEST_*_URL`, because a test stops its servers. @default {false} */
  own?: boolean;
  /** Called with one line before each step that takes long or changes the machine. */
  log?: (line: string) => void;
}

export interface Servers<B extends Backend = Backend> extends AsyncDisposable {
  readonly servers: Record<B, Server>;
  readonly urls: Record<B, string>;
  readonly documentdb: Server | undefined;
  /** One line per server. */
  describe(): string;
  /** Registers a cleanup that runs before the servers stop, also after a signal. */
  defer(cleanup: () => Promise<unknown>): void;
  /** Stops the temporary servers and removes their data. */
  stop(): Promise<void>;
}

const defaults: Record<Backend, Recipe> = { redis, mongodb, postgres, mysql };

/**
 * Starts the servers, all at the same time.
 *
 * `stop()` and the end of `await using` stop them. SIGINT, SIGTERM and SIGHUP stop them and then
 * end this process.
 *
 * @throws {Error} if a server cannot be started, with one line for each; the others are stopped
 *
 * @example
 * ```ts
 * await using servers = await startServers({ backends: ["redis"] });
 * console.log(servers.urls.redis);
 * ```
 */
export async function startServers<B extends Backend = Backend>(
  options: ServersOptions<B> = {},
): Promise<Servers<B>> {
  const names = options.backends ?? backends as readonly Backend[] as readonly B[];
  const aborter = new AbortController();
  const scope: Scope = {
    install: options.install ?? true,
    own: options.own ?? false,
    log: (line) => aborter.signal.aborted || options.log?.(line),
    signal: aborter.signal,
    cleanups: [],
  };
  const recipes = { ...defaults, ...options.recipes };
  if (process.env.TEST_MONGODB_KIND === "documentdb") recipes.mongodb = documentdb;
  const starting = Promise.allSettled(names.map((name) => startServer(scope, recipes[name])));
  const startingDocumentDB = options.documentdb ? startDocumentDB(scope) : undefined;
  const deferred: (() => Promise<unknown>)[] = [];
  let stopping: Promise<void> | undefined;
  const stop = () =>
    stopping ??= (async () => {
      aborter.abort();
      // A server that is still starting may add cleanups.
      await Promise.all([starting, startingDocumentDB]);
      await Promise.allSettled(deferred.map((cleanup) => cleanup()));
      await Promise.allSettled(scope.cleanups.map((cleanup) => cleanup()));
      for (const signal of endSignals) process.off(signal, onSignal);
    })();
  const onSignal = async (signal: NodeJS.Signals) => {
    await stop();
    process.exit(128 + constants.signals[signal]);
  };
  for (const signal of endSignals) process.on(signal, onSignal);

  const results = await starting;
  const extra = await startingDocumentDB;
  const errors = results.flatMap((result) => result.status === "rejected" ? [result.reason] : []);
  if (errors.length > 0 || stopping) {
    await stop();
    throw new Error(errors.map(({ message }) => message).join("\n"), { cause: errors[0] });
  }
  const servers = Object.fromEntries(
    results.map((result, i) => [names[i]!, (result as PromiseFulfilledResult<Server>).value]),
  ) as Record<B, Server>;
  return {
    servers,
    urls: Object.fromEntries(names.map((name) => [name, servers[name].url])) as Record<B, string>,
    documentdb: extra,
    describe: () => {
      const all = names.map((name) => [recipes[name], servers[name]] as const);
      if (extra) all.push([documentdb, extra]);
      return all.map(([{ name }, { product, version, source }]) =>
        `${name.padEnd(12)}${product} ${version} (${source})`
      ).join("\n");
    },
    defer: (cleanup) => void deferred.push(cleanup),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

const endSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Without it only the tests that need it are skipped. */
async function startDocumentDB(scope: Scope): Promise<Server | undefined> {
  try {
    return await startServer(scope, documentdb);
  } catch (error) {
    scope.log((error as Error).message);
    return undefined;
  }
}

async function startServer(scope: Scope, recipe: Recipe): Promise<Server> {
  const variable = `TEST_${recipe.backend.toUpperCase()}_URL`;
  const url = scope.own ? undefined : process.env[variable];
  try {
    if (url) {
      const [product, version] = await recipe.describe(url);
      const nothing = () => Promise.resolve();
      return { url, product, version, source: variable, stop: nothing, start: nothing };
    }
    const program = await findProgram(scope, recipe);
    if (program) return await launch(scope, recipe, program);
    const hasImage = Object.values(defaults).includes(recipe);
    if (hasImage && await hasCompose(scope)) return await compose(scope, recipe);
  } catch (error) {
    const name = url ? variable : recipe.name;
    throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
  }
  throw new Error(`${recipe.name} is missing: ${recipe.hint}, start Docker, or set ${variable}`);
}

/** The program of a server, on this machine or downloaded; undefined if it cannot be had. */
export async function findProgram(scope: Scope, recipe: Recipe): Promise<Program | undefined> {
  const variable = `TEST_${recipe.backend.toUpperCase()}_PROGRAM`;
  const find = () => {
    const command = process.env[variable] ?? recipe.find();
    return command ? { command, source: command } : undefined;
  };
  return find() ?? await recipe.download?.(scope) ??
    (await aptInstall(scope, recipe.packages) ? find() : undefined);
}

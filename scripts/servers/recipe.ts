/** The form of the server files, so that all of them have the same structure. */

export const backends = ["redis", "mongodb", "postgres", "mysql"] as const;
export type Backend = typeof backends[number];

/** How to get and run one database: each server file exports one recipe. */
export interface Recipe {
  readonly backend: Backend | "documentdb" | "libsql";
  /** The name of the database, to be printed. */
  readonly name: string;
  /** Debian packages that contain the program. */
  readonly packages: readonly string[];
  /** What a user can do when the program is missing. */
  readonly hint: string;
  /** Whether the server refuses to run as root. @default {false} */
  readonly refusesRoot?: boolean;
  /** @default {"SIGTERM"} */
  readonly stopSignal?: NodeJS.Signals;
  /** Finds the program on this machine. */
  find(): string | undefined;
  /** Downloads or builds the program; undefined if this machine cannot do it. */
  download?(scope: Scope): Promise<Program | undefined>;
  /** Prepares the data folder and returns the command line that starts the server. */
  startCommand(launch: Launch): Promise<string[]>;
  /** The URL of a server on this port. */
  url(port: number): string;
  /** Connects to the server and returns its product and version. */
  describe(url: string): Promise<[product: string, version: string]>;
}

/** Shared by all servers of one `startServers()` call. */
export interface Scope {
  /** Whether `apt-get` may install missing programs. */
  readonly install: boolean;
  /** Whether `TEST_*_URL` is ignored. */
  readonly own: boolean;
  readonly log: (line: string) => unknown;
  /** Aborts when the servers are stopped. */
  readonly signal: AbortSignal;
  /** Run when the servers are stopped. */
  readonly cleanups: (() => Promise<unknown>)[];
}

export interface Program {
  readonly command: string;
  /** Where the program comes from, to be printed. */
  readonly source: string;
}

export interface User {
  readonly uid: number;
  readonly gid: number;
}

/** What a recipe gets to prepare its server. */
export interface Launch {
  readonly command: string;
  /** A new temporary folder. */
  readonly folder: string;
  readonly port: number;
  /** The user that runs the server, if it is not the user of this process. */
  readonly user?: User;
  /** Runs another command in the folder, as the same user. */
  run(command: string, args: string[]): Promise<string>;
}

/** A running server. */
export interface Server {
  readonly url: string;
  /** The server's own name: Redis, Valkey, MongoDB, FerretDB, PostgreSQL, MySQL or MariaDB. */
  readonly product: string;
  readonly version: string;
  /** Where the server comes from: a path, a package, or a variable. */
  readonly source: string;
  /** The program of a temporary server that runs without Docker. */
  readonly command?: string;
  /** Process id of a temporary server that runs without Docker. */
  readonly pid?: number;
  /** Stops the server and keeps its data; does nothing to a server of `TEST_*_URL`. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Starts the server again on the same port. */
  start(): Promise<void>;
}

/** The account and database of the servers that have accounts. */
export const username = "test";
export const password = "s3cret";
export const database = "test";

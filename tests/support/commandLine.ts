/** Runs the command line as a user does, and prepares places with sessions for its tests. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { MongoClient } from "mongodb";
import { createConnection } from "mysql2/promise";
import pg from "pg";
import { createClient } from "redis";
import { DenoKV } from "../../denokv.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import type { Backend, Entry, Held, Leases } from "../../src/backend.ts";
import type { Context } from "../../src/cli/context.ts";
import type { StoreOptions } from "../../src/options.ts";
import { backendOf } from "../../src/store/factory.ts";
import type { Store } from "../../src/store/store.ts";
import { SQLite } from "../../sqlite.ts";
import { entry } from "./process.ts";
import { place, serverUrl } from "./servers.ts";
import { withoutNoise } from "./process.ts";

/** The result of a run. */
export interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Starts the command line. */
export function start(...args: string[]) {
  return launch(args, {});
}

function launch(args: string[], env: Record<string, string>) {
  const { bun, deno } = process.versions as { bun?: string; deno?: string };
  const program = fileURLToPath(entry("cli", import.meta.url));
  const flags = deno && !bun ? ["run", "-A", "--no-check", "--quiet"] : [];
  return spawn(process.execPath, [...flags, program, ...args], {
    stdio: "pipe",
    env: { ...process.env, NO_COLOR: "1", NODE_NO_WARNINGS: "1", ...env },
  });
}

/** Waits for the end of a run. */
export async function end(child: ReturnType<typeof start>): Promise<Run> {
  const closed = once(child, "close");
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const [code, signal] = await closed;
  // Deno reports this exit code as if the signal had ended the process.
  return { code: signal === "SIGINT" ? 130 : code, stdout, stderr: withoutNoise(stderr) };
}

/** Runs the command line to its end. */
export function cli(...args: string[]): Promise<Run> {
  return pipe("", ...args);
}

/** The same, with text on standard input. */
export function pipe(input: string, ...args: string[]): Promise<Run> {
  const child = start(...args);
  child.stdin.end(input);
  return end(child);
}

/** The same, with keys of encrypted sessions in the environment, and with text on standard input. */
export function withKeys(keys: string[], args: string[], input = ""): Promise<Run> {
  const child = launch(args, { TELEGRAF_SESSION_KEYS: keys.join(",") });
  child.stdin.end(input);
  return end(child);
}

/** The context of a command that opens only SQLite. */
export function sqliteContext(own: Partial<Context>): Context {
  const none = () => Promise.reject(new Error("not SQLite"));
  return {
    factories: {
      redis: none,
      mongodb: none,
      sqlite: () => Promise.resolve(SQLite),
      pg: none,
      mysql: none,
      denokv: none,
    },
    drivers: { mongodb: none, pg: none, mysql: none },
    load: none,
    stdout: { write() {} },
    stderr: { write() {} },
    stdin: Readable.from([]),
    signal: new AbortController().signal,
    timeout: 10_000,
    ...own,
  };
}

/** Stored values and expiry times, by key. */
export type Raw = Map<string, { value: unknown; expires?: number }>;

/** A table, collection, prefix or file that only one test uses. */
export interface Place extends AsyncDisposable {
  /** The URL for the command line. */
  readonly url: string;
  // deno-lint-ignore no-explicit-any
  store(options?: StoreOptions): Store<any>;
  /** Stores sessions as the store does, in batches, because FerretDB is slow with single sessions. */
  fill(sessions: Iterable<[key: string, session: unknown, expires?: number]>): Promise<void>;
  /** Stores a value without encoding it. */
  write(key: string, value: string): Promise<void>;
  /** Everything that is stored. */
  raw(): Promise<Raw>;
  /** The leases on some keys that are held, as the command line finds them. */
  find(...keys: string[]): Promise<Held[]>;
}

/** A database. */
export interface Kind {
  readonly name: string;
  /** Whether it stores sessions as text. */
  readonly text: boolean;
  /** Whether expired sessions stay until `prune` deletes them. */
  readonly prunes: boolean;
  readonly place: () => Place;
}

function made<O>(
  url: string,
  // deno-lint-ignore no-explicit-any
  factory: any,
  options: O,
  drop: () => Promise<unknown>,
): Place {
  const own = { timeout: 60_000, ...options };
  return {
    url,
    store: (more: StoreOptions = {}) => factory({ ...own, ...more }),
    fill: (sessions) => {
      const backend = backendOf(factory, own);
      const entries = Array.from(sessions, ([key, session, expires]) => {
        return { key, value: backend.codec.encode(session), expires };
      });
      return write(backend, entries);
    },
    write: (key, value) => write(backendOf(factory, own), [{ key, value }]),
    raw: () => rawOf(backendOf(factory, own)),
    find: (...keys) => find(backendOf(factory, own), keys),
    async [Symbol.asyncDispose]() {
      await drop();
    },
  };
}

async function write(backend: Backend<unknown>, entries: Entry<unknown>[]): Promise<void> {
  const { signal } = new AbortController();
  try {
    await backend.open({ signal, expiring: false, leasing: false, report() {} });
    for (let i = 0; i < entries.length; i += 64) {
      await backend.write(entries.slice(i, i + 64), signal, true);
    }
  } finally {
    await backend.close();
  }
}

async function find(backend: Backend<unknown>, keys: string[]): Promise<Held[]> {
  const { signal } = new AbortController();
  try {
    await backend.open({ signal, expiring: true, leasing: false, report() {}, plan() {} });
    return await (backend.leases as Leases<unknown>).find(keys, signal);
  } finally {
    await backend.close();
  }
}

async function rawOf(backend: Backend<unknown>): Promise<Raw> {
  const { signal } = new AbortController();
  const raw: Raw = new Map();
  try {
    await backend.open({ signal, expiring: true, leasing: false, report() {}, plan() {} });
    let start: string | undefined;
    do {
      const page = await backend.page(start, 500, signal);
      const keys = [...new Set(page.entries.map(({ key }) => key))];
      const entries = keys.length === 0 ? [] : await backend.read(keys, signal);
      for (const { key, value, expires } of entries) raw.set(key, { value, expires });
      start = page.next;
    } while (start !== undefined);
    return raw;
  } finally {
    await backend.close();
  }
}

export const kinds: Kind[] = [
  {
    name: "Redis",
    text: true,
    prunes: false,
    place() {
      const url = serverUrl("redis");
      const prefix = `${place()}:`;
      return made(`${url}?prefix=${prefix}`, Redis, { url, prefix }, async () => {
        const client = await createClient({ url }).connect();
        for await (const keys of client.scanIterator({ MATCH: `${prefix}*`, COUNT: 1_000 })) {
          if (keys.length > 0) await client.del(keys);
        }
        client.destroy();
      });
    },
  },
  {
    name: "MongoDB",
    text: false,
    prunes: true,
    place() {
      const url = serverUrl("mongodb");
      const collection = place();
      const own = `${url}${url.includes("?") ? "&" : "?"}collection=${collection}`;
      return made(own, Mongo, { url, collection }, async () => {
        const client = new MongoClient(url);
        await client.db().collection(collection).drop().catch(() => {});
        await client.close();
      });
    },
  },
  {
    name: "SQLite",
    text: true,
    prunes: true,
    place() {
      const filename = join(tmpdir(), `${place()}.sqlite`);
      return made(filename, SQLite, { filename }, () => {
        for (const end of ["", "-wal", "-shm"]) rmSync(filename + end, { force: true });
        return Promise.resolve();
      });
    },
  },
  {
    name: "PostgreSQL",
    text: true,
    prunes: true,
    place() {
      const url = serverUrl("postgres");
      const table = place();
      return made(`${url}?table=${table}`, Postgres, { url, table }, async () => {
        const client = new pg.Client(url);
        await client.connect();
        await client.query(`DROP TABLE IF EXISTS "${table}"`);
        await client.end();
      });
    },
  },
  {
    name: "MySQL",
    text: true,
    prunes: true,
    place() {
      const url = serverUrl("mysql");
      const table = place();
      return made(`${url}?table=${table}`, MySQL, { url, table }, async () => {
        const connection = await createConnection(url);
        await connection.query(`DROP TABLE IF EXISTS \`${table}\``);
        await connection.end();
      });
    },
  },
  {
    name: "Deno KV",
    text: true,
    prunes: false,
    place() {
      const path = join(tmpdir(), `${place()}.kv`);
      const prefix = place();
      return made(`denokv:${path}?prefix=${prefix}`, DenoKV, { path, prefix }, () => {
        for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
        return Promise.resolve();
      });
    },
  },
];

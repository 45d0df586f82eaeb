/** Tests that only SQLite needs. */

import assert from "node:assert/strict";
import BetterSqlite3 from "better-sqlite3";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { SQLite, type SQLiteOptions } from "../../sqlite.ts";
import { backendOf } from "../../src/store/factory.ts";
import { statements } from "../../src/sql/statements.ts";
import { dialect } from "../../src/sqlite/dialect.ts";
import { enableWriteAheadLog } from "../../src/sqlite/driver.ts";
import { withoutDriver } from "../support/withoutDriver.ts";
import { entry, run } from "../support/process.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  workerOf,
} from "../support/conformance.ts";
import { requireVersion } from "../support/packages.ts";
import { place } from "../support/servers.ts";

/** Undefined on Node.js 20. */
const node = process.getBuiltinModule("node:sqlite");
// deno-lint-ignore no-explicit-any
const bun = process.getBuiltinModule("bun:sqlite") as any;

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-sqlite-"));
after(() => rmSync(folder, { recursive: true }));

/** Returns the path of a file in the folder. */
function file(name = place()): string {
  return join(folder, `${name}.sqlite`);
}

// deno-lint-ignore no-explicit-any
type Open = (filename: string, readonly?: boolean) => any;

/** A function that opens databases, for each driver. */
const kinds: Record<string, { open: Open; skip: string | false }> = {
  "better-sqlite3": {
    open: (filename, readonly = false) => new BetterSqlite3(filename, { readonly }),
    skip: false,
  },
  "node:sqlite": {
    open: (filename, readOnly = false) => new node.DatabaseSync(filename, { readOnly }),
    skip: !node && "node:sqlite came with Node.js 22",
  },
  "bun:sqlite": {
    open: (filename, readonly) => new bun.Database(filename, readonly ? { readonly } : undefined),
    skip: !bun && "only Bun has bun:sqlite",
  },
};

/**
 * Returns rows of a file, as another connection sees them. The connection must use the driver that
 * has the file open, because two copies of SQLite in one process break each other's locks.
 */
function rows(filename: string, sql: string, open = kinds["better-sqlite3"]!.open): unknown[][] {
  const database = open(filename);
  const statement = database.prepare(sql);
  try {
    return statement.all().map((row: object) => Object.values(row));
  } finally {
    statement.finalize?.(); // only in Bun: without it the file stays open
    database.close();
  }
}

function execute(filename: string, sql: string, open = kinds["better-sqlite3"]!.open): void {
  const database = open(filename);
  database.exec(sql);
  database.close();
}

/** Returns the table's columns with their types, and the number of its unique indexes. */
function shape(filename: string, open: Open): { columns: unknown; unique: number } {
  const columns = rows(
    filename,
    "SELECT name, lower(type) AS type FROM pragma_table_info('telegraf-sessions')",
    open,
  );
  const indexes = "SELECT 1 FROM pragma_index_list('telegraf-sessions') WHERE \"unique\"";
  return {
    columns: Object.fromEntries(columns),
    unique: rows(filename, indexes, open).length,
  };
}

const table = "telegraf-sessions";
const upstream = requireVersion("@telegraf/session", "2.0.0-beta.7", "/sqlite");

/** Creates a table without a unique key, as versions up to 2.0.0-beta.4 did, with duplicates. */
const keyless = `CREATE TABLE "${table}" (key varchar(32), session text);
  INSERT INTO "${table}" VALUES
  ('1:1', '1'), ('1:2', '1'), ('1:1', '2'), (NULL, '1'), ('1:1', '3'), (NULL, '2');`;

/** A driver for files: better-sqlite3, or the runtime's own if that one is not installed. */
interface Opener {
  readonly name: string;
  readonly open: Open;
  readonly skip: string | false;
  factory: typeof SQLite;
  /** The URL of the entry's module. */
  url: string;
}

const builtIn = bun ? "bun:sqlite" : "node:sqlite";
const openers: Opener[] = [
  {
    name: "better-sqlite3",
    ...kinds["better-sqlite3"]!,
    factory: SQLite,
    url: entry("sqlite", import.meta.url),
  },
  { name: builtIn, ...kinds[builtIn]!, factory: SQLite, url: "" },
];

for (const opener of openers) {
  describe(`SQLite files with ${opener.name}`, { skip: opener.skip }, () => {
    before(async () => {
      if (opener.url === "") Object.assign(opener, await withoutDriver(folder, import.meta.url));
    });

    const harness: Harness = {
      name: `SQLite with ${opener.name}`,
      store: (name, options) => opener.factory({ filename: file(name), ...options }),
      backend(name, options) {
        if (opener.factory === SQLite) {
          return backendOf(SQLite, { filename: file(name), ...options });
        }
        // This factory is of another copy of the package.
        const database = opener.open(file(name));
        return { ...backendOf(SQLite, { database, ...options }), close: () => database.close() };
      },
      drop: (name) => Promise.resolve(rmSync(file(name), { force: true })),
      ...opener === openers[0] &&
        { worker: (name) => workerOf("sqlite", "SQLite", { filename: file(name) }) },
      corrupt(name, key) {
        const sql = `INSERT INTO "${table}" (key, session) VALUES ('${key}', '{"a"')`;
        execute(file(name), sql, opener.open);
        return Promise.resolve();
      },
      async writeOld(name, key, session) {
        const database = new BetterSqlite3(file(name));
        try {
          await upstream.SQLite({ database }).set(key, session);
        } finally {
          database.close();
        }
      },
    };

    conformance(harness);
    if (opener === openers[0]) encryptedConformance(harness);

    testFiles(opener);
  });
}

/** Tests of a store on files, the same for each driver. */
function testFiles(opener: Opener): void {
  const { name: by, open } = opener;
  const SQLite = (options: SQLiteOptions) => opener.factory(options);

  describe(`SQLite tables with ${by}`, () => {
    it(`SQLite with ${by} finds a prefix by the index`, async () => {
      const filename = file();
      await using store = SQLite({ filename });
      await store.ready();
      const columns = new Map([["key", "text"], ["session", "text"]]);
      const shape = { columns, unique: true, indexed: false };
      const { page } = statements(dialect(table), shape);
      for (const start of [undefined, "1:1"]) {
        const { text, key } = page(start, 10, "1:");
        const plan = rows(filename, `EXPLAIN QUERY PLAN ${text.replace("?", `'${key}'`)}`, open);
        assert.match(plan.join("; "), /SEARCH .*\(key>\?\)/);
        assert.doesNotMatch(plan.join("; "), /TEMP B-TREE/);
      }
    });

    it(`SQLite with ${by} reads sessions of 2.0.0-beta, and upgrades its table`, async () => {
      const errors: unknown[] = [];
      const filename = file();
      const { SQLite: Upstream } = requireVersion("@telegraf/session", "2.0.0-beta.7", "/sqlite");
      const database = new BetterSqlite3(filename);
      const old = Upstream({ database });
      const sessions: Record<string, unknown> = {
        "1:1": { count: 1 },
        "-1001234567890:1234567890": { text: "🔑 é" },
        ["é".repeat(100)]: { long: "key" },
        "large": { text: "é".repeat(100_000) },
        "Case": 1,
        "case": 2,
        "case ": 3,
        "cäse": 4,
      };
      for (const [key, session] of Object.entries(sessions)) await old.set(key, session);
      execute(filename, `INSERT INTO "${table}" VALUES ('null', NULL), ('empty', '')`);
      const beside = by === "better-sqlite3"; // the driver of 2.0.0-beta
      if (!beside) database.close();

      await using store = SQLite({ filename, onError: (error) => errors.push(error) });
      for (const [key, session] of Object.entries(sessions)) {
        assert.deepEqual(await store.get(key), session);
      }
      assert.equal(await store.get("null"), undefined);
      assert.equal(await store.get("empty"), undefined);
      assert.deepEqual(shape(filename, open), {
        columns: { key: "varchar(32)", session: "text", expires: "integer" },
        unique: 1,
      });
      if (beside) {
        await old.set("1:1", { count: 2 });
        assert.deepEqual(await store.get("1:1"), { count: 2 });
        await store.set("1:1", { count: 3 });
        assert.deepEqual(await old.get("1:1"), { count: 3 });
      }
      const count = await store.size();
      await using expiring = SQLite({ filename, ttl: 1 });
      await expiring.set("1:1", { count: 4 });
      await wait(5);
      assert.equal(await store.get("1:1"), undefined);
      assert.equal(await expiring.prune(), 1);
      assert.equal(await store.size(), count - 1);
      database.close();
      assert.deepEqual(errors, []);
    });

    it(`SQLite with ${by} keeps the newest duplicate of each key, and all other rows`, async () => {
      const errors: unknown[] = [];
      const filename = file();
      execute(filename, keyless, open);
      await using store = SQLite({ filename, onError: (error) => errors.push(error) });
      assert.equal(await store.get("1:1"), 3);
      assert.equal(await store.get("1:2"), 1);
      await store.set("1:1", 4);
      assert.equal(await store.get("1:1"), 4);
      const left = rows(
        filename,
        `SELECT key, session FROM "${table}" ORDER BY key, session`,
        open,
      );
      assert.deepEqual(left, [[null, "1"], [null, "2"], ["1:1", "4"], ["1:2", "1"]]);
      assert.equal(shape(filename, open).unique, 1);
      assert.deepEqual(errors, []);
    });

    it(`SQLite with ${by} opens new and old files from 12 processes at the same time`, async () => {
      const fresh = Array.from({ length: 15 }, () => file());
      const old = Array.from({ length: 5 }, () => file());
      for (const filename of old) execute(filename, keyless, open);
      const errors = await coldStart({
        module: opener.url,
        factory: "SQLite",
        options: {},
        place: "filename",
      }, [...fresh, ...old]);
      assert.deepEqual(errors, []);
      for (const filename of [...fresh, ...old]) {
        assert.equal(shape(filename, open).unique, 1);
        const own = rows(filename, `SELECT 1 FROM "${table}" WHERE key LIKE 'process:%'`, open);
        assert.equal(own.length, processes);
      }
    });

    it(`SQLite with ${by} accepts any table name and quotes it`, async () => {
      const filename = file();
      for (const name of ['"; DROP TABLE x; --', "Ünï.côde \\ '?1'", "é".repeat(500)]) {
        await using store = SQLite({ filename, table: name });
        await store.set("k", { name });
        assert.deepEqual(await store.get("k"), { name });
      }
      assert.equal(
        rows(filename, "SELECT 1 FROM sqlite_schema WHERE type = 'table'", open).length,
        3,
      );
    });

    it(`SQLite with ${by} keeps a write-ahead log for its own files until it is closed`, async () => {
      const filename = file();
      const store = SQLite({ filename });
      await store.set("k", 1);
      assert.deepEqual(rows(filename, "PRAGMA journal_mode", open), [["wal"]]);
      assert.ok(existsSync(`${filename}-wal`));
      await store.close();
      assert.ok(!existsSync(`${filename}-wal`));
    });
  });

  describe(`SQLite read-only with ${by}`, () => {
    it(`SQLite with ${by} reads a table of the current version, and writes nothing`, async () => {
      const errors: unknown[] = [];
      const filename = file();
      {
        await using store = SQLite({ filename });
        await store.set("k", 1);
      }
      await using store = SQLite({
        filename,
        config: { readonly: true },
        onError: (error) => errors.push(error),
      });
      assert.equal(await store.get("k"), 1);
      await assert.rejects(store.set("k", 2), { name: "StoreError", message: /readonly/ });
      assert.equal(await store.get("k"), 1);
      assert.deepEqual(errors, []);
    });

    it(`SQLite with ${by} works within the limits of an old table, and reports them`, async () => {
      const filename = file();
      execute(
        filename,
        `CREATE TABLE "${table}" (key varchar(32) PRIMARY KEY NOT NULL, session text);
        INSERT INTO "${table}" VALUES ('k', '1')`,
        open,
      );
      const databases = [
        { filename, config: { readonly: true } },
        { database: open(filename, true) },
      ];
      for (const options of databases) {
        const errors: unknown[] = [];
        await using store = SQLite({ ...options, onError: (error) => errors.push(error) });
        assert.equal(await store.get("k"), 1);
        assert.equal(errors.length, 1);
        assert.match(String(errors[0]), /of an older version and cannot be upgraded.*readonly/);
      }
      for (const { database } of databases) database?.close();
    });

    it(`SQLite with ${by} does not open a file without a table, or a table without a key`, async () => {
      const filename = file();
      execute(filename, "CREATE TABLE other (key)", open);
      await using none = SQLite({ filename, config: { readonly: true } });
      await assert.rejects(
        none.get("k"),
        /table "telegraf-sessions" cannot be created: .*readonly/,
      );
      execute(filename, keyless, open);
      await using bad = SQLite({ filename, config: { readonly: true } });
      await assert.rejects(bad.get("k"), /needs a unique key/);
    });
  });

  describe(`SQLite locks with ${by}`, () => {
    it(`SQLite with ${by} waits for another process without blocking the event loop`, async () => {
      const filename = file();
      await using store = SQLite({ filename });
      await store.set("k", 1);
      const other = open(filename);
      other.exec("BEGIN IMMEDIATE");
      let longest = 0;
      let last = performance.now();
      const ticks = setInterval(() => {
        longest = Math.max(longest, performance.now() - last);
        last = performance.now();
      }, 1);
      const writes = [store.set("k", 2), store.set("l", 2)];
      assert.equal(await store.get("k"), 2);
      assert.equal(await store.get("m"), undefined);
      await wait(3000);
      clearInterval(ticks);
      other.exec("COMMIT");
      await Promise.all(writes);
      assert.ok(longest < 2000, `blocked for ${longest} ms`); // a busy machine adds some delay
      assert.deepEqual(rows(filename, `SELECT session FROM "${table}"`, open), [["2"], ["2"]]);
      other.exec("BEGIN IMMEDIATE");
      await using impatient = SQLite({ filename, timeout: 300 });
      await assert.rejects(impatient.set("k", 3), { name: "TimeoutError", message: /locked/ });
      other.exec("COMMIT");
      other.close();
      await impatient.set("k", 4);
      assert.equal(await store.get("k"), 4);
    });

    it(`SQLite with ${by} opens as soon as another process releases its lock`, async () => {
      const filename = file();
      const other = open(filename);
      other.exec("CREATE TABLE other (x); BEGIN EXCLUSIVE");
      await using store = SQLite({ filename });
      const write = store.set("k", 1);
      await wait(300);
      other.exec("COMMIT");
      other.close();
      await write;
      assert.equal(await store.get("k"), 1);
    });
  });
}

for (const [kind, { open, skip }] of Object.entries(kinds)) {
  describe(`SQLite databases of ${kind}`, { skip }, () => {
    const opened: ReturnType<Open>[] = [];
    after(() => opened.forEach((database) => database.close()));

    conformance({
      name: `SQLite on a database of ${kind}`,
      store(name, options) {
        const database = open(file(name));
        opened.push(database);
        return SQLite({ database, ...options });
      },
      backend(name, options) {
        const database = open(file(name));
        return { ...backendOf(SQLite, { database, ...options }), close: () => database.close() };
      },
      drop: (name) => Promise.resolve(rmSync(file(name), { force: true })),
      updates: 250,
      corrupt(name, key) {
        const sql = `INSERT INTO "${table}" (key, session) VALUES ('${key}', '{"a"')`;
        execute(file(name), sql, open);
        return Promise.resolve();
      },
    });

    it(`SQLite does not close a database of ${kind} or change its settings`, async () => {
      const filename = file();
      const database = open(filename);
      database.exec("PRAGMA synchronous = EXTRA");
      const store = SQLite({ database });
      await store.set("k", { a: "🔑" });
      await Promise.all(["a", "b", "c"].map((key) => store.set(key, key)));
      assert.deepEqual(await store.get("k"), { a: "🔑" });
      await Promise.all(["a", "b"].map((key) => store.delete(key)));
      assert.deepEqual(await Promise.all(["a", "c"].map((key) => store.get(key))), [
        undefined,
        "c",
      ]);
      await store.close();
      const get = (sql: string) => Object.values(database.prepare(sql).get() as object)[0];
      assert.equal(get(`SELECT count(*) FROM "${table}"`), 2);
      assert.equal(get("PRAGMA journal_mode"), "delete");
      assert.equal(get("PRAGMA synchronous"), 3);
      database.close();
    });

    it(`SQLite keeps the operations of two stores on one database of ${kind} in order`, async () => {
      const filename = file();
      const database = open(filename);
      database.exec("PRAGMA busy_timeout = 10");
      const [a, b] = [SQLite({ database }), SQLite({ database })];
      await a.set("k", 1);
      await b.ready();
      const other = open(filename);
      other.exec("BEGIN IMMEDIATE"); // writes wait
      const writes = [a.set("k", 2)];
      await wait(20);
      assert.equal(await b.get("k"), 2);
      writes.push(b.set("k", 3));
      assert.equal(await a.get("k"), 3);
      other.exec("COMMIT");
      await Promise.all(writes);
      assert.equal(await a.get("k"), 3);
      for (const store of [a, b]) await store.close();
      for (const connection of [database, other]) connection.close();
    });

    for (const what of ["ABORT", "ROLLBACK"]) {
      it(`SQLite works again after an error with ${what} in a batch with ${kind}`, async () => {
        const filename = file();
        const database = open(filename);
        await using store = SQLite({ database });
        await store.ready();
        database.exec(
          `CREATE TRIGGER no BEFORE INSERT ON "${table}" WHEN new.key = 'b'
          BEGIN SELECT raise(${what}, 'no b'); END`,
        );
        const results = await Promise.allSettled(["a", "b", "c"].map((key) => store.set(key, 1)));
        const outcomes = results.map(({ status }) => status);
        assert.deepEqual(outcomes, ["fulfilled", "rejected", "fulfilled"]); // retried one by one
        await Promise.all(["c", "d"].map((key) => store.set(key, 2)));
        const stored = rows(filename, `SELECT key, session FROM "${table}" ORDER BY key`, open);
        assert.deepEqual(stored, [["a", "1"], ["c", "2"], ["d", "2"]]);
        database.close();
      });
    }
  });
}

describe("SQLite logs", () => {
  it("SQLite keeps its journal mode if a write-ahead log is not possible", {
    skip: !node &&
      "node:sqlite, which supports a VFS without shared memory, came with Node.js 22",
  }, async () => {
    const database = new node.DatabaseSync(`file:${file()}?vfs=unix-dotfile`);
    const errors: unknown[] = [];
    enableWriteAheadLog(database, (error) => errors.push(error));
    assert.equal(errors.length, 1);
    assert.match(
      String(errors[0]),
      /cannot use a write-ahead log for this file, so writes are slower: the journal mode stays "delete"/,
    );
    assert.equal(Object.values(database.prepare("PRAGMA synchronous").get()!)[0], 2); // FULL
    await using store = SQLite({ database });
    await Promise.all(["a", "b"].map((key) => store.set(key, key)));
    assert.equal(await store.get("a"), "a");
    await store.close();
    database.close();
  });

  it("SQLite reports no error for a database in memory", async () => {
    const errors: unknown[] = [];
    await using store = SQLite({ filename: ":memory:", onError: (error) => errors.push(error) });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    assert.deepEqual(errors, []);
  });
});

describe("SQLite transactions", () => {
  it("SQLite writes simultaneous operations in one transaction", async () => {
    const statements: string[] = [];
    const verbose = (sql: unknown) => statements.push(String(sql).split(" ")[0]!);
    const ran = () => statements.splice(0).join(" ");
    const database = new BetterSqlite3(file(), { verbose });
    await using store = SQLite({ database });
    await store.set("a", 1);
    assert.match(ran(), /COMMIT INSERT$/);
    await Promise.all(["a", "b", "c"].map((key) => store.set(key, 2)));
    assert.equal(ran(), "BEGIN INSERT INSERT INSERT COMMIT");
    await Promise.all(["a", "b"].map((key) => store.delete(key)));
    assert.equal(ran(), "BEGIN DELETE DELETE COMMIT");
    database.close();
  });
});

describe("SQLite options", () => {
  const refused = (options: unknown) => () => SQLite(options as SQLiteOptions);

  it("SQLite refuses invalid options", () => {
    assert.throws(refused({ filenam: "x" }), /^TypeError: SQLite: unknown option "filenam"/);
    assert.throws(refused({}), /^TypeError: SQLite: option "filename" or "database" is needed/);
    assert.throws(refused({ filename: 5 }), TypeError);
    assert.throws(refused({ filename: "x", table: "" }), RangeError);
    assert.throws(refused({ filename: "x", table: "a\0b" }), RangeError);
    assert.throws(refused({ filename: "x", config: 5 }), TypeError);
    const database = new BetterSqlite3(":memory:");
    assert.throws(refused({ database, filename: "x" }), /"filename" has no effect/);
    assert.throws(refused({ database, config: {} }), /"config" has no effect/);
    database.close();
  });

  it("SQLite refuses an invalid or asynchronous database", () => {
    const method = () => {};
    const sqlite3 = { prepare: method, exec: method, all: method, each: method, close: method };
    for (const database of [{}, [], new Map(), { prepare: method }, sqlite3]) {
      assert.throws(refused({ database }), {
        name: "TypeError",
        message:
          /^SQLite: option "database" must be a Database of better-sqlite3 or bun:sqlite, or a DatabaseSync of node:sqlite, but is an? /,
      });
    }
  });

  it("SQLite passes config to better-sqlite3", async () => {
    const statements: unknown[] = [];
    const filename = file();
    await using missing = SQLite({ filename, config: { fileMustExist: true } });
    await assert.rejects(missing.get("k"), /unable to open database file/);
    assert.ok(!existsSync(filename));
    await using store = SQLite({
      filename,
      config: { verbose: (sql: unknown) => statements.push(sql) },
    });
    await store.get("k");
    assert.ok(statements.some((sql) => String(sql).includes("CREATE TABLE")));
    await missing.set("k", 1); // the file exists now
    assert.equal(await store.get("k"), 1);
    await using wrong = SQLite({ filename, config: { timeout: -1 } });
    await assert.rejects(wrong.get("k"), { name: "StoreError", message: /"timeout"/ });
  });

  it("SQLite keeps sessions in memory", async () => {
    await using store = SQLite({ filename: ":memory:" });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    await using other = SQLite({ filename: ":memory:" });
    assert.equal(await other.get("k"), undefined);
  });
});

describe("SQLite drivers", () => {
  const skip = kinds[builtIn]!.skip;

  it(`SQLite uses ${builtIn} and reports it if better-sqlite3 cannot load`, { skip }, async () => {
    const broken = 'throw new Error("compiled against a different Node.js version")';
    const { factory } = await withoutDriver(folder, import.meta.url, broken);
    const errors: Error[] = [];
    const onError = (error: unknown) => errors.push(error as Error);
    const filename = file();
    {
      await using store = factory({ filename, onError });
      await store.set("k", 1);
      assert.equal(await store.get("k"), 1);
    }
    assert.equal(errors.length, 1);
    assert.equal(
      errors[0]!.message,
      `falling back to ${builtIn} because better-sqlite3 failed to load: compiled against a different Node.js version`,
    );
    assert.match(String(errors[0]!.cause), /compiled against/);
    await using silent = factory({ filename });
    assert.equal(await silent.get("k"), 1);
  });

  it(
    `SQLite passes the options that ${builtIn} supports, and refuses the others`,
    { skip },
    async () => {
      const { factory } = await withoutDriver(folder, import.meta.url);
      const refused = async (config: SQLiteOptions["config"], message: RegExp) => {
        const filename = file();
        await using store = factory({ filename, config });
        await assert.rejects(store.get("k"), { name: "StoreError", message });
        assert.ok(!existsSync(filename));
      };
      await refused({ fileMustExist: true }, /config\.fileMustExist is .* which is not installed/);
      await refused({ timeout: -1 }, /config\.timeout must be/);
      await refused({ readonly: true }, /unable to open database file/);
      await using store = factory({
        filename: file(),
        config: { timeout: 1000, verbose: null, fileMustExist: false },
      });
      await store.set("k", 1);
      assert.equal(await store.get("k"), 1);
    },
  );

  it("SQLite reports why better-sqlite3 failed to load if an option needs it", async () => {
    const config = { nativeBinding: join(folder, "missing.node") };
    await using store = SQLite({ filename: file(), config });
    const message = skip
      ? /missing\.node/
      : /config\.nativeBinding is .* which failed to load: .*missing\.node/s;
    await assert.rejects(store.get("k"), { name: "StoreError", message });
  });

  it("SQLite reports what to install if there is no driver", {
    skip: !skip && `this runtime has ${builtIn}`,
  }, async () => {
    const { factory } = await withoutDriver(folder, import.meta.url);
    await using store = factory({ filename: file() });
    const message =
      /better-sqlite3 is not installed; install it, or use Node\.js 22\.13, Deno 2\.2/;
    await assert.rejects(store.get("k"), { name: "StoreError", message });
    const broken = 'throw new Error("compiled against a different Node.js version")';
    const { factory: second } = await withoutDriver(folder, import.meta.url, broken);
    await using other = second({ filename: file() });
    await assert.rejects(other.get("k"), { name: "StoreError", message: /compiled against/ });
  });
});

describe("SQLite errors", () => {
  it("SQLite rejects immediately if a file cannot be opened", async () => {
    const text = file();
    writeFileSync(
      text,
      "this is no database, but a text that is long enough to tell it. ".repeat(9),
    );
    for (const filename of [join(folder, "missing", "x.sqlite"), folder, text]) {
      const started = Date.now();
      await using store = SQLite({ filename, timeout: 120_000 });
      await assert.rejects(store.get("k"), { name: "StoreError", operation: "read" });
      assert.ok(Date.now() - started < 60_000); // well before the deadline
    }
  });

  it("SQLite rejects operations after the application closed the database", async () => {
    const database = new BetterSqlite3(":memory:");
    await using store = SQLite({ database });
    await store.set("k", 1);
    database.close();
    await assert.rejects(store.get("k"), { name: "StoreError" });
    await assert.rejects(store.set("k", 1), { name: "StoreError" });
  });

  it("SQLite does not keep the process alive or leave a log after close()", async () => {
    const filename = file();
    const { code, output, duration } = await run(`
      import { SQLite } from "${entry("sqlite", import.meta.url)}";
      const store = SQLite({ filename: ${JSON.stringify(filename)} });
      await Promise.all([store.set("k", 1), store.get("l"), store.set("m", 1)]);
      await store.close();
      console.log("closed");
    `);
    assert.equal(code, 0, output);
    assert.equal(output, "closed\n");
    assert.ok(duration < 60_000, `took ${duration} ms`);
    assert.ok(!existsSync(`${filename}-wal`)); // all data is in the main file
    assert.equal(rows(filename, `SELECT 1 FROM "${table}"`).length, 2);
  });
});

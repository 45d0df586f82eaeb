/**
 * Tests that PostgreSQL and MySQL share beyond conformance: upgrading the tables of 2.0.0-beta,
 * users with few rights, locks, and connections that fail.
 */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { Store, StoreOptions } from "../../mod.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import { run } from "../support/process.ts";
import { Proxy } from "../support/proxy.ts";
import { goesOnAfterCuts, opensOnceThere, urlWith } from "./faults.ts";

/** Options of both stores. */
export interface SQLOptions extends StoreOptions {
  url?: string;
  table?: string;
  pool?: unknown;
}

/** A pool of the driver. */
export interface TestPool {
  readonly pool: unknown;
  /** The number of connections that it has opened. */
  opened(): number;
  end(): unknown;
}

/** Describes a database to the suite. */
export interface SQLHarness {
  /** The database's name. Each test title begins with it. */
  readonly name: string;
  readonly url: string;
  readonly factory: string;
  /** The URL of the entry, for programs. */
  readonly module: string;
  // deno-lint-ignore no-explicit-any
  store(options: SQLOptions): Store<any>;
  /** The name of a new table, which is dropped at the end. */
  table(): string;
  /** Creates tables as beta.1 to beta.4 did, without a key and with duplicates, by title. */
  readonly keyless: Readonly<Record<string, (options: SQLOptions) => Promise<void>>>;
  /** The rows that must remain of such a table, in the order of `contents`. */
  readonly remaining: readonly (readonly [key: string | null, session: string])[];
  /** Keys and sessions of a table, read by its owner. */
  contents(options: SQLOptions): Promise<unknown[][]>;
  /** Fails if the table differs from the ones that this version creates. */
  assertCurrent(table: string): Promise<void>;
  /** The store of 2.0.0-beta.7 on a pool. */
  upstream(pool: unknown, table: string): {
    get(key: string): Promise<unknown>;
    set(key: string, session: unknown): Promise<void>;
  };
  pool(url: string, size: number): TestPool;
  /**
   * Sets up a table as its owner; returns options of a user that may only read and write rows.
   *
   * @param setUp receives the owner's options.
   */
  restricted(setUp: (options: SQLOptions) => Promise<unknown>): Promise<SQLOptions>;
  /** Runs work while a transaction that has read the table is open. */
  whileRead(table: string, work: () => Promise<void>): Promise<void>;
  /** Options of a pool whose idle connections live longer than any test. */
  readonly keepIdle: object;
  readonly messages: {
    cannotCreate(table: string): RegExp;
    readonly lockTimeout: RegExp;
    readonly wrongPassword: RegExp;
    readonly missingDatabase: RegExp;
  };
}

/** Runs the suite. */
export function sqlTables(harness: SQLHarness): void {
  const { name, url, module, factory, store: open, table, messages } = harness;

  describe(`${name} old tables`, () => {
    for (const [title, create] of Object.entries(harness.keyless)) {
      it(`${name} keeps the newest duplicate of each key${title}, and all other rows`, async () => {
        const errors: unknown[] = [];
        const name = table();
        await create({ url, table: name });
        await using store = open({ url, table: name, onError: (error) => errors.push(error) });
        const kept = harness.remaining.filter(([key]) => key !== null);
        for (const [key, session] of kept) assert.equal(await store.get(key!), Number(session));
        await store.set("1:1", 4);
        assert.equal(await store.get("1:1"), 4);
        await store.set("1:1", 3);
        assert.deepEqual(await harness.contents({ url, table: name }), harness.remaining);
        await harness.assertCurrent(name);
        assert.deepEqual(errors, []);
      });
    }

    it(`${name} opens new and old tables from 12 processes at the same time`, async () => {
      const fresh = Array.from({ length: 15 }, () => table());
      const old = Array.from({ length: 5 }, () => table());
      const { pool, end } = harness.pool(url, 1);
      const unique = ({ table }: SQLOptions) => harness.upstream(pool, table!).set("old", 1);
      const creators = [...Object.values(harness.keyless), unique];
      for (const [i, name] of old.entries()) {
        await creators[i % creators.length]!({ url, table: name });
      }
      await end();
      const program = { module, factory, options: { url }, place: "table" } as const;
      assert.deepEqual(await coldStart(program, [...fresh, ...old]), []);
      for (const name of [...fresh, ...old]) {
        await harness.assertCurrent(name);
        const keys = (await harness.contents({ url, table: name })).map(([key]) => String(key));
        assert.equal(keys.filter((key) => key.startsWith("process:")).length, processes);
      }
    });

    it(`${name} finds keys with a prefix in an old table that it may not alter`, async () => {
      // In many collations "é" equals "e", so these are in each other's pages.
      const accented = Array.from({ length: 300 }, (_, i) => `${i % 2 ? "e" : "é"}${i}`);
      const keys = ["1:1", "1:2", "10:1", "2:1", "a:1", "ab:1", "b:1", ...accented].sort();
      const options = await harness.restricted(async ({ url, table }) => {
        const { pool, end } = harness.pool(url!, 1);
        const old = harness.upstream(pool, table!);
        for (const key of keys) await old.set(key, { key });
        await end();
      });
      await using store = open(options);
      for (const prefix of ["1", "1:", "10", "3", "a", "A", "a:", "é", "e", "z", ""]) {
        const found = [];
        for await (const key of store.keys({ prefix })) found.push(key);
        assert.deepEqual(found.sort(), keys.filter((key) => key.startsWith(prefix)), prefix);
      }
      await store.clear({ prefix: "1:" });
      assert.equal(await store.size(), keys.length - 2);
    });

    it(`${name} does not block others while a transaction has read the old table`, async () => {
      const place = table();
      const { pool, end } = harness.pool(url, 2);
      const old = harness.upstream(pool, place);
      await old.set("k", 1);
      await using store = open({ url, table: place, timeout: 6_000 });
      await harness.whileRead(place, async () => {
        const opening = store.get("k");
        const started = Date.now();
        const waits: number[] = [];
        let pending = true;
        const ended = opening.catch(() => {}).then(() => pending = false);
        while (pending) {
          const before = Date.now();
          assert.equal(await old.get("k"), 1);
          waits.push(Date.now() - before);
          await wait(10);
        }
        await ended;
        await assert.rejects(opening, { name: "TimeoutError", message: messages.lockTimeout });
        // A queued ALTER TABLE without a lock timeout would block a read for nearly all the time.
        const longest = Math.max(...waits);
        assert.ok(longest < (Date.now() - started) / 2, `${longest} ms`);
      });
      assert.equal(await store.get("k"), 1);
      await harness.assertCurrent(place);
      await end();
    });
  });

  describe(`${name} rights`, () => {
    it(`${name} works without the right to create if the table exists`, async () => {
      const errors: unknown[] = [];
      const options = await harness.restricted(async (options) => {
        await using owned = open(options);
        await owned.ready();
      });
      await using store = open({ ...options, onError: (error) => errors.push(error) });
      await store.set("k", { a: 1 });
      assert.deepEqual(await store.get("k"), { a: 1 });
      await store.delete("k");
      assert.deepEqual(errors, []);
    });

    it(`${name} reports an error if the table and the right to create are missing`, async () => {
      const errors: unknown[] = [];
      const options = await harness.restricted(() => Promise.resolve());
      await using store = open({ ...options, onInitError: (error) => errors.push(error) });
      const message = messages.cannotCreate(options.table!);
      await assert.rejects(store.get("k"), { name: "StoreError", message });
      assert.equal(errors.length, 1);
    });

    it(`${name} does not open a table without a key if it may not alter it`, async () => {
      const [createKeyless] = Object.values(harness.keyless) as [typeof harness.keyless[string]];
      let place: SQLOptions = {};
      const options = await harness.restricted((options) => {
        place = options;
        return createKeyless(options);
      });
      const before = await harness.contents(place);
      await using store = open(options);
      const message = /cannot be upgraded, but the store needs a unique key/;
      await assert.rejects(store.get("1:1"), message);
      assert.deepEqual(await harness.contents(place), before); // duplicates included
      // The owner can still upgrade the table, and finds the newest session of each key.
      await using owner = open(place);
      assert.equal(await owner.get("1:1"), 3);
      assert.equal(await owner.get("1:2"), 1);
    });
  });

  describe(`${name} leases in tables`, () => {
    const count = (session?: { n: number }) => ({ n: (session?.n ?? 0) + 1 });

    it(`${name} adds the columns of leases when they are first needed`, async () => {
      const place = table();
      const { pool, end } = harness.pool(url, 1);
      const old = harness.upstream(pool, place);
      await old.set("k", { n: 0 });
      await using plain = open({ url, table: place });
      assert.deepEqual(await plain.get("k"), { n: 0 });
      await harness.assertCurrent(place);
      const stores = Array.from({ length: 4 }, () => open({ url, table: place }));
      try {
        const updates = stores.flatMap((store) => [1, 2, 3].map(() => store.update("k", count)));
        // Versions without leases read and write the same table.
        const others = Array.from({ length: 20 }, async (_, i) => {
          await plain.set(`plain ${i}`, { i });
          await old.set(`old ${i}`, { i });
          assert.deepEqual(await plain.get(`old ${i}`), { i });
          assert.deepEqual(await old.get(`plain ${i}`), { i });
        });
        await Promise.all([...updates, ...others]);
        assert.deepEqual(await plain.get("k"), { n: 12 });
        assert.deepEqual(await old.get("k"), { n: 12 });
        await stores[0]!.update("missing", async () => {
          assert.equal(await plain.get("missing"), undefined);
          assert.equal(await old.get("missing") ?? undefined, undefined);
          await old.set("other", { n: 1 });
          assert.equal(await plain.size(), 42);
        });
        assert.equal(await plain.size(), 42);
        // The lease of a missing session leaves no expiry that the old version would keep.
        await using expiring = open({ url, table: place, ttl: 60_000 });
        await expiring.update("kept", async () => {
          await old.set("kept", { n: 1 });
          throw new Error("the update failed");
        }).catch(() => {});
        assert.deepEqual(await expiring.get("kept"), { n: 1 });
      } finally {
        for (const store of stores) await store.close();
        await end();
      }
    });

    it(`${name} says what to run if the user may not add the columns`, async () => {
      let owner!: SQLOptions;
      const restricted = await harness.restricted(async (options) => {
        owner = options;
        await using store = open(options);
        await store.set("k", { n: 1 });
      });
      await using store = open(restricted);
      await assert.rejects(store.update("k", count), (error: Error) => {
        assert.equal(error.name, "StoreError");
        assert.match(
          error.message,
          /Cannot lock session "k": table .* has no columns for leases and cannot get them; run: ALTER TABLE .* ADD COLUMN .*lease.*; ALTER TABLE .* ADD COLUMN .*until/,
        );
        return true;
      });
      // Everything else works.
      assert.deepEqual(await store.get("k"), { n: 1 });
      await store.set("other", { n: 1 });
      await using asOwner = open(owner);
      await asOwner.update("k", count);
      assert.deepEqual(await store.update("k", count), { n: 3 });
    });
  });

  describe(`${name} connections`, () => {
    it(`${name} has no deadlocks between stores that write the same keys`, async () => {
      const name = table();
      const pools = Array.from({ length: 3 }, () => harness.pool(url, 10));
      const stores = pools.map(({ pool }) => open({ pool, table: name }));
      const keys = Array.from({ length: 40 }, (_, i) => `${i}`);
      await Promise.all(stores.map(async (store, i) => {
        for (let round = 0; round < 40; round++) {
          const shuffled = keys.toSorted(() => Math.random() - 0.5);
          await Promise.all(shuffled.map((key, j) => {
            return (round + i + j) % 3 === 0 ? store.delete(key) : store.set(key, { round, i });
          }));
        }
      }));
      // A connection is replaced after an error.
      assert.deepEqual(pools.map(({ opened }) => opened()), pools.map(() => 1));
      for (const store of stores) await store.close();
      for (const { end } of pools) await end();
    });

    it(`${name} discards a connection that hangs`, async () => {
      await using proxy = await Proxy.to(url);
      const { pool, opened, end } = harness.pool(urlWith(url, { host: proxy.host }), 1);
      await using store = open({ pool, table: table(), timeout: 2_000 });
      await store.set("k", 1);
      for (const operation of [() => store.get("k"), () => store.set("k", 2)]) {
        proxy.silence();
        await assert.rejects(operation(), { name: "TimeoutError" });
        assert.equal(await store.get("k"), 1); // on a new connection: the pool has only one
      }
      assert.equal(opened(), 3);
      await end();
    });

    it(`${name} works again after connections were cut`, () =>
      goesOnAfterCuts(url, (url) => open({ url, table: table() })));

    it(`${name} opens as soon as the server is available`, () =>
      opensOnceThere(url, (url) => open({ url, table: table() })));

    const long = 120_000; // the errors below occur much earlier

    it(`${name} rejects immediately if the password is wrong, and does not reveal it`, async () => {
      const wrong = new URL(url);
      wrong.password = "wr0ng";
      const started = Date.now();
      await using store = open({ url: wrong.href, table: table(), timeout: long });
      await assert.rejects(store.get("k"), (error: Error) => {
        assert.equal(error.name, "StoreError");
        assert.match(error.message, messages.wrongPassword);
        assert.doesNotMatch(`${error.stack} ${JSON.stringify(error)}`, /wr0ng/);
        return true;
      });
      assert.ok(Date.now() - started < long / 2);
    });

    it(`${name} rejects immediately if the database is missing`, async () => {
      const wrong = new URL(url);
      wrong.pathname = "/missing";
      const started = Date.now();
      await using store = open({ url: wrong.href, timeout: long });
      await assert.rejects(store.set("k", 1), messages.missingDatabase);
      assert.ok(Date.now() - started < long / 2);
    });

    it(`${name} rejects in time if no server is available, and the process continues`, async () => {
      const down = url.replace(/\/\/.*/, "//user:s3cret@127.0.0.1:1/db");
      const { code, output, duration } = await run(
        `
        import { ${factory} } from "${module}";
        const store = ${factory}({ url: "${down}", timeout: 500 });
        for (let i = 0; i < 2; i++) {
          await store.get("k").catch((error) => console.log(error.name, error.message));
        }
        store.set("k", 1).catch(() => {});
        await store.close();
      `,
        100_000,
      );
      assert.equal(code, 0, output);
      assert.match(output, /^(TimeoutError Cannot read session "k": .*ECONNREFUSED.*\n){2}$/);
      assert.ok(duration < 100_000, `took ${duration} ms`);
    });

    it(`${name} does not keep the process alive after close()`, async () => {
      const { code, output, duration } = await run(
        `
        import { ${factory} } from "${module}";
        const config = ${JSON.stringify(harness.keepIdle)};
        const store = ${factory}({ url: "${url}", table: "${table()}", config });
        await Promise.all([store.set("k", 1), store.get("l"), store.set("m", 1)]);
        await store.close();
        console.log("closed");
      `,
        100_000,
      );
      assert.equal(code, 0, output);
      assert.equal(output, "closed\n");
      assert.ok(duration < 100_000, `took ${duration} ms`);
    });
  });
}

/** What the store of each database publishes on its tracing channels. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Store, StoreOptions } from "../../mod.ts";
import { Mongo } from "../../mongodb.ts";
import { MySQL } from "../../mysql.ts";
import { Postgres } from "../../pg.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import { place, serverUrl } from "../support/servers.ts";
import { Recorder } from "../support/traces.ts";

interface Database {
  readonly title: string;
  readonly system: string;
  // deno-lint-ignore no-explicit-any
  make(place: string, options?: StoreOptions & { url?: string }): Store<any>;
  /** A server that does not exist. */
  readonly elsewhere?: string;
}

const databases: Database[] = [
  {
    title: "Redis",
    system: "redis",
    make: (prefix, options) => Redis({ url: serverUrl("redis"), prefix, ...options }),
    elsewhere: "redis://user:hunter2@127.0.0.1:1",
  },
  {
    title: "MongoDB",
    system: "mongodb",
    make: (collection, options) => Mongo({ url: serverUrl("mongodb"), collection, ...options }),
    elsewhere: "mongodb://user:hunter2@127.0.0.1:1",
  },
  {
    title: "SQLite",
    system: "sqlite",
    make: (table, { url: _, ...options } = {}) =>
      SQLite({ filename: ":memory:", table, ...options }),
  },
  {
    title: "PostgreSQL",
    system: "postgresql",
    make: (table, options) => Postgres({ url: serverUrl("postgres"), table, ...options }),
    elsewhere: "postgres://user:hunter2@127.0.0.1:1/db",
  },
  {
    title: "MySQL",
    system: "mysql",
    make: (table, options) => MySQL({ url: serverUrl("mysql"), table, ...options }),
    elsewhere: "mysql://user:hunter2@127.0.0.1:1/db",
  },
];

const secret = /zebra|hunter|visa/;

for (const { title, system, make, elsewhere } of databases) {
  describe(`traces of ${title}`, { timeout: 120_000 }, () => {
    it("have its name and place, keys and bytes, and no secret", async () => {
      const name = place();
      using trace = new Recorder();
      const store = make(name, { ttl: 600_000 });
      await store.ready();
      const keys = ["a:zebra", "b:zebra", "c:zebra"];
      const session = { text: "visa ".repeat(100) };
      await Promise.all(keys.map((key) => store.set(key, session)));
      await Promise.all(keys.map((key) => store.get(key)));
      await store.clear();
      await store.prune();
      await store.close();
      assert.equal(trace.calls.join(), "ready,set,set,set,get,get,get,clear,prune,close");
      for (const it of [...trace.operations, ...trace.batches]) {
        assert.equal(it.system, system);
        assert.equal(it.place, name);
        assert.equal(it.error, undefined);
      }
      const [open, write, ...others] = trace.batches;
      assert.equal(open!.operation, "open");
      assert.deepEqual([write!.operation, write!.keys, write!.retries], ["write", 3, 0]);
      const reads = others.filter(({ operation }) => operation === "read");
      assert.equal(reads.reduce((sum, { keys }) => sum + keys, 0), 3);
      const size = 3 * JSON.stringify(session).length;
      for (const bytes of [write!.bytes!, reads.reduce((sum, { bytes }) => sum + bytes!, 0)]) {
        assert.ok(bytes > size * 0.9 && bytes < size * 1.3, `${bytes} bytes instead of ${size}`);
      }
      assert.equal(others.find(({ operation }) => operation === "page")!.keys, 3);
      assert.equal(others.find(({ operation }) => operation === "remove")!.keys, 3);
      assert.ok(trace.texts.length > 40);
      for (const text of trace.texts) assert.doesNotMatch(text, secret);
    });

    if (elsewhere !== undefined) {
      it("have failed attempts to connect, without passwords", async () => {
        using trace = new Recorder();
        const store = make(place(), { url: elsewhere, timeout: 1_000 });
        await assert.rejects(store.get("a:zebra"));
        await store.close();
        const get = trace.operations[0]!;
        assert.equal(get.operation, "get");
        assert.match(get.error!, /^(TimeoutError|\w*ECONNREFUSED\w*)$/);
        const attempts = trace.batches.filter(({ operation }) => operation === "open");
        assert.ok(attempts.length > 0);
        for (const { error } of attempts) assert.match(error!, /^\w+$/);
        const [read] = trace.batches.filter(({ operation }) => operation === "read");
        assert.deepEqual(read!.operations, [get]);
        assert.ok(read!.error !== undefined);
        for (const text of trace.texts) assert.doesNotMatch(text, secret);
      });
    }
  });
}

/** Tests at the limits of a database: the error has a type, and the old session stays. */

import assert from "node:assert/strict";
import BetterSqlite3 from "better-sqlite3";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import type { Store } from "../../mod.ts";
import { Redis } from "../../redis.ts";
import { SQLite } from "../../sqlite.ts";
import { command, RedisServers } from "../support/redisServers.ts";

/** A large session that still fits into a batch with others. */
const large = { text: "x".repeat(900_000) };

/** Asserts that a session over the limit is refused, and that all stored sessions stay. */
async function refuses(store: Store<unknown>, message: RegExp): Promise<void> {
  const error = { name: "StoreError", key: "k", operation: "write", message };
  await assert.rejects(store.set("k", large), error);
  assert.deepEqual(await store.get("k"), { a: 1 });
  const [before, bad] = await Promise.allSettled([store.get("other"), store.set("k", large)]);
  assert.deepEqual(before, { status: "fulfilled", value: { b: 1 } });
  assert.equal(bad.status, "rejected");
}

/** Asserts that only the large session is refused: other connections see the rest of the batch. */
async function refusesAlone(store: Store<unknown>, filename: string): Promise<void> {
  const writes = [store.set("other", { b: 2 }), store.set("k", large), store.set("new", { c: 1 })];
  const results = await Promise.allSettled(writes);
  assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  await using other = SQLite({ filename });
  const sessions = await Promise.all(["other", "k", "new"].map((key) => other.get(key)));
  assert.deepEqual(sessions, [{ b: 2 }, { a: 1 }, { c: 1 }]);
}

describe("limits", () => {
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-limits-"));

  it("Redis without free memory keeps the old session, and works again after memory is free", async () => {
    await using servers = new RedisServers();
    const port = await servers.single("--maxmemory-policy", "noeviction");
    await using store = Redis({ url: `redis://127.0.0.1:${port}` });
    await store.set("k", { a: 1 });
    await store.set("other", { b: 1 });
    await command(port, "CONFIG", "SET", "maxmemory", "1");
    const message = /OOM/;
    await refuses(store, message);
    await assert.rejects(store.set("k", { a: 2 }), { name: "StoreError", message });
    await store.delete("other");
    await command(port, "CONFIG", "SET", "maxmemory", "0");
    await store.set("k", { a: 2 });
    assert.deepEqual(await store.get("k"), { a: 2 });
  });

  it("SQLite with a full database keeps the old session, and stores sessions that fit", async () => {
    const filename = join(folder, "full.sqlite");
    const database = new BetterSqlite3(filename);
    await using store = SQLite({ database });
    await store.set("k", { a: 1 });
    await store.set("other", { b: 1 });
    database.exec("PRAGMA max_page_count = 20");
    await refuses(store, /full/);
    await refusesAlone(store, filename);
    await store.set("k", { a: 2 });
    assert.deepEqual(await store.get("k"), { a: 2 });
    database.exec("PRAGMA max_page_count = 10000");
    await store.set("k", large);
    assert.deepEqual(await store.get("k"), large);
    database.close();
  });

  it("SQLite opens as soon as its folder exists", async () => {
    const filename = join(folder, "later", "x.sqlite");
    await using store = SQLite({ filename });
    await assert.rejects(store.get("k"), { name: "StoreError", key: "k" });
    mkdirSync(join(folder, "later"));
    await store.set("k", { a: 1 });
    assert.deepEqual(await store.get("k"), { a: 1 });
  });

  const disk = join(folder, "disk");
  let mounted = false;
  const mount = (...options: string[]) =>
    spawnSync("mount", [...options, disk], { stdio: "ignore" }).status === 0;
  before(() => {
    mkdirSync(disk);
    mounted = mount("-t", "tmpfs", "-o", "size=600k", "tmpfs");
  });
  after(() => {
    if (mounted) spawnSync("umount", [disk]);
    rmSync(folder, { recursive: true });
  });

  const mayMount = process.platform === "linux" && process.getuid?.() === 0;
  const skip = !mayMount;
  const why = skip ? " (only root can mount one)" : "";

  it(
    `SQLite on a full or read-only disk keeps the old session${why}`,
    { skip },
    async (context) => {
      if (!mounted) return context.skip("this machine cannot mount a disk");
      const filename = join(disk, "x.sqlite");
      const store = SQLite({ filename });
      try {
        await store.set("k", { a: 1 });
        await store.set("other", { b: 1 });
        await refuses(store, /full|disk I\/O/);
        await refusesAlone(store, filename);
        await store.set("k", { a: 2 });
        assert.deepEqual(await store.get("k"), { a: 2 });
      } finally {
        await store.close();
      }
      assert.ok(mount("-o", "remount,ro"));
      {
        await using second = SQLite({ filename });
        await assert.rejects(second.set("k", { a: 3 }), { name: "StoreError", key: "k" });
      }
      assert.ok(mount("-o", "remount,rw"));
      // A connection that SQLite opened on the read-only disk stays read-only.
      await using third = SQLite({ filename });
      assert.deepEqual(await third.get("k"), { a: 2 });
      await third.set("k", { a: 3 });
      assert.deepEqual(await third.get("k"), { a: 3 });
    },
  );
});

/** Tests of Deno KV: in a file, in memory, and on a server with the protocol KV Connect. */

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { Buffer } from "node:buffer";
import { DenoKV, type DenoKVOptions } from "../../denokv.ts";
import { Database, type Kv } from "../../src/denokv/driver.ts";
import { backendOf } from "../../src/store/factory.ts";
import {
  conformance,
  encryptedConformance,
  type Harness,
  workerOf,
} from "../support/conformance.ts";
import { coldStart, processes } from "../support/coldStart.ts";
import { dropKv, KvServer, openKv } from "../support/denokv.ts";
import { entry, run } from "../support/process.ts";
import { place } from "../support/servers.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-denokv-"));
after(() => rmSync(folder, { recursive: true }));

const path = join(folder, "sessions.kv");

/** Another connection to the file. */
let kv: Kv;
before(async () => {
  kv = await openKv(path);
});
after(() => kv.close());

async function corrupt(kv: Kv, prefix: string, key: string): Promise<void> {
  const atomic = kv.atomic();
  atomic.set([prefix, "session", key], Buffer.from('{"a"'));
  await atomic.commit();
}

const largest = 655_000;

const harness: Harness = {
  name: "Deno KV",
  store: (prefix, options) => DenoKV({ path, prefix, ...options }),
  backend: (prefix, options) => backendOf(DenoKV, { path, prefix, ...options }),
  drop: (prefix) => dropKv(kv, prefix),
  supports: { prune: false, largest },
  worker: (prefix) => workerOf("denokv", "DenoKV", { path, prefix }),
  corrupt: (prefix, key) => corrupt(kv, prefix, key),
};

conformance(harness);
encryptedConformance(harness);

/** A server with the protocol of Deno Deploy. */
const server = new KvServer();
let remote: Kv;
before(async () => {
  await server.start();
  remote = await openKv(server.url);
});
after(async () => {
  remote.close();
  await server[Symbol.asyncDispose]();
});

const served: Harness = {
  ...harness,
  name: "Deno KV by KV Connect",
  store: (prefix, options) => DenoKV({ url: server.url, prefix, ...options }),
  backend: (prefix, options) => backendOf(DenoKV, { url: server.url, prefix, ...options }),
  drop: (prefix) => dropKv(remote, prefix),
  worker: (prefix) => workerOf("denokv", "DenoKV", { url: server.url, prefix }),
  corrupt: (prefix, key) => corrupt(remote, prefix, key),
};

conformance(served);

/** What the file has under a prefix: the parts of the key after the prefix, and the value as text. */
async function contents(prefix: string, of = kv): Promise<[string, string][]> {
  const found: [string, string][] = [];
  for await (const { key, value } of of.list({ prefix: [prefix] }, { limit: 1_000 })) {
    found.push([key.slice(1).join(" "), Buffer.from(value as Uint8Array).toString()]);
  }
  return found;
}

/** A session whose JSON has this many bytes. */
const sized = (bytes: number) => ({ text: "x".repeat(bytes - '{"text":""}'.length) });

describe("Deno KV values", () => {
  it("Deno KV stores bytes: a header and JSON", async () => {
    const prefix = place();
    await using store = DenoKV({ kv, prefix });
    await store.set("1:1", { text: "é" });
    assert.deepEqual(await contents(prefix), [["session 1:1", '{"bytes":13}\n{"text":"é"}']]);
    await using expiring = DenoKV({ kv, prefix, ttl: 3_600_000 });
    await expiring.set("1:1", 1);
    const [[, value]] = await contents(prefix) as [[string, string]];
    const [, expires] = /^\{"bytes":1,"expires":(\d+)\}\n1$/.exec(value)!;
    assert.ok(Math.abs(Number(expires) - Date.now() - 3_600_000) < 600_000);
    await store.delete("1:1");
    assert.deepEqual(await contents(prefix), []);
  });

  it("Deno KV reads bytes without a header, and no other values", async () => {
    const prefix = place();
    await using store = DenoKV({ kv, prefix });
    const put = async (key: string, value: unknown) => {
      const atomic = kv.atomic();
      atomic.set([prefix, "session", key], value as Uint8Array);
      assert.ok((await atomic.commit()).ok);
    };
    await put("plain", Buffer.from('{"a":1}'));
    assert.deepEqual(await store.get("plain"), { a: 1 });
    await put("header", Buffer.from('{"bytes":99999999}\n{}'));
    await assert.rejects(store.get("header"), { name: "DecodeError" });
    await store.set("header", { a: 2 });
    assert.deepEqual(await store.get("header"), { a: 2 });
    // A value of the application, which only Deno's driver can encode for us.
    if (process.versions.deno === undefined) return;
    await put("object", { a: 1 });
    await assert.rejects(store.get("object"), { name: "DecodeError" });
  });

  it("Deno KV cuts large sessions into pieces, and leaves none behind", async () => {
    const prefix = place();
    await using store = DenoKV({ kv, prefix, ttl: 3_600_000 });
    await using other = DenoKV({ path, prefix });
    const names = async () => (await contents(prefix)).map(([name]) => name);
    const pieces = (count: number) =>
      Array.from({ length: count - 1 }, (_, i) => `piece k ${i + 1}`);
    for (const [bytes, count] of [[65_000, 1], [65_536, 2], [655_000, 10], [200_000, 4]] as const) {
      await store.set("k", sized(bytes));
      assert.deepEqual(await names(), [...pieces(count), "session k"]);
      assert.deepEqual(await other.get("k"), sized(bytes));
    }
    await Promise.all([store.set("k", 1), store.set("l", 2)]);
    assert.deepEqual(await names(), ["session k", "session l"]);
    await store.set("k", sized(200_000));
    await Promise.all([store.delete("k"), store.delete("l")]);
    assert.deepEqual(await names(), []);
    await store.update("k", () => sized(200_000));
    await store.update("k", () => sized(100_000));
    assert.deepEqual((await names()).filter((name) => !name.startsWith("lease")), [
      "piece k 1",
      "session k",
    ]);
  });

  it("Deno KV refuses a larger session, and stores the others of its batch", async () => {
    const prefix = place();
    await using store = DenoKV({ kv, prefix });
    await store.set("k", 1);
    const results = await Promise.allSettled([
      store.set("k", sized(655_400)),
      store.set("l", 2),
      store.set("m", sized(655_300)),
    ]);
    assert.deepEqual(results.map(({ status }) => status), ["rejected", "fulfilled", "fulfilled"]);
    const { reason } = results[0] as PromiseRejectedResult;
    assert.equal(reason.name, "TooLargeError");
    assert.match(
      reason.message,
      /^Cannot write session "k": the session has 6554\d\d bytes, and Deno KV takes up to 10 values of 65536 bytes$/,
    );
    await assert.rejects(store.update("k", () => sized(655_400)), { name: "TooLargeError" });
    assert.deepEqual(await Promise.all(["k", "l", "m"].map((key) => store.get(key))), [
      1,
      2,
      sized(655_300),
    ]);
  });

  it("Deno KV never shows a part of a large session", async () => {
    const prefix = place();
    const stores = [DenoKV({ kv, prefix }), DenoKV({ path, prefix }), DenoKV({ path, prefix })];
    let isDone = false;
    const seen = new Set<number>();
    const session = (i: number) => ({
      i,
      text: `${i % 10}`.repeat([10, 100_000, 300_000][i % 3]!),
    });
    const writing = stores.slice(0, 2).map(async (store, who) => {
      for (let i = who; i < 120; i += 2) await store.set("k", session(i));
    });
    const read = async (store: typeof stores[number]) => {
      while (!isDone) {
        const found = await store.get("k");
        if (found === undefined) continue;
        assert.deepEqual(found, session(found.i));
        seen.add(found.i);
      }
    };
    const reading = stores.slice(2).map(read);
    await Promise.all(writing);
    isDone = true;
    await Promise.all(reading);
    assert.ok(seen.size > 3, `${seen.size}`);
    for (const store of stores) await store.close();
  });

  it("Deno KV renews and replaces large sessions", async () => {
    const prefix = place();
    const { signal } = new AbortController();
    const backend = backendOf(DenoKV, { kv, prefix });
    const entry = (key: string, text: string) => ({ key, value: JSON.stringify(text) });
    const keys = Array.from({ length: 12 }, (_, i) => `k${i}`);
    const large = (i: number, letter: string) => letter.repeat(i * 20_000);
    await backend.write(keys.map((key, i) => entry(key, large(i, "a"))), signal);
    await backend.renew(keys, 5e12, signal);
    await backend.replace(
      keys.map((key, i) => ({
        key,
        before: entry(key, large(i, "a")).value,
        after: entry(key, large(12 - i, "b")).value,
      })),
      signal,
    );
    const found = await backend.read(keys, signal);
    const expected = keys.map((key, i) => ({ ...entry(key, large(12 - i, "b")), expires: 5e12 }));
    assert.deepEqual(new Map(found.map((it) => [it.key, it])).size, 12);
    for (const it of expected) assert.deepEqual(found.find(({ key }) => key === it.key), it);
  });

  it("Deno KV deletes what has expired, with all its pieces, by itself", async () => {
    const file = join(folder, `${place()}.kv`);
    {
      await using store = DenoKV({ path: file, ttl: 1 });
      await Promise.all([store.set("k", 1), store.set("l", sized(200_000))]);
      await using forever = DenoKV({ path: file });
      await forever.set("m", 1);
    }
    await wait(20);
    // When a file is opened, what has expired is deleted, and otherwise within a minute.
    const own = await openKv(file);
    assert.deepEqual((await contents("telegraf-sessions", own)).map(([name]) => name), [
      "session m",
    ]);
    own.close();
  });

  it("Deno KV has no session of which it has begun to delete the pieces", async () => {
    const prefix = place();
    await using store = DenoKV({ kv, prefix });
    for (const piece of [["piece", "k", 2], ["session", "k"]]) {
      await store.set("k", sized(200_000));
      const atomic = kv.atomic();
      atomic.delete([prefix, ...piece]);
      await atomic.commit();
      assert.equal(await store.get("k"), undefined);
      await store.set("k", 1);
      assert.equal(await store.get("k"), 1);
    }
  });

  /** A database that does work after the first reads, in place of another process. */
  const between = (reads: number, work: (count: number) => unknown) => {
    let count = 0;
    return {
      list: kv.list.bind(kv),
      atomic: kv.atomic.bind(kv),
      async getMany(keys: Parameters<Kv["getMany"]>[0]) {
        const found = await kv.getMany(keys);
        if (count++ < reads) await work(count);
        return found;
      },
    };
  };

  it("Deno KV grants a lease with the session of that moment", async () => {
    const prefix = place();
    const { signal } = new AbortController();
    const other = backendOf(DenoKV, { kv, prefix });
    const write = (count: number) => other.write([{ key: "k", value: `${count}` }], signal);
    const { leases } = backendOf(DenoKV, { kv: between(2, write), prefix });
    assert.ok(typeof leases === "object");
    const [claimed] = await leases.claim([{ key: "k", token: "t", length: 60_000 }], signal);
    assert.equal(claimed!.entry?.value, "2");
  });

  it("Deno KV refuses a settlement whose lease is lost in that moment", async () => {
    const prefix = place();
    const { signal } = new AbortController();
    const { leases: others } = backendOf(DenoKV, { kv, prefix });
    assert.ok(typeof others === "object");
    for (const change of [null, undefined, { key: "k", value: "1" }]) {
      const claim = { key: "k", token: "a", length: 1 };
      await others.claim([claim], signal);
      await wait(5);
      const take = async (): Promise<void> => {
        await others.claim([{ ...claim, token: "b" }], signal);
      };
      const { leases } = backendOf(DenoKV, { kv: between(1, take), prefix });
      assert.ok(typeof leases === "object");
      const refusals = await leases.settle([{ ...claim, length: 0, change }], signal);
      assert.deepEqual(refusals, [{ key: "k", token: "b" }]);
      await wait(5);
    }
    assert.equal((await contents(prefix)).length, 1);
  });

  it("Deno KV forgets leases some minutes later, and notes after a day", async () => {
    const lives = new Map<string, number>();
    const recording = {
      getMany: kv.getMany.bind(kv),
      list: kv.list.bind(kv),
      atomic() {
        const atomic = kv.atomic();
        const set = atomic.set.bind(atomic);
        atomic.set = (key, value, options) => {
          lives.set(key.slice(1).join(" "), options!.expireIn!);
          return set(key, value, options);
        };
        return atomic;
      },
    };
    const { leases } = backendOf(DenoKV, { kv: recording, prefix: place() });
    assert.ok(typeof leases === "object");
    const { signal } = new AbortController();
    const claim = (key: string) => ({ key, token: "t", length: 1_000_000 });
    await leases.claim([claim("k"), claim("l")], signal);
    const minutes = (key: string) => Math.round(lives.get(`lease ${key}`)! / 60_000);
    assert.deepEqual([minutes("k"), minutes("l")], [22, 22]);
    const release = { length: 0, change: undefined };
    await leases.settle([
      { ...claim("k"), ...release },
      { ...claim("l"), ...release, note: "1" },
    ], signal);
    assert.deepEqual([minutes("k"), minutes("l")], [5, 24 * 60]);
    await leases.claim([claim("l")], signal);
    assert.equal(minutes("l"), 24 * 60);
  });

  it("Deno KV opens new files from 12 processes at the same time", async () => {
    const files = Array.from({ length: 8 }, () => join(folder, `${place()}.kv`));
    const errors = await coldStart({
      module: entry("denokv", import.meta.url),
      factory: "DenoKV",
      options: {},
      place: "path",
    }, files);
    assert.deepEqual(errors, []);
    for (const path of files) {
      await using store = DenoKV({ path });
      assert.equal(await store.size(), processes + 1);
    }
  });
});

describe("Deno KV databases", () => {
  const isDeno = process.versions.deno !== undefined;
  const onlyDeno = !isDeno && "only Deno has Deno.openKv()";

  it("Deno KV keeps a database open that was passed in", async () => {
    const prefix = place();
    const stores = [DenoKV({ kv, prefix }), DenoKV({ kv, prefix }), DenoKV({ kv, prefix: "" })];
    await stores[0]!.set("k", 1);
    assert.equal(await stores[1]!.get("k"), 1);
    assert.equal(await stores[2]!.get("k"), undefined);
    for (const store of stores) await store.close();
    assert.equal((await contents(prefix)).length, 1);
  });

  it("Deno KV reads the files of the other driver", { skip: onlyDeno }, async () => {
    const file = join(folder, `${place()}.kv`);
    const session = { text: "🔑é".repeat(20_000) };
    // Each in a process of its own: two copies of SQLite in one process break each other's locks.
    for (const open of ["Deno.openKv(file)", 'openKv(file, { implementation: "sqlite" })']) {
      const { code, output } = await run(`
        import { openKv } from "@deno/kv";
        import { DenoKV } from "${entry("denokv", import.meta.url)}";
        const file = ${JSON.stringify(file)};
        const kv = await ${open};
        await using store = DenoKV({ kv });
        const { count = 0 } = await store.get("k") ?? {};
        await store.set("k", { count: count + 1, text: "🔑é".repeat(20_000) });
        await store.update("l", (list = []) => [...list, count]);
        kv.close();
      `);
      assert.equal(code, 0, output);
    }
    await using store = DenoKV({ path: file });
    assert.deepEqual(await store.get("k"), { count: 2, ...session });
    assert.deepEqual(await store.get("l"), [0, 1]);
  });

  it("Deno KV keeps sessions in memory", async () => {
    await using store = DenoKV({ path: ":memory:" });
    await store.set("k", 1);
    assert.equal(await store.get("k"), 1);
    await using other = DenoKV({ path: ":memory:" });
    assert.equal(await other.get("k"), undefined);
    assert.ok(!existsSync(":memory:"));
  });

  it("Deno KV without options is Deno's database of the program", { skip: onlyDeno }, async () => {
    const file = join(folder, "bot.ts");
    writeFileSync(
      file,
      `import { DenoKV } from "${entry("denokv", import.meta.url)}";
      await using store = DenoKV();
      const count = (await store.get("k") ?? 0) + 1;
      await store.set("k", count);
      console.log(count);`,
    );
    const start = (...flags: string[]) =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", "--no-config", "--quiet", ...flags, file],
        env: { NO_COLOR: "1", DENO_DIR: join(folder, "deno") },
      }).output();
    for (const expected of ["1\n", "2\n"]) {
      const { stdout, stderr } = await start("--unstable-kv");
      assert.equal(new TextDecoder().decode(stdout), expected, new TextDecoder().decode(stderr));
    }
    const { success, stderr } = await start();
    assert.equal(success, false);
    assert.match(
      new TextDecoder().decode(stderr),
      /Deno has no openKv: run it with --unstable-kv, or write "unstable": \["kv"\] in deno\.json/,
    );
  });

  it("Deno KV closes what was opened too late", async () => {
    const opened: { resolve(kv: Kv): void }[] = [];
    const database = new Database(
      undefined,
      () => new Promise((resolve) => opened.push({ resolve })),
    );
    const closed: number[] = [];
    const attempts = [0, 1, 2].map(() => database.open());
    const finish = (i: number) => opened[i]!.resolve({ ...kv, close: () => closed.push(i) } as Kv);
    finish(1);
    await attempts[1];
    finish(0);
    await attempts[0];
    assert.deepEqual(closed, [0]);
    database.close();
    assert.deepEqual(closed, [0, 1]);
    finish(2);
    await attempts[2];
    assert.deepEqual(closed, [0, 1, 2]);
    const unused = new Database(
      undefined,
      () => new Promise((resolve) => opened.push({ resolve })),
    );
    const attempt = unused.open();
    unused.close();
    finish(3);
    await attempt;
    assert.deepEqual(closed, [0, 1, 2, 3]);
  });

  it("Deno KV lets the process end, closed or not", async () => {
    for (const [i, end] of ["await store.close();", ""].entries()) {
      const { code, output } = await run(`
        import { DenoKV } from "${entry("denokv", import.meta.url)}";
        const store = DenoKV({ path: ${JSON.stringify(join(folder, `ends-${i}.kv`))} });
        await Promise.all([store.set("k", 1), store.get("l")]);
        ${end}
        console.log("done");
      `);
      assert.equal(code, 0, output);
      assert.equal(output, "done\n");
    }
  });

  it("Deno KV rejects immediately if a file cannot be opened", async () => {
    for (const path of [join(folder, "missing", "x.kv"), folder]) {
      const started = Date.now();
      await using store = DenoKV({ path, timeout: 120_000 });
      await assert.rejects(store.get("k"), { name: "StoreError", operation: "read" });
      assert.ok(Date.now() - started < 60_000); // well before the deadline
    }
  });

  it("Deno KV rejects operations after the application closed the database", async () => {
    const own = await openKv(":memory:");
    await using store = DenoKV({ kv: own });
    await store.set("k", 1);
    own.close();
    await assert.rejects(store.get("k"), { name: "StoreError" });
    await assert.rejects(store.set("k", 1), { name: "StoreError" });
  });

  it("Deno KV refuses invalid options", () => {
    const refused = (options: object, name: string, message: RegExp) =>
      assert.throws(() => DenoKV(options as DenoKVOptions), { name, message }, `${message}`);
    const { url } = server;
    refused({ path, url }, "TypeError", /^DenoKV: option "path" has no effect together with "url"/);
    refused({ kv, url }, "TypeError", /^DenoKV: option "url" has no effect together with "kv"/);
    refused({ path: "" }, "RangeError", /^DenoKV: option "path" must be a file name, but is ""$/);
    refused({ url: path }, "RangeError", /^DenoKV: option "url" must be a URL that begins with/);
    refused({ prefix: "\ud800" }, "RangeError", /^DenoKV: option "prefix" must be a string of up/);
    refused({ prefix: "x".repeat(513) }, "RangeError", /^DenoKV: option "prefix" must be a string/);
    refused(
      { kv: {} },
      "TypeError",
      /must be a database .*@deno\/kv has opened, but is an object$/,
    );
    refused({ kv: openKv(":memory:") }, "TypeError", /is a promise; await it first$/);
    refused({ filename: path }, "TypeError", /unknown option "filename"; did you mean "path"\?/);
    refused({ database: kv }, "TypeError", /unknown option "database"; did you mean "kv"\?/);
    if (isDeno) return;
    refused({}, "TypeError", /^DenoKV: option "path", "url" or "kv" is needed$/);
  });
});

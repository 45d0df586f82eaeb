/** Tests of Deno KV under faults: several processes on one file, and a server that fails. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { DenoKV, type DenoKVOptions } from "../../denokv.ts";
import { backendOf } from "../../src/store/factory.ts";
import { processes, type ProcessHarness } from "../suites/faults.ts";
import { leaseModel, realWorld } from "../suites/leaseModel.ts";
import { model } from "../suites/model.ts";
import { KvServer } from "../support/denokv.ts";
import { run } from "../support/process.ts";
import { Proxy } from "../support/proxy.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-denokv-"));
after(() => rmSync(folder, { recursive: true }));

const harness: ProcessHarness = {
  name: "Deno KV",
  backend: ["denokv", "DenoKV"],
  options: (path, prefix) => ({ path, prefix }) as object,
  store: (options) => DenoKV(options),
  hostClock: true,
};

const path = join(folder, "sessions.kv");

processes(harness, () => path);

it("Deno KV behaves like a model under leases", () =>
  leaseModel(async () => {
    const options = harness.options(path, place());
    const stores = [harness.store(options), harness.store(options)] as const;
    return await realWorld(stores, backendOf(DenoKV, options as DenoKVOptions));
  }, { numRuns: 5 }));

// Not in this process, because two copies of SQLite in one process break each other's locks.
const skip = process.getBuiltinModule("node:sqlite") === undefined && "no node:sqlite";

it("Deno KV stores the same sessions as a map while another process locks the file", {
  skip,
}, async () => {
  const [file, stop] = [join(folder, "locked.kv"), join(folder, "stop")];
  await using first = DenoKV({ path: file });
  await first.ready();
  const locking = run(`
    import { existsSync } from "node:fs";
    import { DatabaseSync } from "node:sqlite";
    import { setTimeout } from "node:timers/promises";
    const database = new DatabaseSync(${JSON.stringify(file)});
    while (!existsSync(${JSON.stringify(stop)})) {
      try {
        database.exec("BEGIN IMMEDIATE");
        await setTimeout(20);
        database.exec("ROLLBACK");
      } catch {} // a store has the lock
      await setTimeout(20);
    }
    database.close();
  `);
  try {
    await model({
      open: (where, options) => harness.store({ ...harness.options(file, where), ...options }),
    }, 40);
  } finally {
    writeFileSync(stop, "");
    const { code, output } = await locking;
    assert.equal(code, 0, output);
  }
});

describe("Deno KV by KV Connect under faults", () => {
  const server = new KvServer();
  before(() => server.start());
  after(() => server[Symbol.asyncDispose]());
  const open = (prefix: string, options: DenoKVOptions = {}) =>
    DenoKV({ url: server.url, prefix, ...options });

  it("Deno KV by KV Connect stores the same sessions as a map while connections break", () =>
    model({
      proxy: () => Proxy.to(server.url),
      open: (prefix, options, proxy) =>
        DenoKV({ url: proxy ? `http://${proxy.host}` : server.url, prefix, ...options }),
      async disturb() {
        server.status = 503;
        await wait(20);
        server.status = undefined;
      },
    }, 40));

  it("Deno KV by KV Connect lets no abandoned write overtake a later one", async () => {
    const prefix = place();
    await using store = open(prefix, { timeout: 1_000 });
    await store.set("k", 0);
    let goOn!: () => void;
    const arrived = new Promise<void>((resolve) => {
      server.beforeWrite = () => {
        server.beforeWrite = undefined;
        resolve();
        return new Promise<void>((resolve) => goOn = resolve);
      };
    });
    const old = store.set("k", "old");
    await Promise.all([arrived, assert.rejects(old, { name: "TimeoutError" })]);
    await assert.rejects(store.set("k", "lost"), { name: "TimeoutError" });
    const late = store.set("k", "new");
    await wait(100);
    goOn();
    await late;
    await wait(100);
    await using other = open(prefix);
    assert.equal(await other.get("k"), "new");
  });

  it("Deno KV by KV Connect settles again what was not settled, and nothing else", async () => {
    const prefix = place();
    const { signal } = new AbortController();
    const { open, leases, transient, close } = backendOf(DenoKV, { url: server.url, prefix });
    assert.ok(typeof leases === "object");
    await open({ expiring: false, leasing: true, report() {}, signal });
    const keys = Array.from({ length: 6 }, (_, i) => `k${i}`);
    const claims = keys.map((key) => ({ key, token: "a", length: 60_000 }));
    await leases.claim(claims, signal);
    // The settlements of the first keys reach the database, and those of the last key do not.
    server.beforeWrite = (message) => {
      if (message.includes("k5")) throw new Error("refused");
    };
    const settlements = claims.map((claim) => ({ ...claim, length: 0, change: undefined }));
    const failure = await Promise.resolve(leases.settle(settlements, signal)).catch((error) =>
      error
    );
    assert.match(String(failure), /status(: |=)400/);
    assert.equal(transient(failure), false);
    server.beforeWrite = undefined;
    const [claimed] = await leases.claim([{ key: "k0", token: "b", length: 60_000 }], signal);
    assert.equal(claimed!.token, "b");
    assert.deepEqual(await leases.settle(settlements, signal), []);
    const { leases: held } = await leases.held(undefined, 10, signal);
    assert.deepEqual(held.map(({ key, token }) => `${key} ${token}`), ["k0 b"]);
    await close();
  });

  it("Deno KV by KV Connect repeats a request that gets no answer", {
    skip: process.versions.deno !== undefined && "Deno's driver has no limit for a request",
  }, async () => {
    await using store = open(place(), { timeout: 300_000 });
    await store.set("k", 1);
    let goOn!: () => void;
    server.beforeWrite = () => {
      server.beforeWrite = undefined;
      return new Promise<void>((resolve) => goOn = resolve);
    };
    await store.set("k", 2);
    goOn();
    assert.equal(await store.get("k"), 2);
  });

  it("Deno KV by KV Connect rejects by the deadline, and works again later", async () => {
    await using store = open(place(), { timeout: 1_000 });
    await store.set("k", 1);
    await server.stop();
    for (const call of [() => store.get("k"), () => store.set("k", 2), () => store.delete("l")]) {
      await assert.rejects(call(), { name: "TimeoutError" });
    }
    await server.start();
    await until(() => store.set("k", 3).then(() => true, () => false));
    assert.equal(await store.get("k"), 3);
  });

  it("Deno KV by KV Connect reports a wrong token immediately", async () => {
    const variable = "DENO_KV_ACCESS_TOKEN";
    const right = process.env[variable];
    process.env[variable] = "s3cret";
    try {
      const started = Date.now();
      await using store = open(place(), { timeout: 120_000 });
      await assert.rejects(store.get("k"), (error: Error) => {
        assert.equal(error.name, "StoreError");
        assert.match(error.message, /a wrong token/);
        assert.doesNotMatch(String(error.stack) + error.cause, /s3cret/);
        return true;
      });
      assert.ok(Date.now() - started < 60_000);
    } finally {
      process.env[variable] = right;
    }
  });
});

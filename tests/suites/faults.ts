/**
 * Two suites: one for faults of a server and its connections, one for several processes on one
 * database. The first kills, stops and disconnects the server, so it starts its own.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import process from "node:process";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { inspect } from "node:util";
import { type Backend, type Recipe, startServers } from "../../scripts/servers/index.ts";
import type { Store, StoreOptions } from "../../mod.ts";
import { cert } from "../support/certificate.ts";
import { cached } from "./cache.ts";
import { model } from "./model.ts";
import { exclusivelyUnderFaults } from "./processes.ts";
import { type Fault, faults as allFaults, Proxy } from "../support/proxy.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { Worker, type WorkerError } from "../support/worker.ts";

/** A server that tests may break. */
export interface FaultServer {
  readonly url: string;
  /** Its product and version. */
  readonly description?: string;
  readonly pid?: number | undefined;
  /** Sends a signal to all its processes. Absent if the tests cannot reach them. */
  readonly signal?: (signal: NodeJS.Signals) => void;
  /** Kills it without a shutdown. */
  kill(): Promise<void>;
  /** Starts it again on the same port, with its data; resolves when it answers. */
  start(): Promise<void>;
  /** Stops it permanently. */
  stop(): Promise<void>;
}

/** Tells processes how to open a store on one database. */
export interface ProcessHarness {
  /** The backend's name. Each test title begins with it. */
  readonly name: string;
  /** The entry's module and the factory in it. */
  readonly backend: readonly [module: string, factory: string];
  /** Options of a store with its data in the place. They are sent as JSON. */
  options(url: string, place: string): StoreOptions;
  // deno-lint-ignore no-explicit-any
  store(options: StoreOptions): Store<any>;
  /** Why this server cannot have leases. */
  readonly noLeases?: string | undefined;
  /** Whether all processes have the clock of one machine, which decides when a lease ends. */
  readonly hostClock?: boolean;
}

/** Describes a backend to the suite. */
export interface FaultHarness extends ProcessHarness {
  start(): Promise<FaultServer>;
  /** Reads the stored value without a store. */
  peek(url: string, place: string, key: string): Promise<unknown>;
  /** Options that prevent a bot from working. */
  readonly broken: Record<string, Broken>;
  /** Makes the server close all connections except the one that asks for it. */
  disconnect?(url: string): Promise<void>;
  /** Makes the server refuse writes like a former primary, or accept them again. Absent if it cannot. */
  refuseWrites?(url: string, proxy: Proxy, refuse: boolean): Promise<void>;
  /** A store on a pool whose connections are all in use. `release` makes them available again. */
  exhaust(
    server: FaultServer,
    options: { place: string; timeout: number },
    // deno-lint-ignore no-explicit-any
  ): Promise<{ store: Store<any>; release(): Promise<unknown>; close(): Promise<unknown> }>;
  /** Access to the server by TLS with an untrusted certificate. */
  secure(server: FaultServer): Promise<Secured | undefined>;
  /** Whether acknowledged writes survive when the server is killed. */
  readonly durable: boolean;
}

/** A server with TLS. */
export interface Secured extends AsyncDisposable {
  /** Options of a store on it. The TLS options are passed to the driver. */
  options(place: string, tls: { ca?: string; rejectUnauthorized?: boolean }): object;
}

/** Options that prevent a bot from working. */
export interface Broken {
  options(url: string): object;
  /** The expected error message. */
  readonly error: RegExp;
  /** Changes the server so that the options work. */
  readonly repair?: (url: string) => Promise<unknown>;
  /** The reason if this server cannot run the test. */
  readonly skip?: string | false;
}

/** Starts a separate server with `scripts/servers/`, for tests that break it. */
export async function ownServer(backend: Backend, recipe?: Recipe): Promise<FaultServer> {
  const recipes = recipe && { [backend]: recipe };
  const servers = await startServers({ backends: [backend], recipes, own: true });
  const server = servers.servers[backend];
  let up = true;
  return {
    url: server.url,
    description: `${server.product} ${server.version} (${server.source})`,
    get pid() {
      return server.pid;
    },
    signal: server.pid === undefined ? undefined : (signal) => {
      for (const pid of family(server.pid!)) send(pid, signal);
    },
    async kill() {
      const pids = server.pid === undefined ? [] : family(server.pid);
      await server.stop("SIGKILL");
      for (const pid of pids.slice(1)) send(pid, "SIGKILL");
      await until(() => Promise.resolve(!pids.some((pid) => running().has(pid))));
      up = false;
    },
    async start() {
      if (!up) await server.start();
      up = true;
    },
    stop: () => servers.stop(),
  };
}

/** The parents of all running processes. */
function running(): Map<number, number> {
  const lines = execFileSync("ps", ["-A", "-o", "pid=,ppid=,stat="], { encoding: "utf8" });
  const processes = lines.trim().split("\n").map((line) => line.trim().split(/\s+/));
  return new Map(
    processes.filter(([, , state]) => !state!.startsWith("Z"))
      .map(([pid, parent]) => [Number(pid), Number(parent)]),
  );
}

/** The ids of a process and all its descendants. */
export function family(pid: number, processes = running()): number[] {
  const children = [...processes].filter(([, parent]) => parent === pid);
  return [pid, ...children.flatMap(([child]) => family(child, processes))];
}

/** Sends a signal to a process, unless it has ended meanwhile. */
function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Replaces parts of the URL, such as the host by a proxy. */
export function urlWith(url: string, parts: Partial<URL>): string {
  return Object.assign(new URL(url), parts).href;
}

/** Makes a store on the server of a URL. */
// deno-lint-ignore no-explicit-any
type Open = (url: string) => Store<any>;

/** Cuts the connections to the server while a store writes. No write may be lost. */
export async function goesOnAfterCuts(url: string, open: Open): Promise<void> {
  await using proxy = await Proxy.to(url);
  await using store = open(urlWith(url, { host: proxy.host }));
  for (let i = 0; i < 5; i++) {
    const writes = Array.from({ length: 20 }, (_, j) => store.set(`${j}`, i));
    await wait(i);
    proxy.cut();
    await Promise.all(writes);
    const read = await Promise.all(writes.map((_, j) => store.get(`${j}`)));
    assert.deepEqual(read, writes.map(() => i));
  }
}

/** Opens a store before its server accepts connections. */
export async function opensOnceThere(url: string, open: Open): Promise<void> {
  await using proxy = await Proxy.to(url);
  await proxy.down();
  await using store = open(urlWith(url, { host: proxy.host }));
  const opening = store.ready();
  await wait(300);
  await proxy.up();
  await opening;
}

/** How much later than its deadline an operation may end on a busy machine, in ms. */
const slack = 30_000;

/** Asserts that all operations are rejected with a TimeoutError by their deadline. */
async function allExpire(operations: Promise<unknown>[], timeout: number): Promise<void> {
  const late = wait(timeout + slack, undefined, { ref: false });
  const results = await Promise.race([Promise.allSettled(operations), late]);
  assert.ok(results, `still pending after ${timeout + slack} ms`);
  for (const result of results) {
    assert.equal(result.status === "rejected" && result.reason.name, "TimeoutError");
  }
}

/** Repeats work that must succeed, because a busy machine may miss its short deadline. */
export function patiently<T>(work: () => Promise<T>): Promise<T> {
  let result: T;
  return until(async () => {
    result = await work();
    return true;
  }).then(() => result);
}

/** Repeats work after a TimeoutError, up to 10 times. Any other error is thrown. */
async function again<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1;; tries++) {
    try {
      return await work();
    } catch (error) {
      if ((error as Error).name !== "TimeoutError" || tries === 10) throw error;
    }
  }
}

/** Runs the tests at the same time, because they mostly wait. */
export function atOnce(
  suite: string,
  tests: Record<string, () => Promise<void>>,
  skip: string | false = false,
): void {
  describe(suite, { skip }, () => {
    let runs: Promise<void>[];
    before(() => {
      runs = Object.values(tests).map((test) => test());
      for (const run of runs) run.catch(() => {}); // its test reports it
    });
    Object.keys(tests).forEach((title, i) => it(title, () => runs[i]));
  });
}

/** Runs the suite. */
export function faults(harness: FaultHarness): void {
  const { name } = harness;
  let server: FaultServer;
  before(async () => {
    server = await harness.start();
  });
  after(() => server?.stop());

  describe(`${name} bots`, () => {
    let worker: Worker;
    before(() => {
      worker = new Worker(harness.backend);
    });
    after(() => worker[Symbol.asyncDispose]());
    /** Options of a bot with a short timeout, so that its updates fail soon. */
    const options = (url: string, timeout: number) => ({
      ...harness.options(url, place()),
      timeout,
    });

    /** The errors of the broken bots. All run at the same time, because some fail at the deadline. */
    const failing: Record<string, Promise<WorkerError[]>> = {};
    before(() => {
      for (const [what, { options: wrong, skip }] of Object.entries(harness.broken)) {
        if (skip) continue;
        const opened = worker.open(what, { ...options(server.url, 5_000), ...wrong(server.url) });
        const failed = () => Promise.all([worker.failure(what), worker.failure(what, 2)]);
        failing[what] = opened.then(failed);
        failing[what].catch(() => {}); // its test reports it
      }
    });

    for (const [what, { error, repair, skip }] of Object.entries(harness.broken)) {
      const title = `a bot survives ${what}${repair ? " and answers after it is corrected" : ""}`;
      it(`${name} ${title}${skip ? ` (${skip})` : ""}`, { skip: !!skip }, async () => {
        for (const { name, message } of (await failing[what])!) {
          assert.match(name, /^(Store|Timeout)Error$/);
          assert.match(message, error);
        }
        await repair?.(server.url);
        if (repair) assert.equal(await worker.update(what), 1);
      });
    }

    it(`${name} a bot survives a server that is down at its start, and answers later`, async () => {
      await using proxy = await Proxy.to(server.url);
      await proxy.down();
      const at = urlWith(server.url, { host: proxy.host });
      await worker.open("down", options(at, 2_000));
      assert.equal((await worker.failure("down")).name, "TimeoutError");
      await proxy.up();
      // The count exceeds 1 if an update was stored although a busy machine had timed out.
      await until(async () => Number(await worker.update("down")) >= 1);
      await worker.call("close", "down");
    });

    it(`${name} a bot answers all updates although its connections are cut`, async () => {
      await using proxy = await Proxy.to(server.url);
      const at = urlWith(server.url, { host: proxy.host });
      await worker.open("cut", options(at, 60_000));
      const cuts = [() => proxy.cut(), () => harness.disconnect?.(server.url)];
      let round = 0;
      for (const cut of cuts) {
        await worker.update("cut", 100);
        await cut(); // while the bot is idle
        await worker.update("cut", 100);
        for (const delay of [0, 2, 5, 10, 20]) {
          const counts = worker.call("updates", "cut", 30);
          await wait(delay);
          await cut();
          const expected = Array(30).fill(++round);
          assert.deepEqual(await counts, expected);
        }
      }
      assert.equal(await worker.update("cut", 100), 5);
      await worker.call("close", "cut");
    });

    it(`${name} a bot survives a server that refuses writes, and answers later`, async (context) => {
      if (!harness.refuseWrites) return context.skip("the server cannot be made to refuse writes");
      await using proxy = await Proxy.to(server.url);
      const at = urlWith(server.url, { host: proxy.host });
      await worker.open("read-only", options(at, 5_000));
      let count = 0;
      // A busy machine may miss the short deadline.
      await until(async () => (count = Number(await worker.update("read-only"))) >= 1);
      await harness.refuseWrites(server.url, proxy, true);
      try {
        // It may take a moment to reach all connections.
        let failure: WorkerError | undefined;
        await until(async () => {
          failure = await worker.failure("read-only").catch(() => undefined);
          return failure !== undefined;
        });
        assert.equal(failure!.name, "TimeoutError");
        assert.match(failure!.message, /read.?only|not.?(writable.?)?primary/i);
      } finally {
        await harness.refuseWrites(server.url, proxy, false);
      }
      await until(async () => Number(await worker.update("read-only")) > count);
      await worker.call("close", "read-only");
    });

    afterEach(() => server.start());

    it(`${name} works again after its server is killed under load and restarted`, async () => {
      await worker.open("killed", options(server.url, 60_000));
      assert.equal(await worker.update("killed"), 1);
      const where = place();
      const own = harness.options(server.url, where);
      await using store = harness.store({ ...own, timeout: 60_000 });
      await using impatient = harness.store({ ...own, timeout: 500 });
      await patiently(() => impatient.ready());
      const writes: Promise<unknown>[] = [];
      const acknowledged: number[] = [];
      let down = false;
      let recovered: ((now: number) => void) | undefined;
      const recovery = new Promise<number>((resolve) => recovered = resolve);
      const write = async (i: number) => {
        await store.set(`${i}`, { i });
        acknowledged.push(i);
        if (down) recovered!(Date.now());
      };
      const load = async (done: () => boolean) => {
        while (!done()) {
          const written = write(writes.length);
          written.catch(() => {}); // awaited at the end
          writes.push(written);
          await wait(10);
        }
      };
      await load(() => acknowledged.length >= 50);
      await server.kill();
      const before = harness.durable ? acknowledged.length : 0;
      down = true;
      await Promise.all([
        load(() => writes.length >= before + 80),
        allExpire(
          [impatient.get("x"), impatient.set("x", 1), impatient.delete("x")],
          500,
        ),
      ]);
      const updates = worker.call("updates", "killed", 10);
      await server.start();
      const accepts = Date.now();
      const delay = Math.max(0, await recovery - accepts);
      console.log(`${name}: first success ${delay} ms after the server restarted`);
      await load(() => writes.length >= 200);
      await Promise.all(writes);
      assert.ok(delay < 2_000 + slack, `took ${delay} ms`);
      assert.deepEqual(await updates, [2, ...Array(9).fill(1)]);
      await using other = harness.store(own);
      const stored = await Promise.all(acknowledged.map((i) => other.get(`${i}`)));
      assert.deepEqual(stored, acknowledged.map((i) => ({ i })));
      assert.equal(await again(() => impatient.get("x")), undefined);
      await worker.call("close", "killed");
    });

    it(`${name} bots print nothing, reveal no password, and let their process end`, async () => {
      await worker.call("reported"); // puts the errors into the log
      for (const what of Object.keys(harness.broken)) {
        if (!harness.broken[what]!.skip) await worker.call("close", what);
      }
      await worker.end();
      assert.equal(worker.log.match(/.{0,200}s3cret/)?.[0], undefined);
    });
  });

  atOnce(`${name} lost messages and deadlines`, {
    ...Object.fromEntries(
      allFaults.map((fault) => [
        `${name} keeps the correct sessions after a fault: ${fault}`,
        () => lose(fault),
      ]),
    ),
    [`${name} operations time out if no reply arrives, and later ones succeed`]: blackHole,
    [`${name} operations time out if all connections of the pool are in use`]: exhaust,
    [`${name} closes while it connects again and gets no reply`]: closeInTheDark,
    [`${name} holds the same data as a map, despite random connection faults`]: () =>
      useAtRandom(6),
    ...!harness.noLeases && {
      [`${name} with cache holds the same data as a map, despite random connection faults`]: () =>
        useAtRandom(3, { cache: true }),
    },
  });

  it(`${name} operations time out while the server is suspended`, async (context) => {
    if (server.signal === undefined) return context.skip("the server's processes are out of reach");
    const where = place();
    await using store = harness.store({ ...harness.options(server.url, where), timeout: 1_000 });
    await patiently(() => store.set("k", 0));
    try {
      server.signal("SIGSTOP");
      await wait(200); // threads on other processors may run a moment longer
      await inTheDark(store);
    } finally {
      server.signal("SIGCONT");
    }
    // The server now executes the earlier requests. No caller waits for them.
    await until(async () => (await harness.peek(server.url, where, "k")) !== undefined);
    await wait(1_000);
    await recovers(store, where, 1);
  });

  /** Applies the fault to each operation, and checks the results and the stored sessions. */
  async function lose(fault: Fault): Promise<void> {
    await using proxy = await Proxy.to(server.url);
    const where = place();
    const own = harness.options(urlWith(server.url, { host: proxy.host }), where);
    // A driver may take garbage for the beginning of a reply, and wait for the rest.
    const timeout = fault === "reply garbled" ? 3_000 : 60_000;
    await using store = harness.store({ ...own, timeout });
    const [kept, read, gone, written] = ["kept", "read", "gone", "written"].map((what) =>
      `${what}-${place()}`
    ) as [string, string, string, string];
    // All statements are prepared and the values stored before the fault happens.
    await patiently(async () => {
      for (const key of [kept, read, gone, written]) await store.set(key, { key });
      for (const i of [0, 1]) {
        await Promise.all([1, 2, 3].map((j) => store.set(`batch-${j}`, { i })));
      }
      await Promise.all([1, 2, 3].map((j) => store.get(`batch-${j}`)));
      await store.delete("other");
      await store.get("other");
    });

    /** Runs the work once, with the fault; returns whether it succeeded. */
    async function meet(marker: string, work: () => Promise<unknown>): Promise<boolean> {
      const sprung = proxy.trap(fault, marker);
      try {
        await work();
        return true;
      } catch (error) {
        // Garbage may cause an error.
        if (fault !== "reply garbled") throw error;
        assert.match((error as Error).name, /^(Store|Timeout)Error$/);
        return false;
      } finally {
        await sprung;
        const others = () => Promise.all([kept, "batch-3", "other"].map((key) => store.get(key)));
        const sessions = await patiently(others);
        assert.deepEqual(sessions, [{ key: kept }, { i: 1 }, undefined]);
      }
    }

    await meet(read, async () => assert.deepEqual(await store.get(read), { key: read }));
    assert.deepEqual(await store.get(read), { key: read });

    const value = place();
    if (await meet(value, () => store.set(written, { value }))) {
      assert.deepEqual(await harness.peek(server.url, where, written), { value });
    }
    const later = store.set(written, { value: 2 });
    assert.deepEqual(await store.get(written), { value: 2 });
    await later;
    assert.deepEqual(await harness.peek(server.url, where, written), { value: 2 });

    if (await meet(gone, () => store.delete(gone))) {
      assert.equal(await harness.peek(server.url, where, gone), undefined);
    }
    assert.match(inspect(await store.get(gone)), /^undefined|gone/);

    const text = place();
    const batch = () => Promise.all([1, 2].map((j) => store.set(`batch-${j}`, { text })));
    if (await meet(text, batch)) {
      assert.deepEqual(await harness.peek(server.url, where, "batch-1"), { text });
      assert.deepEqual(await harness.peek(server.url, where, "batch-2"), { text });
    }
    // Writes that wait during the fault take effect after it.
    const last = place();
    const ended = await meet(last, async () => {
      const first = store.set(written, { last });
      await wait(1); // the write is in progress
      await Promise.all([
        first,
        store.set(written, { value: 3 }),
        store.set(written, { value: 4 }),
      ]);
    });
    if (!ended) await store.set(written, { value: 4 });
    assert.deepEqual(await harness.peek(server.url, where, written), { value: 4 });
  }

  processes(harness, () => server.url, harness.durable ? () => server : undefined);

  it(`${name} checks the server's certificate, and passes TLS options to the driver`, async (context) => {
    await using secured = await harness.secure(server);
    if (secured === undefined) return context.skip("the server cannot be given a certificate");
    const where = place();
    const store = (tls: { ca?: string; rejectUnauthorized?: boolean }) =>
      harness.store({ ...secured.options(where, tls), timeout: 20_000 });
    await using strict = store({});
    const message = /certificate|self.signed|UnknownIssuer/i;
    await assert.rejects(strict.set("k", { a: 1 }), { name: "StoreError", message });
    await using knowing = store({ ca: cert });
    await knowing.set("k", { a: 1 });
    await using careless = store({ rejectUnauthorized: false });
    assert.deepEqual(await careless.get("k"), { a: 1 });
  });

  /** Uses stores behind proxies at random. */
  function useAtRandom(runs: number, own?: StoreOptions): Promise<void> {
    return model(
      {
        open(where, options, proxy) {
          const url = proxy === undefined ? server.url : urlWith(server.url, { host: proxy.host });
          return harness.store({ ...harness.options(url, where), ...options });
        },
        proxy: () => Proxy.to(server.url),
      },
      runs,
      own,
    );
  }

  async function blackHole(): Promise<void> {
    await using proxy = await Proxy.to(server.url);
    const where = place();
    const own = harness.options(urlWith(server.url, { host: proxy.host }), where);
    await using store = harness.store({ ...own, timeout: 1_000 });
    await patiently(() => store.set("k", 0));
    for (let round = 1; round <= 2; round++) {
      proxy.blackHole = true;
      proxy.silence();
      await inTheDark(store);
      proxy.blackHole = false;
      await recovers(store, where, round);
    }
  }

  /** `close` waits for the driver up to its deadline, and reports no connection that is lost anyway. */
  async function closeInTheDark(): Promise<void> {
    for (const delay of [100, 500, 900]) {
      await using proxy = await Proxy.to(server.url);
      const own = harness.options(urlWith(server.url, { host: proxy.host }), place());
      const store = harness.store({ ...own, timeout: 1_000 });
      await patiently(() => store.set("k", 0));
      proxy.blackHole = true;
      proxy.silence();
      const operations = [store.set("k", 1), store.get("other")];
      await wait(delay);
      proxy.cut();
      await allExpire(operations, 1_000);
      const error = await store.close().catch((error) => error);
      if (error?.name !== "TimeoutError") assert.equal(error, undefined);
    }
  }

  async function exhaust(): Promise<void> {
    const where = place();
    const { store, release, close } = await harness.exhaust(server, {
      place: where,
      timeout: 1_000,
    });
    try {
      await inTheDark(store);
      await release();
      await recovers(store, where, 1);
    } finally {
      await store.close();
      await close();
    }
  }

  /** Operations end by their deadline, and reads return the last written value. */
  async function inTheDark(store: Store<unknown>): Promise<void> {
    const operations = [
      store.get("a"),
      store.set("b", 1),
      store.delete("c"),
      store.set("k", -1),
      store.set("k", -2),
    ];
    assert.equal(await store.get("k"), -2);
    await allExpire(operations, 1_000);
    await allExpire([store.get("k"), store.set("k", -3)].slice(1), 1_000);
  }

  /** The store works again, and abandoned writes do not overwrite new ones. */
  async function recovers(store: Store<unknown>, where: string, round: number): Promise<void> {
    await patiently(() => store.set("k", "first"));
    for (let i = 0; i < 20; i++) {
      await again(async () => {
        const write = store.set("k", { round, i });
        assert.deepEqual(await store.get("k"), { round, i });
        await write;
      });
      assert.deepEqual(await harness.peek(server.url, where, "k"), { round, i });
    }
    await Promise.all(Array.from({ length: 50 }, (_, i) => again(() => store.set(`k${i}`, i))));
  }
}

/** Runs the suite for several processes on one database. It kills the server if it gets one. */
export function processes(
  harness: ProcessHarness,
  url: () => string,
  server?: () => FaultServer,
): void {
  const { name } = harness;
  exclusivelyUnderFaults(harness, url, server);
  cached(harness, url);
  it(`${name} keeps the complete last writes of 4 processes, and no process fails`, async () => {
    const options = { ...harness.options(url(), place()), timeout: 60_000 };
    const workers = [0, 1, 2, 3].map(() => new Worker(harness.backend));
    try {
      await Promise.all(workers.map((worker) => worker.open("bot", options)));
      const keys = Array.from({ length: 12 }, (_, i) => `key:${i}`);
      type Last = Record<string, string | null | undefined>;
      const lasts = await Promise.all(
        workers.map((worker, who) => worker.call("hammer", "bot", who, keys, 1_500)),
      ) as Last[];
      await using store = harness.store(options);
      for (const key of keys) {
        const session = await store.get(key);
        const last = session === undefined ? null : `${session.who}:${session.count}`;
        const written = lasts.map((own) => own[key]).filter((it) => it !== undefined);
        // On a slow machine possibly no process has written the key.
        const expected = written.length > 0 ? written : [null];
        assert.ok(expected.includes(last), `${key} is ${last}, expected ${expected.join(" or ")}`);
      }
      await Promise.all(workers.map((worker) => worker.call("close", "bot")));
      await Promise.all(workers.map((worker) => worker.end()));
    } finally {
      await Promise.all(workers.map((worker) => worker[Symbol.asyncDispose]()));
    }
  });
}

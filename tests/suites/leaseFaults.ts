/**
 * Leases on connections that are cut: an update that succeeds is stored once, and one that fails at most
 * once. Each request of an update is lost once on its way, and once its reply on the way back.
 */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import type { Store, StoreOptions } from "../../mod.ts";
import type { Backend, Held, Leases } from "../../src/backend.ts";
import { leaseDefaults } from "../../src/lease/options.ts";
import { Cleanup } from "../support/cleanup.ts";
import { type Fault, faults, Proxy } from "../support/proxy.ts";
import { place } from "../support/servers.ts";
import { until } from "../support/until.ts";
import { patiently, urlWith } from "./faults.ts";
import { heldLeases } from "../../src/testing/leases.ts";
import { leaseModel, type LeaseWorld, type List } from "./leaseModel.ts";

/** Describes a backend to the suite. */
export interface LeaseFaultHarness {
  /** The backend's name. Each test title begins with it. */
  readonly name: string;
  readonly url: string;
  /** A store with its data in the place. The cleanup ends it, and its client. */
  store(url: string, place: string, options: StoreOptions, cleanup: Cleanup): Store<List>;
  /** A backend on the same data, to look for leases. */
  // deno-lint-ignore no-explicit-any
  backend(url: string, place: string): Backend<any>;
  drop(place: string): Promise<unknown>;
  /** How many round trips an update needs. */
  roundTrips(): Promise<number>;
}

interface Times {
  readonly wait: number;
  readonly lease?: number;
}

const patient: Times = { wait: 600_000 };
const { signal } = new AbortController();

/** The updates of one session, which several stores send. */
class History {
  readonly key: string;
  readonly #acknowledged: { name: string; read: List }[] = [];
  readonly #failed = new Set<string>();

  constructor(key: string) {
    this.key = key;
  }

  /**
   * Appends the name of an update.
   *
   * @param times `wait`, and `lease` for an update under `exclusive()`.
   * @returns whether it succeeded.
   */
  async append(store: Store<List>, name: string, times: Times): Promise<boolean> {
    let read: List = [];
    const change = (list: List = []) => [...read = list, name];
    try {
      if (times.lease === undefined) await store.update(this.key, change, times);
      else await this.#exclusively(store, change, times);
    } catch (error) {
      assert.match((error as Error).name, /^(Lease|Timeout|Store)Error$/);
      this.#failed.add(name);
      return false;
    }
    this.#acknowledged.push({ name, read });
    return true;
  }

  /** Checks what is stored at the end. */
  async check(store: Store<List>): Promise<void> {
    const list = await store.get(this.key) ?? [];
    assert.equal(new Set(list).size, list.length, `some updates are stored twice: ${list}`);
    const others = list.filter((name) => !this.#failed.has(name));
    const names = this.#acknowledged.map(({ name }) => name);
    assert.deepEqual(others.toSorted(), names.toSorted());
    // What an update has read, and then itself, is what the list begins with.
    for (const { name, read } of this.#acknowledged) {
      assert.deepEqual(list.slice(0, read.length + 1), [...read, name]);
    }
  }

  async #exclusively(store: Store<List>, change: (list?: List) => List, times: Times) {
    const run = store.exclusive({ getSessionKey: () => this.key, ...times });
    const handle = async () => await store.set(this.key, change(await store.get(this.key)));
    await run({ state: {}, update: { update_id: 1 } }, handle);
  }
}

/** A store whose connections can be cut, another one, and what they share. */
class Scene extends Cleanup {
  readonly #harness: LeaseFaultHarness;
  readonly where: string;
  readonly proxy: Proxy;
  readonly near: Store<List>;
  readonly far: Store<List>;
  /** Has a connection of its own. */
  readonly looker: Backend<unknown>;

  private constructor(harness: LeaseFaultHarness, where: string, proxy: Proxy, timeout: number) {
    super();
    this.#harness = harness;
    this.where = where;
    this.of(where, harness.drop);
    this.proxy = this.of(proxy, (proxy) => proxy[Symbol.asyncDispose]());
    this.near = this.nearby(timeout);
    this.far = harness.store(harness.url, where, { timeout: 60_000 }, this);
    this.looker = this.of(harness.backend(harness.url, where), (backend) => backend.close());
  }

  /** Opens it. All statements of an update are prepared. */
  static async open(harness: LeaseFaultHarness, timeout = 60_000): Promise<Scene> {
    const where = place();
    const scene = new Scene(harness, where, await Proxy.to(harness.url), timeout);
    const opening = { expiring: false, leasing: true, signal, report() {} };
    await patiently(async () => await scene.looker.open(opening));
    for (const store of [scene.near, scene.far]) {
      for (const round of ["a", "b"]) {
        await patiently(() => store.update("first", () => [round], patient));
      }
    }
    return scene;
  }

  /** Another store behind the proxy. */
  nearby(timeout: number): Store<List> {
    const { url, store } = this.#harness;
    return store(urlWith(url, { host: this.proxy.host }), this.where, { timeout }, this);
  }

  /** The leases that are held. */
  async held(): Promise<Held[]> {
    return [...(await heldLeases(this.looker.leases as Leases<unknown>)).values()];
  }
}

/** Runs the suite. */
export function leaseFaults(harness: LeaseFaultHarness): void {
  const { name } = harness;
  describe(`${name} leases through a proxy`, () => {
    it(`${name} needs few round trips for an update, and one claim for a burst`, () =>
      count(harness));
    for (const fault of faults) {
      it(`${name} stores each update once after a fault: ${fault}`, async () => {
        await Promise.all(Object.keys(works).map((what) => meet(harness, fault, what)));
      });
    }
    for (const fault of ["request lost", "reply lost"] as const) {
      it(`${name} refuses a repeated settlement after another update, after a fault: ${fault}`, () =>
        overtake(harness, fault));
    }
    it(`${name} behaves like a model under leases`, () =>
      leaseModel(() => openWorld(harness), { numRuns: 5 }));
    it(`${name} loses no update of three processes whose connections are cut`, () => cut(harness));
  });
}

/** Two stores with the clock of the machine. */
async function openWorld(harness: LeaseFaultHarness): Promise<LeaseWorld> {
  const scene = await Scene.open(harness);
  return {
    stores: [scene.near, scene.far],
    backend: scene.looker,
    now: Date.now,
    run: (promise) => promise,
    [Symbol.asyncDispose]: () => scene[Symbol.asyncDispose](),
  };
}

/** Counts the requests of updates. */
async function count(harness: LeaseFaultHarness): Promise<void> {
  await using scene = await Scene.open(harness);
  const { near, proxy } = scene;
  let requests: string[] = [];
  proxy.change = (request) => void requests.push(request.toString("latin1"));
  /** The fewest in a few runs: one may prepare a statement, or be so slow that it renews its lease. */
  async function fewest(work: () => Promise<unknown>, count: () => number): Promise<number> {
    let least = Infinity;
    for (let run = 0; run < 3; run++) {
      requests = [];
      await work();
      least = Math.min(least, count());
    }
    return least;
  }
  const changes: Record<string, (list?: List) => List | null | undefined> = {
    "nothing": () => undefined,
    "a new session": () => ["a", place()],
    "an unchanged session": (list) => list,
    "a deletion": () => null,
  };
  for (const [what, change] of Object.entries(changes)) {
    const update = async () => {
      if (what === "nothing" || what === "a new session") await near.delete("k");
      else await near.set("k", ["a"]);
      requests = [];
      await near.update("k", change);
    };
    assert.equal(await fewest(update, () => requests.length), await harness.roundTrips(), what);
  }
  const token = /[\w-]{12}\.\w+\.\d{13}\.\d+\./g;
  const tokens = () => new Set(requests.flatMap((request) => request.match(token) ?? [])).size;
  const burst = async () => {
    const history = new History(place());
    await Promise.all(
      Array.from({ length: 100 }, (_, i) => history.append(near, `${i}`, patient)),
    );
    await history.check(near);
  };
  assert.equal(await fewest(burst, tokens), 1);
}

type Append = (history: History, store: Store<List>, name: string) => Promise<boolean>;

/** Updates at the same time; what they resolve with says which of them succeeded. */
const works: Record<
  string,
  (append: Append, histories: History[], scene: Scene) => Promise<boolean>[]
> = {
  "one": (append, [history], { near }) => [append(history!, near, "1")],
  "burst": (append, [history], { near }) =>
    ["1", "2", "3"].map((name) => append(history!, near, name)),
  "two keys": (append, histories, { near }) =>
    histories.map((history) => append(history, near, "1")),
  "two processes": (append, [history], { near, far }) =>
    [near, far].map((store, i) => append(history!, store, `${i}`)),
};

/** Applies the fault to each request of an update. */
async function meet(harness: LeaseFaultHarness, fault: Fault, what: string): Promise<void> {
  // A driver may take garbage for the beginning of a reply, and wait for the rest.
  const garbled = fault === "reply garbled";
  const lease = garbled ? 1_000 : leaseDefaults.lease;
  // Without other processes a claim is never refused: a repeated one must be granted again.
  const wait = garbled || what === "two processes" ? patient.wait : 1;
  const times = garbled ? { wait, lease } : { wait };
  const append: Append = (history, store, name) => history.append(store, name, times);
  await using scene = await Scene.open(harness, garbled ? 1_000 : undefined);
  const { near, far, proxy } = scene;
  let request = 0;
  for (;;) {
    const key = `${request}-${place()}`;
    const histories = ["a", "b"].map((each) => new History(`${key}-${each}`));
    let sprung = false;
    proxy.trap(fault, key, request).then(() => sprung = true);
    const results = await Promise.all(works[what]!(append, histories, scene));
    proxy.disarm();
    const held = (await scene.held()).filter((it) => it.key.startsWith(key));
    const allSucceeded = !results.includes(false);
    // A lease that no update has released ends by itself.
    if (allSucceeded) assert.deepEqual(held, []);
    for (const { left } of held) assert.ok(left <= lease, `${left} ms`);
    // A repeated settlement is refused if its reply was lost and another process has the lease now.
    assert.ok(allSucceeded || garbled || what === "two processes", `request ${request}`);
    for (const history of histories) {
      for (const [i, store] of [near, far].entries()) {
        let round = 0;
        await until(() => append(history, store, `later ${i}.${round++}`));
      }
      await history.check(far);
    }
    // An update may time out on a slow machine before it sends the request.
    if (sprung) request++;
    else if (allSucceeded) break;
  }
  assert.ok(request >= 2, "an update has at least two requests");
}

/** Another process stores an update before one can repeat its settlement. */
async function overtake(harness: LeaseFaultHarness, fault: Fault): Promise<void> {
  await using scene = await Scene.open(harness);
  const { near, far, proxy } = scene;
  const times = { ...patient, lease: 1_000 };
  let requests = 0;
  proxy.change = () => void requests++;
  assert.ok(await new History(place()).append(near, "1", times));
  proxy.change = undefined;
  const history = new History(place());
  const sprung = proxy.trap(fault, history.key, requests - 1);
  const late = history.append(near, "late", times);
  await sprung;
  await proxy.down();
  assert.ok(await history.append(far, "far", times));
  await proxy.up();
  assert.ok(!await late);
  assert.deepEqual(await far.get(history.key), fault === "reply lost" ? ["late", "far"] : ["far"]);
  assert.ok(await history.append(near, "later", times));
  await history.check(far);
}

/** Cuts the connections of two of three processes again and again. */
async function cut(harness: LeaseFaultHarness): Promise<void> {
  await using scene = await Scene.open(harness);
  const stores = [scene.near, scene.nearby(60_000), scene.far];
  const histories = ["a", "b"].map((key) => new History(key));
  let ended = 0;
  const cuts: Promise<void>[] = [];
  await Promise.all(stores.flatMap((store, i) =>
    histories.map(async (history) => {
      for (let n = 0; n < 30; n += 3) {
        await Promise.all([0, 1, 2].map((j) => history.append(store, `${i}.${n + j}`, patient)));
        if (++ended % 5 === 0) cuts.push(wait(5 * Math.random()).then(() => scene.proxy.cut()));
      }
    })
  ));
  await Promise.all(cuts);
  for (const history of histories) await history.check(scene.far);
  assert.deepEqual(await scene.held(), []);
}

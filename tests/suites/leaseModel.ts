/**
 * Compares two stores under leases with a model, during random commands: updates that run for a while,
 * changes without a lease, leases that are lost, and time that passes.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import type { Store } from "../../mod.ts";
import type { Backend, Leases } from "../../src/backend.ts";
import { leaseDefaults } from "../../src/lease/options.ts";
import { heldLeases } from "../../src/testing/leases.ts";

/** A session: the names of its changes. */
export type List = readonly string[];

/** Two stores on the same data, and what the test may do to them. */
export interface LeaseWorld extends AsyncDisposable {
  readonly stores: readonly [Store<List>, Store<List>];
  /** A backend on the same data, which is open for leases. */
  // deno-lint-ignore no-explicit-any
  readonly backend: Backend<any>;
  /** The `ttl` of the stores. */
  readonly ttl?: number;
  /** The time in ms since the epoch. */
  now(): number;
  /** Waits until the promise is settled. */
  run<T>(promise: Promise<T>): Promise<T>;
  /** Lets time pass. Absent if the clock is a real one. */
  advance?(ms: number): Promise<void>;
  /** Lets nothing of the store's leases arrive until the returned function is called. */
  freeze?(store: number): () => void;
}

/** A world on a real database with the clock of this process. Opens the backend for leases. */
export async function realWorld(
  stores: LeaseWorld["stores"],
  backend: LeaseWorld["backend"],
): Promise<LeaseWorld> {
  await backend.open({
    ...{ expiring: false, leasing: true, report() {} },
    signal: new AbortController().signal,
  });
  return {
    stores,
    backend,
    now: Date.now,
    run: (promise) => promise,
    async [Symbol.asyncDispose]() {
      await backend.close();
      for (const store of stores) await store.close();
    },
  };
}

/** What an update does with its session. */
type Kind = "append" | "delete" | "throw";

/** How an update ended: with the operation of its LeaseError, for example. */
type Outcome = "done" | "thrown" | "lock" | "write";

/** An update that has its lease. */
interface Update {
  readonly store: number;
  readonly key: string;
  readonly kind: Kind;
  readonly name: string;
  readonly read: List | undefined;
  /** When it has run for too long. */
  readonly ends: number;
  lost: boolean;
  /** Whether its lease may be lost by a deletion without a lease, which databases may allow. */
  uncertain: boolean;
  end(): Promise<Outcome>;
}

/** What is stored, and which updates run. */
class Model {
  readonly world: LeaseWorld;
  readonly updates: Update[] = [];
  readonly #sessions = new Map<string, { list: List; expires: number }>();
  #count = 0;

  constructor(world: LeaseWorld) {
    this.world = world;
  }

  newName(): string {
    return `${this.#count++}`;
  }

  get(key: string): List | undefined {
    const { list, expires = 0 } = this.#sessions.get(key) ?? {};
    return expires > this.world.now() ? list : undefined;
  }

  set(key: string, list: List | undefined): void {
    const { ttl = Infinity, now } = this.world;
    if (list === undefined) this.#sessions.delete(key);
    else this.#sessions.set(key, { list, expires: now() + ttl });
  }

  /** Stores what an update has changed. */
  apply({ key, kind, name, read }: Pick<Update, "key" | "kind" | "name" | "read">): void {
    if (kind === "append") this.set(key, [...read ?? [], name]);
    if (kind === "delete" && read !== undefined) this.set(key, undefined);
  }

  /** The update that has the lease of the key. */
  holder(key: string): Update | undefined {
    return this.updates.find((it) => it.key === key && !it.lost && this.world.now() < it.ends);
  }

  /** Whether another update of the key would wait for one in the same store. */
  isBusy(store: number, key: string): boolean {
    return this.updates.some((it) =>
      it.store === store && it.key === key && this.world.now() < it.ends
    );
  }
}

const { signal } = new AbortController();

async function outcomeOf(update: Promise<unknown>): Promise<Outcome> {
  try {
    await update;
    return "done";
  } catch (error) {
    const { name, operation, message } = error as Error & { operation?: Outcome };
    if (message === "thrown") return "thrown";
    assert.equal(name, "LeaseError", String(error));
    return operation!;
  }
}

/** What an update makes of the session that it has read. */
function change(kind: Kind, name: string, list: List | undefined): List | null {
  if (kind === "throw") throw new Error("thrown");
  return kind === "delete" ? null : [...list ?? [], name];
}

type Command = fc.AsyncCommand<Model, LeaseWorld>;

function command(
  name: string,
  check: (model: Model) => boolean,
  run: (model: Model, world: LeaseWorld) => Promise<void>,
): Command {
  return { check: (model) => check(model as Model), run, toString: () => name };
}

/** An update that ends in the same command. The other store may have the lease. */
const update = (store: number, key: string, kind: Kind) =>
  command(
    `update(${store}, ${key}, ${kind})`,
    (model) => !model.isBusy(store, key),
    async (model, world) => {
      const name = model.newName();
      const holder = model.holder(key);
      const call = world.stores[store]!.update(key, (read) => {
        assert.deepEqual(read, model.get(key));
        model.apply({ key, kind, name, read });
        return change(kind, name, read);
      }, { wait: holder ? 1 : leaseDefaults.wait });
      const outcome = await world.run(outcomeOf(call));
      if (outcome === "lock") return assert.ok(holder);
      assert.equal(outcome, kind === "throw" ? "thrown" : "done");
      assert.ok(holder === undefined || holder.uncertain);
      if (holder) holder.lost = true;
    },
  );

/** An update that goes on until `end`. */
const begin = (store: number, key: string, kind: Kind) =>
  command(
    `begin(${store}, ${key}, ${kind})`,
    (model) => !model.isBusy(store, key) && !model.holder(key),
    async (model, world) => {
      const name = model.newName();
      let end!: () => void;
      const ended = new Promise<void>((resolve) => end = resolve);
      let begun!: (read: List | undefined) => void;
      const reading = new Promise<List | undefined>((resolve) => begun = resolve);
      const outcome = outcomeOf(world.stores[store]!.update(key, async (list) => {
        begun(list);
        await ended;
        return change(kind, name, list);
      }));
      const unexpected = outcome.then((outcome) => assert.fail(`it ended: ${outcome}`));
      unexpected.catch(() => {});
      const read = await world.run(Promise.race([reading, unexpected]));
      assert.deepEqual(read, model.get(key));
      model.updates.push({
        ...{ store, key, kind, name, read },
        ends: world.now() + leaseDefaults.most,
        lost: false,
        uncertain: false,
        end() {
          end();
          return world.run(outcome);
        },
      });
    },
  );

/** Ends an update that runs, with the change that it makes if it still has its lease. */
const end = (index: number) =>
  command(
    `end(${index})`,
    ({ updates }) => updates.length > 0,
    async (model) => {
      const [it] = model.updates.splice(index % model.updates.length, 1) as [Update];
      const holds = !it.lost && model.world.now() < it.ends;
      if (holds && !it.uncertain) model.apply(it);
      const outcome = await it.end();
      if (it.kind === "throw") return assert.equal(outcome, "thrown");
      // A deletion is not refused if there is nothing to delete.
      const isMissing = it.read === undefined || model.get(it.key) === undefined;
      const storesNothing = it.kind === "delete" && isMissing;
      if (holds && !it.uncertain) return assert.equal(outcome, "done");
      if (!holds && !storesNothing) assert.equal(outcome, "write");
      else if (holds && outcome === "done") model.apply(it);
    },
  );

const get = (store: number, key: string) =>
  command(`get(${store}, ${key})`, () => true, async (model, world) => {
    assert.deepEqual(await world.run(world.stores[store]!.get(key)), model.get(key));
  });

/** A change without a lease, which is not excluded: the update under the lease overwrites it. */
const set = (store: number, key: string) =>
  command(`set(${store}, ${key})`, () => true, async (model, world) => {
    const list = [model.newName()];
    model.set(key, list);
    await world.run(world.stores[store]!.set(key, list));
  });

const remove = (store: number, key: string) =>
  command(`delete(${store}, ${key})`, () => true, async (model, world) => {
    model.set(key, undefined);
    const holder = model.holder(key);
    if (holder) holder.uncertain = true;
    await world.run(world.stores[store]!.delete(key));
  });

/** The lease goes to a third process, which stores a session. */
const lose = (key: string) =>
  command(`lose(${key})`, (model) => model.holder(key) !== undefined, async (model, world) => {
    const { backend, ttl, now } = world;
    const leases = backend.leases as Leases<unknown>;
    const own = (await heldLeases(leases)).get(key);
    if (own) await leases.settle([{ ...own, length: 0, change: undefined }], signal);
    const claim = { key, token: "third", length: 60_000 };
    const [claimed] = await leases.claim([claim], signal);
    assert.equal(claimed!.token, "third");
    const list = [model.newName()];
    const expires = ttl === undefined ? {} : { expires: now() + ttl };
    const entry = { key, value: backend.codec.encode(list), ...expires };
    assert.deepEqual(await leases.settle([{ ...claim, length: 0, change: entry }], signal), []);
    model.set(key, list);
    model.holder(key)!.lost = true;
  });

/** A process is stopped until its lease ends, and the other one gets the lease. */
const overtake = (key: string) =>
  command(
    `overtake(${key})`,
    (model) => {
      const holder = model.holder(key);
      return holder !== undefined && !model.isBusy(1 - holder.store, key);
    },
    async (model, world) => {
      const holder = model.holder(key)!;
      const { store } = holder;
      const goOn = world.freeze!(store);
      const name = model.newName();
      const call = world.stores[1 - store]!.update(key, (read) => {
        assert.deepEqual(read, model.get(key));
        model.apply({ key, kind: "append", name, read });
        return change("append", name, read);
      });
      assert.equal(await world.run(outcomeOf(call)), "done");
      holder.lost = true;
      goOn();
    },
  );

const pass = (ms: number) => command(`pass(${ms})`, () => true, (_, world) => world.advance!(ms));

/** The commands, on two stores and two keys. */
function commands(hasClock: boolean): fc.Arbitrary<Iterable<Command>> {
  const store = fc.constantFrom(0, 1);
  const key = fc.constantFrom("a", "b");
  const kind = fc.constantFrom<Kind>("append", "append", "append", "delete", "throw");
  const change = fc.tuple(store, key, kind);
  const place = fc.tuple(store, key);
  const all: fc.Arbitrary<Command>[] = [
    change.map((args) => update(...args)),
    change.map((args) => begin(...args)),
    change.map((args) => begin(...args)),
    fc.nat(3).map(end),
    place.map((args) => get(...args)),
    place.map((args) => set(...args)),
    place.map((args) => remove(...args)),
    key.map(lose),
  ];
  if (hasClock) {
    all.push(key.map(overtake), fc.constantFrom(1_000, 20_000, 400_000).map(pass));
  }
  return fc.commands(all, { maxCommands: 60, size: "max" });
}

/**
 * Runs random commands. Each run has its own data.
 *
 * @param hasClock whether the test can let time pass.
 */
export async function leaseModel(
  open: () => Promise<LeaseWorld>,
  { numRuns, hasClock = false }: { numRuns: number; hasClock?: boolean },
): Promise<void> {
  const property = fc.asyncProperty(commands(hasClock), async (commands) => {
    await using world = await open();
    const model = new Model(world);
    await fc.asyncModelRun(() => ({ model, real: world }), commands);
    while (model.updates.length > 0) await end(0).run(model, world);
    for (const key of ["a", "b"]) await get(0, key).run(model, world);
  });
  await fc.assert(property, { numRuns });
}

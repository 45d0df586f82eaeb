/** A backend in memory that records its calls, and fails or waits as a test requires. */

import type { Backend, Limits } from "../../src/backend.ts";
// What stores load when they need it. To load it during a test would take time of the real clock.
import "../../src/cache/ownership.ts";
import "../../src/lease/exclusive.ts";
import { memoryBackend, MemoryData } from "../../src/memory.ts";
import type { StoreOptions } from "../../src/options.ts";
import "../../src/store/late.ts";
import { makeStore, type Store } from "../../src/store/store.ts";
import { transformed } from "../../src/transform/backend.ts";
import "../../src/transform/rewrite.ts";
import "../../src/transform/stored.ts";
import { ManualClock } from "./clock.ts";

/** A transient error. */
export class Transient extends Error {
  override name = "Transient";
}

/** A promise that is never settled. */
export const never = (): Promise<never> => new Promise<never>(() => {});

/** A promise, and the function that resolves it. */
export function gate(): { readonly opened: Promise<void>; open(): void } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => open = resolve);
  return { opened, open: () => open() };
}

export class Script {
  readonly clock: ManualClock;
  readonly data: MemoryData;
  readonly sessions: MemoryData["sessions"];
  /** Each call with its keys, in the order in which the calls began. */
  readonly calls: string[] = [];
  /** Thrown by the next calls, one each. A call succeeds if its place has `undefined`. */
  failures: unknown[] = [];
  /** Runs before each call takes effect. */
  before: (call: string) => unknown = () => {};
  report: ((error: unknown) => void) | undefined;
  readonly signals: AbortSignal[] = [];
  readonly backend: Backend;

  /** @param other a script with the same clock and data: that of another process. */
  constructor(limits: Partial<Limits> = {}, other?: Script) {
    this.clock = other?.clock ?? new ManualClock();
    this.data = other?.data ?? new MemoryData();
    this.sessions = this.data.sessions;
    const memory = memoryBackend(this.data, this.clock.date);
    const leases = memory.leases as Exclude<typeof memory.leases, string | undefined>;
    const step = async (name: string, keys: string[], signal?: AbortSignal) => {
      const call = [name, ...keys].join(" ");
      this.calls.push(call);
      if (signal) this.signals.push(signal);
      await this.before(call);
      const failure = this.failures.shift();
      if (failure !== undefined) throw failure;
    };
    const keysOf = (entries: { readonly key: string }[]) => entries.map(({ key }) => key);
    this.backend = {
      ...memory,
      leases: {
        claim: (claims, signal) =>
          step("claim", keysOf(claims), signal).then(() => leases.claim(claims, signal)),
        settle: (settlements, signal) =>
          step("settle", keysOf(settlements), signal)
            .then(() => leases.settle(settlements, signal)),
        held: (start, size, signal) =>
          step("held", start ? [start] : [], signal).then(() => leases.held(start, size, signal)),
        find: (keys, signal) => step("find", keys, signal).then(() => leases.find(keys, signal)),
      },
      open: async ({ signal, report, expiring, leasing }) => {
        this.report = report;
        const needs = [...(expiring ? ["expiring"] : []), ...(leasing ? ["leasing"] : [])];
        await step("open", needs, signal);
        return { keys: 128, bytes: 1e6, ...limits };
      },
      read: (keys, signal) => step("read", keys, signal).then(() => memory.read(keys, signal)),
      write: (entries, signal) =>
        step("write", keysOf(entries), signal).then(() => memory.write(entries, signal)),
      replace: (replacements, signal) =>
        step("replace", keysOf(replacements), signal)
          .then(() => memory.replace(replacements, signal)),
      renew: (keys, expires, signal) =>
        step("renew", keys, signal).then(() => memory.renew(keys, expires, signal)),
      prune: (now, signal) => step("prune", [], signal).then(() => memory.prune!(now, signal)),
      page: (start, size, signal, prefix) =>
        step("page", start ? [start] : [], signal)
          .then(() => memory.page(start, size, signal, prefix)),
      remove: (keys, signal) =>
        step("remove", keys, signal).then(() => memory.remove(keys, signal)),
      close: () => step("close", []),
      transient: (error) => error instanceof Transient,
    };
  }

  /** Makes a store on the backend, with properties replaced if given. */
  // deno-lint-ignore no-explicit-any
  store(options?: StoreOptions, changes: Partial<Backend> = {}): Store<any> {
    const backend = transformed("Memory", { ...this.backend, ...changes }, options ?? {});
    return makeStore(backend, options, this.clock);
  }
}

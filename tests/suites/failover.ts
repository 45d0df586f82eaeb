/**
 * A failover under load: 100 chats under Telegraf's own `session()`, a fault in the middle, and then what is
 * stored. Each test prints one line with the numbers and the error codes that the store met.
 */

import assert from "node:assert/strict";
import { it } from "node:test";
import process from "node:process";
import { setTimeout as wait } from "node:timers/promises";
import { type Context, session } from "telegraf";
import type { Store, StoreOptions } from "../../mod.ts";
import { Cleanup } from "../support/cleanup.ts";
import { until } from "../support/until.ts";
import { makeBot, message } from "../../src/testing/telegraf.ts";

/** The numbers of the updates that have changed the session. */
export interface Session {
  done: number[];
}

interface SessionContext extends Context {
  session: Session;
}

/** Remembers an error that a driver gave to the store. */
export type See = (error: unknown) => void;

/** Servers that run, and stores on them. */
export interface Running {
  /** The product and its version. */
  readonly engine: string;
  /** One or more stores on handles of their own, as an application has them. */
  stores(options: StoreOptions, see: See): Store<Session>[];
  /** Causes the fault, and resolves when the servers can work again. */
  fault(): Promise<unknown>;
  /** A store on a new handle, on the servers that are primaries now. */
  fresh(options: StoreOptions): Store<Session>;
}

/** One fault of one engine. */
export interface FailoverHarness {
  /** The name of the store, the servers and the client. */
  readonly name: string;
  /** The fault. */
  readonly fault: string;
  /** Whether the stores run under `exclusive()`. @default {false} */
  readonly exclusive?: boolean;
  /** Whether the updates of each chat are served by all stores in turn. @default {false} */
  readonly alternating?: boolean;
  /**
   * How many acknowledged updates may be lost: none, those that were in progress when the fault began
   * (`"last"`), or those that were acknowledged while it lasted (`"during"`).
   *
   * @default {"none"}
   */
  readonly losable?: "none" | "last" | "during";
  start(cleanup: Cleanup): Promise<Running>;
}

const chats = Array.from({ length: 100 }, (_, i) => i + 1);

/** How many updates of a chat arrive at the same time. */
const overlapping = 2;

/** How many updates of each chat are acknowledged before the fault, and again after it. */
const enough = 4;

/** How long to wait for them, in ms. Only a chat that is stuck needs so long. */
const patience = 240_000;

/** Runs the test. */
export function failover(harness: FailoverHarness): void {
  const { name, fault, exclusive = false, losable = "none" } = harness;
  const title = `${fault}${exclusive ? ", under exclusive()" : ""}`;
  it(`${name} keeps acknowledged updates: ${title}`, async () => {
    await using cleanup = new Cleanup();
    const rejections = new Rejections();
    cleanup.of(rejections, () => rejections.stop());
    const running = await harness.start(cleanup);
    const codes = new Map<string, number>();
    const see: See = (error) => {
      const code = codeOf(error);
      codes.set(code, (codes.get(code) ?? 0) + 1);
    };
    const options = { onError: see, onInitError: see };
    const stores = cleanup.stores(...running.stores(options, see));
    const load = new Load(stores, harness);
    await until(() => load.all(({ acknowledged }) => acknowledged.length >= enough), patience);
    const before = load.acknowledged;

    const broken = performance.now();
    await running.fault();
    const repaired = performance.now();
    const during = load.acknowledged - before;
    const alive = (chat: Chat) =>
      chat.acknowledged.filter(({ began }) => began > repaired).length >= enough;
    await until(() => load.all(alive), patience).catch(() => {});
    await load.end();
    const stuck = load.chats.filter((chat) => !alive(chat)).length;

    await Promise.all(stores.map((store) => store.close()));
    const [fresh] = cleanup.stores(running.fresh({ timeout: 120_000 }));
    const lost = await Promise.all(load.chats.map((chat) => chat.lost(fresh!)));
    const total = lost.reduce((sum, one) => sum + one, 0);
    const seen = [...codes].sort(([, a], [, b]) => b - a).map(([code, n]) => `${code} ×${n}`);
    const firsts = load.chats.map(({ acknowledged }) =>
      (acknowledged.find(({ began }) => began > broken)?.ended ?? Infinity) - broken
    );
    const ends = load.chats.flatMap((chat) => chat.acknowledged.map(({ ended }) => ended))
      .filter((ended) => ended > broken).sort((a, b) => a - b);
    const pauses = ends.map((ended, i) => ended - (ends[i - 1] ?? broken));
    console.log([
      `failover ${running.engine}, ${name}`,
      title,
      `acknowledged ${load.acknowledged}`,
      `lost ${total}`,
      `stuck ${stuck}`,
      `failed ${load.failed}`,
      `unhandled ${rejections.all.length}`,
      `fault took ${Math.round(repaired - broken)} ms`,
      `first success after ${Math.round(Math.min(...firsts))} ms`,
      `all chats after ${Math.round(Math.max(...firsts))} ms`,
      `longest pause ${Math.round(Math.max(...pauses))} ms`,
      `codes ${seen.join(", ") || "none"}`,
    ].join(" | "));
    assert.deepEqual(rejections.all, [], "unhandled rejections");
    assert.equal(stuck, 0, "chats are stuck");
    assert.deepEqual([...load.refused], [], "errors that were not retried");
    const bounds = { none: 0, last: chats.length * overlapping, during };
    assert.ok(total <= bounds[losable], `${total} lost, more than ${bounds[losable]}`);
  });
}

/** An acknowledged update, with the times of the attempt that succeeded. */
interface Acknowledged {
  readonly update: number;
  readonly began: number;
  readonly ended: number;
}

/** A chat and its updates. */
class Chat {
  readonly acknowledged: Acknowledged[] = [];
  readonly user: number;

  constructor(user: number) {
    this.user = user;
  }

  /** How many acknowledged updates the stored session does not have. */
  async lost(store: Store<Session>): Promise<number> {
    const stored = new Set((await store.get(`${this.user}:${this.user}`))?.done);
    return this.acknowledged.filter(({ update }) => !stored.has(update)).length;
  }
}

/** Sends updates to bots until it is ended. An update that fails is sent again, as Telegram does. */
class Load {
  readonly chats: Chat[] = chats.map((user) => new Chat(user));
  failed = 0;
  /** Errors that neither time nor the lease explains: the store did not retry them. */
  readonly refused: Set<string> = new Set();
  #ended = false;
  readonly #loops: Promise<unknown>;

  constructor(stores: Store<Session>[], { exclusive, alternating }: FailoverHarness) {
    const bots = stores.map((store) => {
      const bot = makeBot<SessionContext>();
      if (exclusive) bot.use(store.exclusive());
      bot.use(session({ store, defaultSession: () => ({ done: [] }) }));
      bot.use((ctx) => void ctx.session.done.push(Number(ctx.text)));
      return bot;
    });
    const loops = this.chats.flatMap((chat) =>
      Array.from({ length: overlapping }, (_, loop) =>
        this.#send(chat, loop, (update) => {
          const turn = alternating ? update / overlapping | 0 : chat.user;
          return bots[turn % bots.length]!.handleUpdate(message(`${update}`, chat.user));
        }))
    );
    this.#loops = Promise.all(loops);
  }

  get acknowledged(): number {
    return this.chats.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0);
  }

  all(condition: (chat: Chat) => boolean): boolean {
    return this.chats.every(condition);
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#loops;
  }

  async #send(
    chat: Chat,
    first: number,
    handle: (update: number) => Promise<void>,
  ): Promise<void> {
    for (let update = first; !this.#ended; update += overlapping) {
      await wait(Math.random() * 200);
      while (!this.#ended && !await this.#try(chat, update, handle)) await wait(100);
    }
  }

  async #try(
    chat: Chat,
    update: number,
    handle: (update: number) => Promise<void>,
  ): Promise<boolean> {
    const began = performance.now();
    try {
      await handle(update);
      chat.acknowledged.push({ update, began, ended: performance.now() });
      return true;
    } catch (error) {
      this.failed++;
      const { name, message } = error as Error;
      if (!/^(Timeout|Lease)Error$/.test(name)) this.refused.add(`${name}: ${message}`);
      return false;
    }
  }
}

/** Unhandled rejections and uncaught errors of this process: each would end a bot. */
class Rejections {
  readonly all: unknown[] = [];
  readonly #add = (reason: unknown) => void this.all.push(reason);

  constructor() {
    process.on("unhandledRejection", this.#add);
    process.on("uncaughtException", this.#add);
  }

  stop(): void {
    process.off("unhandledRejection", this.#add);
    process.off("uncaughtException", this.#add);
  }
}

/** The code of a driver's error, with the number of MySQL, or the beginning of its message. */
function codeOf(error: unknown): string {
  const { name, code, errno, message, cause, errors } = error as Error & {
    code?: unknown;
    errno?: unknown;
    errors?: unknown[];
  };
  if (name === "StoreError" && cause) return codeOf(cause);
  if (errors?.length) return codeOf(errors[0]);
  if (code !== undefined) return Number(errno) > 0 ? `${code} (${errno})` : `${code}`;
  return message.match(/^[A-Z]{3,}\b/)?.[0] ?? (message.slice(0, 60).split(/[:|\n]/)[0] || name);
}

/** A callback of a driver. */
// deno-lint-ignore no-explicit-any
export type Callback = (error: unknown, ...rest: any[]) => void;

/** Lets a function see the error that a callback gets. */
export function seeing(see: See, callback: Callback): Callback {
  return (error, ...rest) => {
    if (error) see(error);
    callback(error, ...rest);
  };
}

/** Lets a function see the errors of a client's methods, before the store does. */
export function watch<T extends object>(client: T, methods: readonly string[], see: See): T {
  const own = client as Record<string, unknown>;
  for (const name of methods) {
    const method = own[name];
    if (typeof method !== "function") continue;
    own[name] = (...args: unknown[]) => {
      const result = method.apply(client, args);
      result?.catch?.(see);
      return result;
    };
  }
  return client;
}

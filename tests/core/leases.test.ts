/** `exclusive()` and `update()`: turns, leases, and what happens when they are lost. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Context, type Scenes, session, Telegraf } from "telegraf";
import { LeaseError, type Store, type StoreOptions } from "../../mod.ts";
import { settle } from "../support/clock.ts";
import { requireVersion } from "../support/packages.ts";
import { gate, never, Script, Transient } from "../support/scripted.ts";
import { until } from "../support/until.ts";
import { makeBot, message } from "../../src/testing/telegraf.ts";

interface Session {
  count: number;
  list?: number[];
}
interface SessionContext extends Context {
  session: Session;
}

interface SceneSession extends Scenes.WizardSession, Session {}

interface WizardContext extends Context {
  session: SceneSession;
  scene: Scenes.SceneContextScene<WizardContext, Scenes.WizardSessionData>;
  wizard: Scenes.WizardContextWizard<WizardContext>;
}

interface UserContext extends SessionContext {
  user: Session;
}

/** A bot under `exclusive()`, and a function that sends it an update of a user. */
function makeExclusiveBot(
  store: Store<Session>,
  handler: (ctx: SessionContext) => unknown,
  options?: Parameters<Store<Session>["exclusive"]>[0],
) {
  const bot = makeBot<SessionContext>();
  bot.use(store.exclusive(options), session({ store, defaultSession: () => ({ count: 0 }) }));
  bot.use(async (ctx) => void await handler(ctx));
  return (user = 1, text?: string) => bot.handleUpdate(message(text, user));
}

const count = (ctx: SessionContext) => void ctx.session.count++;

/** A second process: another store on the same data and clock. */
function other(script: Script, options?: StoreOptions): Store<Session> {
  return script.store(options, { handle: {} });
}

const lost = { name: "LeaseError", operation: "write", key: "1:1" };

describe("exclusive()", () => {
  it("an update is a claim and a settlement, with the session in both", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, count);
    await send();
    await send();
    assert.deepEqual(script.calls, [
      ...["open leasing", "find telegraf-session:cache"],
      ...["claim 1:1", "settle 1:1", "claim 1:1", "settle 1:1"],
    ]);
    assert.deepEqual(await store.get("1:1"), { count: 2 });
  });

  it("a burst of one chat is one claim, and runs in order of arrival", async () => {
    const script = new Script();
    await using store = script.store();
    const order: string[] = [];
    let running = 0;
    const send = makeExclusiveBot(store, async (ctx) => {
      assert.equal(running++, 0);
      order.push((ctx.message as { text: string }).text);
      await settle();
      ctx.session.count++;
      running--;
    });
    const texts = Array.from({ length: 20 }, (_, i) => `${i}`);
    await Promise.all(texts.map((text) => send(1, text)));
    assert.deepEqual(order, texts);
    assert.equal(script.calls.filter((call) => call.startsWith("claim")).length, 1);
    assert.deepEqual(await store.get("1:1"), { count: 20 });
  });

  it("the changes of a burst are stored together, and each update ends when its own is stored", async () => {
    const script = new Script();
    await using store = script.store();
    script.before = () => script.clock.wait(10);
    const send = makeExclusiveBot(store, count);
    const stored: number[] = [];
    const updates = Array.from({ length: 20 }, async (_, i) => {
      await send();
      const { count } = JSON.parse(script.sessions.get("1:1")!.value);
      assert.ok(count > i, `update ${i} ended before it was stored`);
      stored.push(i);
    });
    await script.clock.run(Promise.allSettled(updates));
    script.before = () => {};
    await Promise.all(updates);
    assert.deepEqual(script.calls.slice(2), ["claim 1:1", "settle 1:1"]);
    assert.equal(stored.length, 20);
  });

  it("many chats of one tick are one claim and one settlement", async () => {
    const script = new Script();
    await using store = script.store();
    await store.ready();
    script.calls.length = 0;
    const send = makeExclusiveBot(store, count);
    await store.exclusive(); // loads what it needs
    await settle();
    const users = Array.from({ length: 50 }, (_, i) => i + 1);
    await Promise.all(users.map((user) => send(user)));
    const kinds = script.calls.map((call) => call.split(" ")[0]);
    assert.deepEqual(kinds, ["open", "find", "claim", "settle"]);
  });

  it("an update that changes nothing only releases its lease", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("1:1", { count: 5 });
    let value: Session | undefined;
    const send = makeExclusiveBot(store, (ctx) => value = { ...ctx.session });
    await send();
    assert.deepEqual(value, { count: 5 });
    assert.deepEqual(script.sessions.get("1:1")!.value, '{"count":5}');
    // A chat without a session leaves nothing behind.
    const bot = makeBot<SessionContext>();
    bot.use(store.exclusive(), session({ store }));
    await bot.handleUpdate(message("hi", 2));
    assert.deepEqual([...script.data.leases.keys()], ["1:1"]);
  });

  it("two processes lose no increment", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    const sends = [a, b].map((store) =>
      makeExclusiveBot(store, async (ctx) => {
        const { count } = ctx.session;
        await script.clock.wait(20);
        ctx.session.count = count + 1;
      })
    );
    const updates = Array.from({ length: 100 }, (_, i) => sends[i % 2]!());
    await script.clock.run(Promise.all(updates));
    assert.deepEqual(await a.get("1:1"), { count: 100 });
  });

  it("no process starves", async () => {
    const script = new Script();
    const stores = Array.from({ length: 8 }, () => other(script));
    const waits: number[] = [];
    const stop = script.clock.now() + 20_000;
    const turns = stores.map(() => 0);
    const busy = stores.map(async (store, i) => {
      const send = makeExclusiveBot(store, () => script.clock.wait(20), { wait: 60_000 });
      while (script.clock.now() < stop) {
        const start = script.clock.now();
        await send();
        waits.push(script.clock.now() - start);
        turns[i]!++;
      }
    });
    await script.clock.run(Promise.all(busy));
    waits.sort((a, b) => a - b);
    const median = waits[waits.length >> 1]!;
    assert.ok(waits.at(-1)! <= 10 * median, `longest ${waits.at(-1)}, median ${median}`);
    assert.ok(Math.min(...turns) * 2 > Math.max(...turns), turns.join());
    for (const store of stores) await store.close();
  });

  it("a process that never pauses lets others in after a second", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    // Each update of A follows the last one immediately, so that the lease is free for no time.
    let go = true;
    const sendA = makeExclusiveBot(a, () => script.clock.wait(300));
    const hog = (async () => {
      while (go) await sendA();
    })();
    await script.clock.advance(100);
    const start = script.clock.now();
    await script.clock.run(makeExclusiveBot(b, count)());
    assert.ok(script.clock.now() - start < 2_000, `${script.clock.now() - start}`);
    go = false;
    await script.clock.run(hog);
  });

  it("an update that cannot have the lease is rejected with its holder", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    const done = gate();
    const first = makeExclusiveBot(a, () => done.opened)();
    await script.clock.advance(10);
    const send = makeExclusiveBot(b, count, { wait: 3_000 });
    const start = script.clock.now();
    const second = script.clock.run(assert.rejects(send(), (error: LeaseError) => {
      assert.ok(error instanceof LeaseError);
      assert.equal(error.operation, "lock");
      assert.equal(error.key, "1:1");
      assert.equal(error.holder!.pid, process.pid);
      assert.ok(error.holder!.since instanceof Date);
      assert.match(error.message, /^Cannot lock session "1:1": process \d+.*waited for 3000 ms$/);
      return true;
    }));
    await second;
    assert.equal(script.clock.now() - start, 3_000);
    done.open();
    await first;
    await script.clock.run(send());
    assert.deepEqual(await b.get("1:1"), { count: 1 });
  });

  it("a lease is renewed while its update runs, and goes to others when its process has died", async () => {
    const script = new Script();
    const a = script.store();
    await using b = other(script);
    const done = gate();
    const first = makeExclusiveBot(a, async (ctx) => {
      await done.opened;
      count(ctx);
    })();
    await script.clock.advance(60_000);
    const waiting = makeExclusiveBot(b, count, { wait: 600_000 })();
    await script.clock.advance(60_000);
    assert.equal(script.calls.filter((call) => call.startsWith("settle")).length, 120 / 5);
    // From now on no statement of A arrives, as if it was stopped.
    const token = script.data.leases.get("1:1")!.token;
    script.before = (call) => {
      if (call.startsWith("settle") && script.data.leases.get("1:1")!.token === token) {
        return gate().opened;
      }
    };
    const start = script.clock.now();
    await script.clock.run(waiting);
    assert.ok(script.clock.now() - start <= 15_000 + 100);
    assert.deepEqual(await b.get("1:1"), { count: 1 });
    script.before = () => {};
    done.open();
    // Its late write is refused, and says who has the lease.
    await assert.rejects(script.clock.run(first), lost);
    assert.deepEqual(await b.get("1:1"), { count: 1 });
    await a.close();
  });

  it("ctx.state.lease tells that the lease is lost, and late changes are refused", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    let signal!: AbortSignal;
    const done = gate();
    const first = makeExclusiveBot(a, async (ctx) => {
      const lease = (ctx.state as { lease: { key: string; signal: AbortSignal } }).lease;
      assert.equal(lease.key, "1:1");
      signal = lease.signal;
      count(ctx);
      await done.opened;
    })();
    await settle();
    assert.equal(signal.aborted, false);
    script.data.leases.delete("1:1"); // as a failover does that has lost the claim
    await script.clock.run(makeExclusiveBot(b, count)());
    await script.clock.advance(5_000);
    assert.equal(signal.aborted, true);
    assert.equal((signal.reason as Error).name, "LeaseError");
    done.open();
    await assert.rejects(first, lost);
    assert.deepEqual(await b.get("1:1"), { count: 1 });
  });

  it("an update that takes longer than `most` is overtaken, and stores nothing", async () => {
    const script = new Script();
    await using store = script.store();
    const done = gate();
    let signal: AbortSignal | undefined;
    const send = makeExclusiveBot(store, async (ctx) => {
      count(ctx);
      if (signal !== undefined) return;
      signal = (ctx.state as { lease: { signal: AbortSignal } }).lease.signal;
      await done.opened;
    }, { most: 60_000 });
    const slow = send();
    await script.clock.advance(59_000);
    const second = send();
    second.catch(() => {});
    await script.clock.advance(2_000);
    assert.equal(signal!.aborted, true);
    // Telegraf gives the second one the session object of the first one, with its change.
    await assert.rejects(script.clock.run(second), /took too long/);
    done.open();
    await assert.rejects(script.clock.run(slow), lost);
    assert.equal(await store.get("1:1"), undefined);
    await script.clock.run(send());
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("a handler that throws has its session stored, and its error wins", async () => {
    const script = new Script();
    const errors: Error[] = [];
    await using store = script.store({ onError: (error) => errors.push(error as Error) });
    const send = makeExclusiveBot(store, (ctx) => {
      count(ctx);
      throw new Error("from the handler");
    });
    await assert.rejects(send(), /from the handler/);
    assert.deepEqual(await store.get("1:1"), { count: 1 });
    script.failures = [undefined, new Error("disk full")];
    await assert.rejects(send(), /from the handler/);
    assert.equal(errors.length, 1);
    assert.match(errors[0]!.message, /^Cannot write session "1:1": disk full/);
  });

  it("a session that cannot be stored fails its update, and the next one goes on", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, count);
    await send();
    await using second = other(script);
    const start = script.clock.now();
    for (let i = 0; i < 2; i++) {
      script.failures = [undefined, new Error("too large")];
      await assert.rejects(send(), /Cannot write session "1:1": too large/);
      await script.clock.run(makeExclusiveBot(second, count)());
    }
    assert.ok(script.clock.now() - start < 1_000, `waited ${script.clock.now() - start} ms`);
    assert.deepEqual(await store.get("1:1"), { count: 3 });
  });

  it("a session without an answer from the database leaves the lease to expire", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 1_000 });
    const send = makeExclusiveBot(store, count);
    await send();
    script.before = (call) => call.startsWith("settle") ? never() : undefined;
    await script.clock.run(assert.rejects(send(), { name: "TimeoutError" }));
    script.before = () => {};
    const start = script.clock.now();
    await script.clock.run(makeExclusiveBot(other(script), count, { wait: 60_000 })());
    assert.ok(script.clock.now() - start > 10_000, `waited ${script.clock.now() - start} ms`);
    assert.deepEqual(script.sessions.get("1:1")?.value, '{"count":2}');
  });

  it("claims and settlements are repeated after transient errors", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, count);
    await send();
    script.failures = [new Transient("1"), new Transient("2"), undefined, new Transient("3")];
    await script.clock.run(send());
    assert.deepEqual(await store.get("1:1"), { count: 2 });
  });

  it("all waiting updates fail with the database, and later ones work again", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, count);
    script.failures = [undefined, new Error("down")];
    const failed = await Promise.allSettled([send(), send(), send()]);
    for (const result of failed) {
      assert.equal(result.status, "rejected");
      assert.match(String(result.reason), /StoreError: Cannot lock session "1:1": down/);
    }
    await send();
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("a claim that was granted without an answer is granted again", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 1_000 });
    const send = makeExclusiveBot(store, count);
    await send();
    // The database grants the lease, but the answer is lost.
    const { leases } = script.backend;
    assert.ok(typeof leases === "object");
    const claim = leases.claim;
    leases.claim = async (claims, signal) => {
      await claim(claims, signal);
      leases.claim = claim;
      throw new Error("connection lost");
    };
    await assert.rejects(send(), /Cannot lock session "1:1": connection lost/);
    const start = script.clock.now();
    await script.clock.run(send());
    assert.equal(script.clock.now(), start);
    assert.deepEqual(await store.get("1:1"), { count: 2 });
  });

  it("composers and several sessions: the inner one finds its turn", async () => {
    const script = new Script();
    await using store = script.store();
    const bot = makeBot<UserContext>();
    const getSessionKey = (ctx: Context) => Promise.resolve(ctx.from && `user:${ctx.from.id}`);
    const defaultSession = () => ({ count: 0 });
    bot.use(store.exclusive(), store.exclusive());
    bot.use(session({ store, defaultSession }));
    bot.use(store.exclusive({ getSessionKey }));
    bot.use(
      session<Session, UserContext, "user">({
        property: "user",
        getSessionKey,
        store,
        defaultSession,
      }),
    );
    bot.use(store.exclusive());
    bot.use((ctx) => {
      assert.equal((ctx.state as { lease: { key: string } }).lease.key, "user:1");
      ctx.session.count++;
      ctx.user.count += 2;
    });
    await Promise.all([1, 2, 3].map(() => bot.handleUpdate(message())));
    assert.deepEqual(await store.get("1:1"), { count: 3 });
    assert.deepEqual(await store.get("user:1"), { count: 6 });
  });

  it("an update without a key passes through", async () => {
    const script = new Script();
    await using store = script.store();
    let handled = 0;
    const send = makeExclusiveBot(store, () => handled++, { getSessionKey: () => undefined });
    const bot = makeBot();
    bot.use(store.exclusive(), () => void handled++);
    // deno-lint-ignore no-explicit-any
    await bot.handleUpdate({ update_id: 1, poll: {} } as any);
    await send();
    assert.equal(handled, 2);
    assert.deepEqual(script.calls.filter((call) => call.startsWith("claim")), []);
  });

  it("behind session() it says how to turn them round", async () => {
    const script = new Script();
    await using store = script.store();
    const bot = makeBot<SessionContext>();
    bot.use(session({ store, defaultSession: () => ({ count: 0 }) }), store.exclusive());
    bot.use(count);
    await settle();
    await assert.rejects(bot.handleUpdate(message()), {
      name: "TypeError",
      message: /before session\(\).*bot\.use\(store\.exclusive\(\), session\(\{ store \}\)\)/,
    });
    // A session that the application has read does not make the order wrong.
    const send = makeExclusiveBot(store, count);
    await store.delete("1:1");
    await store.get("1:1");
    await send();
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("another getSessionKey than that of session() is named in an error", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, count, { getSessionKey: () => "chat" });
    await assert.rejects(send(), /holds the lease of session "chat", and session\(\) reads "1:1"/);
    assert.equal(await store.get("1:1"), undefined);
    assert.deepEqual(script.data.leases.size, 0);
    // After its own session an update may read others.
    const fine = makeExclusiveBot(store, async (ctx) => {
      count(ctx);
      assert.equal(await store.get("2:2"), undefined);
    });
    await fine();
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("refuses wrong options", () => {
    const { store } = { store: new Script().store() };
    // deno-lint-ignore no-explicit-any
    const refuse = (options: any) => () => store.exclusive(options);
    for (const wait of [0, -1, NaN, 1.5, Infinity]) assert.throws(refuse({ wait }), RangeError);
    for (const lease of [0, 999, NaN]) assert.throws(refuse({ lease }), RangeError);
    assert.throws(refuse({ most: 999 }), RangeError);
    assert.throws(refuse({ lease: "15 s" }), TypeError);
    assert.throws(refuse({ getSessionKey: "key" }), TypeError);
    assert.throws(refuse({ leas: 1_000 }), /exclusive\(\): unknown option "leas".*"lease"/);
  });

  it("refuses a store without leases, with the reason", async () => {
    const script = new Script();
    await using store = script.store({}, { leases: "this client has no eval" });
    const reason =
      /^TypeError: exclusive\(\): this store cannot hold leases: this client has no eval/;
    assert.throws(() => store.exclusive(), reason);
    await assert.rejects(store.update("k", () => {}), /update\(\): this store cannot hold leases/);
    await store.set("k", { count: 1 });
  });

  it("a database that cannot be prepared for leases works without them, and is asked again", async () => {
    const script = new Script();
    let refuses = true;
    await using store = script.store({}, {
      open(opening) {
        if (refuses && opening.leasing) throw new Error("no right to alter");
        return script.backend.open(opening);
      },
    });
    const send = makeExclusiveBot(store, count);
    for (let i = 0; i < 2; i++) {
      const results = await Promise.allSettled([send(), store.set("k", { count: i })]);
      assert.match(
        String((results[0] as PromiseRejectedResult).reason),
        /"1:1": no right to alter/,
      );
      assert.equal(results[1].status, "fulfilled");
      assert.deepEqual(await store.get("k"), { count: i });
    }
    refuses = false;
    await send();
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("a lease waits no longer for a write that was given up", async () => {
    const script = new Script();
    const short = script.store({ timeout: 1_000 });
    const long = script.store({ timeout: 100_000 });
    await long.update("1:1", () => ({ count: 1 }));
    const hang = gate();
    script.before = (call) => call === "write other" ? hang.opened : undefined;
    const other = long.set("other", { count: 1 });
    await settle();
    const write = assert.rejects(short.set("1:1", { count: 9 }), { name: "TimeoutError" });
    const update = long.update("1:1", (session) => ({ count: session!.count + 1 }));
    await script.clock.advance(2_000);
    await write;
    assert.deepEqual(await update, { count: 2 });
    hang.open();
    await other;
    await Promise.all([short.close(), long.close()]);
  });

  it("renews the ttl of a session that is only read", async () => {
    const script = new Script();
    await using store = script.store({ ttl: 100_000, pruneInterval: 0 });
    const send = makeExclusiveBot(store, (ctx) => void ctx.session);
    await store.set("1:1", { count: 1 });
    const { expires } = script.sessions.get("1:1")!;
    await script.clock.advance(5_000);
    await send();
    assert.equal(script.sessions.get("1:1")!.expires, expires);
    await script.clock.advance(45_000);
    await send();
    assert.equal(script.sessions.get("1:1")!.expires, expires! + 50_000);
    await script.clock.advance(100_000);
    let seen: Session | undefined;
    await makeExclusiveBot(store, (ctx) => seen = { ...ctx.session })();
    assert.deepEqual(seen, { count: 0 });
  });
});

describe("exclusive({ once: true })", () => {
  /** A bot that handles each update once, and a function that sends it an update. */
  function onceBot(store: Store<Session>, handler: (ctx: SessionContext) => unknown = count) {
    const bot = makeBot<SessionContext>();
    bot.use(store.exclusive({ once: true }));
    bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
    bot.use(async (ctx) => void await handler(ctx));
    return bot.handleUpdate.bind(bot);
  }

  it("an update that comes again is not run again, in any process", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    const [first, second] = [message(), message()];
    await onceBot(a)(first);
    await onceBot(a)(first);
    await onceBot(b)(first);
    await Promise.all([1, 2, 3].map(() => onceBot(b)(second)));
    assert.deepEqual(await a.get("1:1"), { count: 2 });
    // Without the option it runs again, and what was seen stays.
    await makeExclusiveBot(a, count)();
    assert.deepEqual(await a.get("1:1"), { count: 3 });
    await onceBot(b)(first);
    assert.deepEqual(await a.get("1:1"), { count: 3 });
  });

  it("the update is noted in the write of the session, and nothing more is sent", async () => {
    const script = new Script();
    await using store = script.store();
    await onceBot(store)(message());
    assert.deepEqual(script.calls.slice(2), ["claim 1:1", "settle 1:1"]);
    assert.match(script.data.leases.get("1:1")!.note!, /^\w+\.\w+$/);
    await makeExclusiveBot(store, count)(2);
    assert.equal(script.data.leases.get("2:2")!.note, undefined);
  });

  it("an update that fails is run again, unless its change is stored", async () => {
    const script = new Script();
    await using store = script.store();
    const update = message();
    await onceBot(store)(message());
    let runs = 0;
    const handle = onceBot(store, (ctx) => {
      if (++runs === 2) ctx.session.count++;
      if (runs < 4) throw new Error(`run ${runs}`);
    });
    await assert.rejects(handle(update), /run 1/);
    await assert.rejects(handle(update), /run 2/);
    await handle(update);
    assert.equal(runs, 2);
    assert.deepEqual(await store.get("1:1"), { count: 2 });
  });

  it("an update without effect on a chat without a session leaves nothing behind", async () => {
    const script = new Script();
    await using store = script.store();
    const bot = makeBot<SessionContext>();
    let runs = 0;
    bot.use(store.exclusive({ once: true }), session({ store }), () => void runs++);
    const update = message();
    await bot.handleUpdate(update);
    await bot.handleUpdate(update);
    assert.equal(runs, 2);
    assert.equal(script.data.leases.size, 0);
  });

  it("an update that deletes the session is not run again", async () => {
    const script = new Script();
    await using store = script.store();
    const [create, remove] = [message(), message()];
    let runs = 0;
    const handle = onceBot(store, (ctx) => {
      if (ctx.update.update_id !== remove.update_id) return ctx.session.count++;
      runs++;
      ctx.session = null as never;
    });
    await handle(create);
    await handle(remove);
    await handle(create);
    await handle(remove);
    assert.equal(runs, 1);
    assert.equal(await store.get("1:1"), undefined);
  });

  it("an update that comes again succeeds only when the first one is stored", async () => {
    const script = new Script();
    await using store = script.store({ timeout: 60_000 });
    const update = message();
    const handle = onceBot(store);
    script.before = (call) => {
      if (!call.startsWith("settle")) return;
      script.before = () => {};
      throw new Error("not stored");
    };
    const results = await script.clock.run(
      Promise.allSettled([handle(update), handle(update)]),
    );
    assert.deepEqual(results.map(({ status }) => status), ["rejected", "rejected"]);
    await script.clock.run(handle(update));
    assert.deepEqual(await store.get("1:1"), { count: 1 });
  });

  it("the last 64 updates of a day are noted", async () => {
    const script = new Script();
    await using store = script.store();
    const handle = onceBot(store);
    const updates = Array.from({ length: 65 }, () => message());
    for (const update of updates) await handle(update);
    await handle(updates[1]!);
    assert.deepEqual(await store.get("1:1"), { count: 65 });
    await handle(updates[0]!);
    assert.deepEqual(await store.get("1:1"), { count: 66 });
    await script.clock.advance(86_400_000);
    await handle(updates[64]!);
    await handle(message());
    await handle(updates[64]!);
    assert.deepEqual(await store.get("1:1"), { count: 68 });
    assert.equal(script.data.leases.get("1:1")!.note!.split(" ").length, 2);
  });
});

describe("exclusive() under Telegraf", () => {
  for (const version of ["4.13.1", "4.16.3"]) {
    it(`Telegraf ${version} keeps a wizard's steps and counts in two processes`, async () => {
      const { Telegraf, session, Scenes } = requireVersion("telegraf", version);
      const script = new Script();
      const stores = [script.store(), other(script)];
      const handlers = stores.map((store) => {
        const bot = new Telegraf("1:token");
        bot.botInfo = { id: 1, is_bot: true, first_name: "Bot", username: "bot" };
        const step = (ctx: WizardContext) => {
          ctx.session.count++;
          return ctx.wizard.next();
        };
        const last = (ctx: WizardContext) => {
          ctx.session.count++;
          return ctx.scene.leave();
        };
        const wizard = new Scenes.WizardScene("steps", step, step, last);
        bot.use(store.exclusive(), session({ store, defaultSession: () => ({ count: 0 }) }));
        bot.use(new Scenes.Stage([wizard]).middleware());
        bot.command("start", (ctx: WizardContext) => ctx.scene.enter("steps"));
        bot.use(count);
        return (text: string) => bot.handleUpdate(message(text));
      });
      const texts = ["/start", "one", "two", "three", "four"];
      const updates = texts.map(async (text, i) => {
        await script.clock.wait(i * 1_000);
        await handlers[i % 2]!(text);
      });
      await script.clock.run(Promise.all(updates));
      const { count: counted, __scenes } = await stores[0]!.get("1:1") as SceneSession;
      // Entering the scene runs its first step.
      assert.deepEqual({ counted, __scenes }, { counted: 5, __scenes: {} });
      for (const store of stores) await store.close();
    });
  }

  it("Telegraf 4.12.0, which reads a session once, overwrites nothing of another process", async () => {
    const { Telegraf, session } = requireVersion("telegraf", "4.12.0");
    const script = new Script();
    await using store = script.store();
    const bot = new Telegraf("1:token");
    bot.botInfo = { id: 1, is_bot: true, first_name: "Bot", username: "bot" };
    bot.use(store.exclusive(), session({ store, defaultSession: () => ({ count: 0 }) }));
    bot.use(count);
    for (let i = 0; i < 3; i++) await bot.handleUpdate(message());
    assert.deepEqual(await store.get("1:1"), { count: 3 });
    await using second = other(script);
    await second.update("1:1", () => ({ count: 10 }));
    bot.catch((error: unknown) => {
      throw error;
    });
    await assert.rejects(bot.handleUpdate(message()), { ...lost, message: /Telegraf 4\.12\.2/ });
    assert.deepEqual(await store.get("1:1"), { count: 10 });
    // A session that is new in this update may be written without a read.
    const writer = makeBot<SessionContext>();
    writer.use(second.exclusive(), () => second.set("1:1", { count: 20 }));
    await writer.handleUpdate(message());
    assert.deepEqual(await store.get("1:1"), { count: 20 });
  });

  it("an update that exceeds handlerTimeout keeps its turn until it ends", async () => {
    const script = new Script();
    await using store = script.store();
    const bot = new Telegraf<SessionContext>("1:token", { handlerTimeout: 1 });
    bot.botInfo = { id: 1, is_bot: true, first_name: "Bot", username: "bot" } as never;
    bot.use(store.exclusive(), session({ store, defaultSession: () => ({ count: 0 }) }));
    const done = gate();
    let running = 0;
    bot.use(async (ctx) => {
      assert.equal(running++, 0);
      const { count } = ctx.session;
      if (count === 0) await done.opened;
      ctx.session.count = count + 1;
      running--;
    });
    bot.catch((error) => {
      throw error;
    });
    await assert.rejects(bot.handleUpdate(message()), { name: "TimeoutError" });
    const second = bot.handleUpdate(message()).catch(() => {});
    done.open();
    await second;
    await until(async () => (await store.get("1:1"))?.count === 2);
  });
});

describe("update()", () => {
  it("reads, changes and stores, and returns the session", async () => {
    const script = new Script();
    await using store = script.store();
    assert.deepEqual(await store.update("k", () => ({ count: 1 })), { count: 1 });
    const change = (session: Session | undefined) => void session!.count++;
    assert.deepEqual(await store.update("k", change), { count: 2 });
    assert.deepEqual(await store.get("k"), { count: 2 });
    assert.deepEqual(
      await store.update("k", async (session) => {
        await settle();
        return { count: session!.count + 1 };
      }),
      { count: 3 },
    );
    assert.equal(await store.update("k", () => null), undefined);
    assert.equal(await store.get("k"), undefined);
    assert.equal(await store.update("k", () => {}), undefined);
    assert.equal(script.data.leases.size, 0);
  });

  it("stores nothing if the function throws", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { count: 1 });
    for (
      const change of [
        (session?: Session) => {
          session!.count = 9;
          throw new Error("mine");
        },
        async (session?: Session) => {
          session!.count = 9;
          await store.set("k", session);
          throw new Error("mine");
        },
      ]
    ) {
      await assert.rejects(store.update("k", change), { message: "mine" });
      assert.deepEqual(await store.get("k"), { count: 1 });
    }
    await assert.rejects(store.update("k", () => ({ self: globalThis })), { name: "EncodeError" });
    assert.deepEqual(await store.get("k"), { count: 1 });
  });

  it("is ordered with updates, with other processes, and with earlier sets", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    const send = makeExclusiveBot(a, async (ctx) => {
      await script.clock.wait(5);
      ctx.session.count++;
    });
    const change = async (session: Session | undefined) => {
      await script.clock.wait(3);
      return { count: (session?.count ?? 0) + 1 };
    };
    const all = Array.from(
      { length: 60 },
      (_, i) => i % 3 === 0 ? send() : [a, b][i % 2]!.update("1:1", change),
    );
    await script.clock.run(Promise.all(all));
    assert.deepEqual(await b.get("1:1"), { count: 60 });
    const set = a.set("1:1", { count: 100 });
    await script.clock.run(a.update("1:1", change));
    await set;
    assert.deepEqual(await b.get("1:1"), { count: 101 });
  });

  it("of the own session is refused inside its update; of another one it works", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeExclusiveBot(store, async (ctx) => {
      count(ctx);
      await assert.rejects(store.update("1:1", () => {}), {
        name: "LeaseError",
        operation: "lock",
        message: /change the session directly/,
      });
      await store.update("2:2", () => ({ count: 7 }));
    });
    await send();
    assert.deepEqual(await store.get("1:1"), { count: 1 });
    assert.deepEqual(await store.get("2:2"), { count: 7 });
    await store.update("2:2", async () => {
      await assert.rejects(store.update("2:2", () => {}), LeaseError);
    });
  });

  it("sets and deletions inside belong to the turn, those outside do not", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { count: 1 });
    await store.update("k", async () => {
      await store.set("k", { count: 2 });
      assert.deepEqual(await store.get("k"), { count: 2 });
      assert.equal(script.sessions.get("k")!.value, '{"count":1}');
      await store.delete("k");
      assert.equal(await store.get("k"), undefined);
      assert.equal(await store.has("k"), false);
      return { count: 3 };
    });
    assert.deepEqual(await store.get("k"), { count: 3 });
    const open = gate();
    const update = store.update("k", () => open.opened.then(() => ({ count: 4 })));
    await settle();
    await store.set("k", { count: 50 });
    assert.equal(script.sessions.get("k")!.value, '{"count":50}');
    open.open();
    await update;
    assert.deepEqual(await store.get("k"), { count: 4 });
  });

  it("an outsider's session survives the release of an update that knew of none", async () => {
    const script = new Script();
    await using store = script.store();
    const open = gate();
    const update = store.update("k", () => open.opened);
    await settle();
    await store.set("k", { count: 1 });
    open.open();
    await update;
    assert.deepEqual(await store.get("k"), { count: 1 });
  });

  it("waits for as long as it is told", async () => {
    const script = new Script();
    await using a = script.store();
    await using b = other(script);
    const open = gate();
    const holder = a.update("k", () => open.opened);
    await script.clock.advance(10);
    await script.clock.run(assert.rejects(b.update("k", () => {}, { wait: 100 }), LeaseError));
    open.open();
    await holder;
    // deno-lint-ignore no-explicit-any
    const wrong = (options: any) => b.update("k", () => {}, options);
    await assert.rejects(wrong({ wait: 0 }), RangeError);
    await assert.rejects(wrong({ lease: 1_000 }), /unknown option "lease"/);
    // deno-lint-ignore no-explicit-any
    await assert.rejects(b.update("k", { count: 1 } as any), TypeError);
    await assert.rejects(b.update("", () => {}), RangeError);
  });
});

describe("close()", () => {
  it("waits for running updates, and stores what they change", async () => {
    const script = new Script();
    const store = script.store();
    const done = gate();
    const send = makeExclusiveBot(store, async (ctx) => {
      await done.opened;
      count(ctx);
    });
    const update = send();
    const waiting = send();
    await settle();
    const closed = store.close();
    await settle();
    await assert.rejects(send(), { name: "ClosedError" });
    await assert.rejects(store.update("1:1", () => {}), { name: "ClosedError" });
    done.open();
    await Promise.all([update, waiting, closed]);
    assert.equal(script.sessions.get("1:1")!.value, '{"count":2}');
  });

  it("ends after its timeout; the lease of an update that still runs expires", async () => {
    const script = new Script();
    const store = script.store({ timeout: 5_000 });
    const done = gate();
    const update = makeExclusiveBot(store, async (ctx) => {
      await done.opened;
      count(ctx);
    })();
    await settle();
    const waiting = store.update("1:1", () => {});
    waiting.catch(() => {});
    await script.clock.run(store.close());
    assert.equal(script.clock.now(), 5_000);
    await assert.rejects(waiting, { name: "ClosedError" });
    await using b = other(script);
    await script.clock.run(makeExclusiveBot(b, count)());
    assert.ok(script.clock.now() > 14_000, "the lease was released");
    done.open();
    await assert.rejects(update, { name: "ClosedError" });
    assert.deepEqual(await b.get("1:1"), { count: 1 });
  });
});

describe("close() during a claim", () => {
  it("refuses the update, and connects no more when the claim is granted", async () => {
    const script = new Script();
    const opened = gate();
    await using holder = other(script);
    const store = script.store({ timeout: 5_000 });
    const held = holder.update("k", () => opened.opened);
    await script.clock.advance(10);
    const update = assert.rejects(store.update("k", () => {}), { name: "ClosedError" });
    await script.clock.advance(100);
    const closed = store.close();
    await script.clock.advance(4_000);
    const answer = gate();
    script.before = (call) => call === "claim k" ? answer.opened : undefined;
    await script.clock.advance(100);
    opened.open();
    await held;
    await script.clock.run(Promise.all([update, closed]));
    script.calls.length = 0;
    answer.open();
    await settle();
    assert.deepEqual(script.calls, []);
  });
});

describe("a store without leases", () => {
  it("neither loads nor prepares anything for them", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("k", { count: 1 });
    await store.get("k");
    assert.deepEqual(script.calls, ["open", "write k", "read k"]);
  });
});

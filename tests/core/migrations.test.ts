/** `move()` between its steps, and `followMigrations()` under Telegraf. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Context, session } from "telegraf";
import { followMigrations, type MigrationOptions, type Store } from "../../mod.ts";
import { gate, Script } from "../support/scripted.ts";
import { until } from "../support/until.ts";
import { makeBot } from "../../src/testing/telegraf.ts";

interface SessionContext extends Context {
  session: { count: number };
}

const group = -4001;
const supergroup = -1001234567890;

let lastUpdate = 0;

/** A message in a chat. */
function message(chat: number, fields: object = { text: "hi" }, user = 1) {
  const update_id = ++lastUpdate;
  const from = { id: user, is_bot: false, first_name: "user" };
  const type = chat === supergroup ? "supergroup" : "group";
  const message = { message_id: update_id, date: 0, chat: { id: chat, type }, from, ...fields };
  return { update_id, message } as unknown as Parameters<
    ReturnType<typeof makeBot>["handleUpdate"]
  >[0];
}

const toSupergroup = () => message(group, { migrate_to_chat_id: supergroup });
const fromGroup = () => message(supergroup, { migrate_from_chat_id: group });

/** A bot that counts text messages, and a function that sends it an update. */
function makeMigrating(
  store: Store<{ count: number }>,
  { exclusive = false, ...options }: MigrationOptions & { exclusive?: boolean } = {},
) {
  const bot = makeBot<SessionContext>();
  bot.use(followMigrations(store, options));
  if (exclusive) bot.use(store.exclusive());
  bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
  bot.on("text", (ctx) => void ctx.session.count++);
  return (update: Parameters<typeof bot.handleUpdate>[0]) => bot.handleUpdate(update);
}

/** Sessions of 300 users in the group, and others. */
function fill(script: Script): { before: Map<string, string>; after: Map<string, string> } {
  const before = new Map<string, string>();
  const after = new Map<string, string>();
  const add = (key: string, moved = key) => {
    const value = `{"count":${before.size}}`;
    before.set(key, value);
    after.set(moved, value);
    script.sessions.set(key, { key, value });
  };
  for (let user = 1; user <= 300; user++) add(`${user}:${group}`, `${user}:${supergroup}`);
  for (const key of [`1:1`, `1:-400`, `1:${group}1`, `${group}:1`, `${group}`]) add(key);
  return { before, after };
}

const contents = (script: Script) =>
  new Map([...script.sessions].map(([key, { value }]) => [key, value]));

/** Stops the first call of this name until `go` is called. */
function stopAt(script: Script, name: string): { reached: Promise<void>; go: () => void } {
  const { opened: reached, open: reach } = gate();
  const { opened, open: go } = gate();
  script.before = (call) => {
    if (call !== name) return;
    reach();
    return opened;
  };
  return { reached, go };
}

/** A second process: another store on the same data and clock. */
const other = (script: Script): Store<{ count: number }> => script.store({}, { handle: {} });

describe("move()", () => {
  it("claims both keys in order, and writes before it deletes", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("b", 1);
    script.calls.length = 0;
    await store.move("b", "a");
    assert.deepEqual(script.calls, [
      "open leasing",
      "find telegraf-session:cache",
      "claim a",
      "claim b",
      "read b a",
      "write a",
      "settle b",
      "settle a",
    ]);
  });

  for (const leases of [true, false]) {
    const title = leases ? "" : ", also without leases";
    const open = (script: Script) =>
      script.store({}, leases ? {} : { leases: "this test has none" });

    it(`takes along what is written while it runs${title}`, async () => {
      const removal = leases ? "settle old" : "remove old";
      for (const during of ["read old new", "write new", removal]) {
        const script = new Script();
        await using store = open(script);
        await store.set("old", 1);
        const { reached, go } = stopAt(script, during);
        const moved = store.move("old", "new");
        await reached;
        const written = store.set("old", 2);
        go();
        assert.equal(await moved, true);
        await written;
        const sessions = [...script.sessions].map(([key, { value }]) => [key, value]);
        const late = during === removal; // it is a new session
        assert.deepEqual(sessions.sort(), late ? [["new", "1"], ["old", "2"]] : [["new", "2"]]);
      }
    });

    it(`does not overwrite what is written while it runs${title}`, async () => {
      const script = new Script();
      await using store = open(script);
      await store.set("old", 1);
      const { reached, go } = stopAt(script, "read old new");
      const moved = store.move("old", "new");
      moved.catch(() => {});
      await reached;
      const written = store.set("new", 2);
      go();
      await assert.rejects(moved, { name: "StoreError", key: "new" });
      await written;
      assert.equal(await store.get("old"), 1);
      assert.equal(await store.get("new"), 2);
    });

    it(`deletes nothing if the new key cannot be written${title}`, async () => {
      const script = new Script();
      await using store = open(script);
      await store.set("old", 1);
      script.before = (call) => {
        if (call.startsWith("write")) throw new Error("disk full");
      };
      await assert.rejects(store.move("old", "new"), { name: "StoreError", message: /disk full/ });
      assert.deepEqual([...script.sessions.keys()], ["old"]);
      assert.equal(script.calls.filter((call) => call.startsWith("remove")).length, 0);
      script.before = () => {};
      assert.equal(await store.move("old", "new"), true);
      assert.equal(await store.get("new"), 1);
    });
  }

  it("works without leases if the database cannot be prepared for them", async () => {
    const script = new Script();
    script.before = (call) => {
      if (call.includes("leasing")) throw new Error("must be owner of the table");
    };
    await using store = script.store();
    await store.set("old", 1);
    assert.equal(await store.move("old", "new"), true);
    assert.equal(await store.move("old", "new"), false);
    assert.deepEqual([...script.sessions.keys()], ["new"]);
    assert.equal(script.calls.filter((call) => /claim|settle/.test(call)).length, 0);
  });

  it("writes nothing after it has lost a lease", async () => {
    const script = new Script();
    await using store = script.store();
    await store.set("old", 1);
    const { reached, go } = stopAt(script, "read old new");
    const moved = store.move("old", "new");
    moved.catch(() => {});
    await reached;
    script.data.leases.set("new", { token: "other", until: Infinity, note: undefined });
    await script.clock.advance(6_000); // it is renewed, which is refused
    go();
    await assert.rejects(moved, { name: "LeaseError" });
    assert.deepEqual([...script.sessions.keys()], ["old"]);
  });
});

describe("followMigrations()", () => {
  for (const exclusive of [false, true]) {
    const title = exclusive ? " with exclusive()" : "";

    for (
      const [order, updates] of Object.entries({
        "the group's update": [toSupergroup],
        "the supergroup's update": [fromGroup],
        "both updates": [toSupergroup, fromGroup],
        "both updates in the other order": [fromGroup, toSupergroup],
        "an update that comes again": [toSupergroup, fromGroup, toSupergroup],
      })
    ) {
      it(`moves all sessions of the group after ${order}${title}`, async () => {
        const script = new Script();
        const { after } = fill(script);
        await using store = script.store();
        const send = makeMigrating(store, { exclusive });
        for (const update of updates) await send(update());
        assert.deepEqual(contents(script), after);
      });

      it(`moves them after ${order} at the same time in two processes${title}`, async () => {
        const script = new Script();
        const { after } = fill(script);
        await using here = script.store();
        await using there = other(script);
        const sends = [here, there].map((store) => makeMigrating(store, { exclusive }));
        const handled = updates.flatMap((update, i) => [
          sends[i % 2]!(update()),
          sends[(i + 1) % 2]!(update()),
        ]);
        await script.clock.run(Promise.all(handled)); // a process that waits for a lease asks again
        assert.deepEqual(contents(script), after);
      });
    }
  }

  it("lets updates of both chats wait, and no others", async () => {
    const script = new Script();
    fill(script);
    await using store = script.store();
    const send = makeMigrating(store);
    const { opened, open } = gate();
    script.before = (call) => call.startsWith("page") ? opened : undefined;
    const migration = send(toSupergroup());
    await until(() => script.calls.includes("page"));
    const waiting = [send(message(supergroup)), send(fromGroup()), send(message(supergroup))];
    await send(message(1));
    const meanwhile = contents(script);
    open();
    assert.equal(JSON.parse(meanwhile.get("1:1")!).count, 301);
    assert.equal(meanwhile.has(`1:${supergroup}`), false);
    await Promise.all([migration, ...waiting]);
    assert.equal(contents(script).get(`1:${supergroup}`), '{"count":2}'); // 0, and two messages
    assert.equal(contents(script).has(`1:${group}`), false);
  });

  it("leaves both sessions if the supergroup has one", async () => {
    const script = new Script();
    const { after } = fill(script);
    await using store = script.store();
    const send = makeMigrating(store);
    await send(message(supergroup));
    await send(toSupergroup());
    await send(fromGroup());
    after.set(`1:${group}`, after.get(`1:${supergroup}`)!);
    after.set(`1:${supergroup}`, '{"count":1}');
    assert.deepEqual(contents(script), after);
  });

  it("takes other keys by an option", async () => {
    const script = new Script();
    for (const key of [`chat${group}`, `1:${group}`, "chat5"]) {
      script.sessions.set(key, { key, value: `"${key}"` });
    }
    await using store = script.store();
    const rename = (key: string, from: number, to: number) =>
      key === `chat${from}` ? `chat${to}` : undefined;
    await makeMigrating(store, { rename })(toSupergroup());
    assert.deepEqual(contents(script).get(`chat${supergroup}`), `"chat${group}"`);
    assert.deepEqual(
      [...script.sessions.keys()].sort(),
      [`1:${group}`, `chat${supergroup}`, "chat5"].sort(),
    );
  });

  it("fails the update if a session cannot be moved, and moves it when the update comes again", async () => {
    const script = new Script();
    const { after } = fill(script);
    await using store = script.store();
    const send = makeMigrating(store);
    script.before = (call) => {
      if (call.startsWith("write")) throw new Error("disk full");
    };
    await assert.rejects(send(toSupergroup()), { name: "StoreError", message: /disk full/ });
    script.before = () => {};
    await send(toSupergroup());
    assert.deepEqual(contents(script), after);
  });

  it("reads no keys for other updates", async () => {
    const script = new Script();
    await using store = script.store();
    const send = makeMigrating(store);
    await send(message(supergroup));
    await send({ update_id: 1, poll: {} } as unknown as Parameters<typeof send>[0]);
    assert.deepEqual(script.calls, ["open", `read 1:${supergroup}`, `write 1:${supergroup}`]);
  });

  it("refuses invalid options", async () => {
    await using store = new Script().store();
    assert.throws(() => followMigrations(store, { rname: () => "" } as object), {
      name: "TypeError",
      message: 'followMigrations(): unknown option "rname"; did you mean "rename"?',
    });
    assert.throws(() => followMigrations(store, { rename: "x" } as object), TypeError);
  });
});

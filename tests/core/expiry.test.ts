/** The `ttl` of sessions and pruning, against a scripted backend. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { settle } from "../support/clock.ts";
import { gate, Script } from "../support/scripted.ts";

describe("ttl", () => {
  const ttl = 60_000;

  it("is given to what is written", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    await store.set("k", { a: 1 });
    assert.equal(script.sessions.get("k")!.expires, script.clock.date() + ttl);
  });

  it("of an unchanged session is renewed after a tenth of it, without the value", async () => {
    const script = new Script();
    const { clock } = script;
    await using store = script.store({ ttl });
    await store.set("old", { a: 1 });
    await clock.advance(ttl * 0.1);
    await store.set("young", { a: 1 });
    await clock.advance(ttl * 0.05);
    const sessions = await Promise.all(["young", "old"].map((key) => store.get(key)));
    script.sessions.set("old", { ...script.sessions.get("old")!, value: '{"a":2}' });
    await Promise.all(["young", "old"].map((key, i) => store.set(key, sessions[i])));
    await store.set("old", sessions[1]);
    assert.deepEqual(script.calls.slice(3), ["read young old", "renew old"]);
    const { value, expires } = script.sessions.get("old")!;
    assert.equal(value, '{"a":2}'); // another process wrote it meanwhile
    assert.ok(expires! >= clock.date() + ttl && expires! <= clock.date() + ttl * 1.01);
  });

  it("of sessions that are renewed in one batch is renewed with one call", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    const keys = ["a", "b", "c"];
    for (const key of keys) {
      await store.set(key, { a: 1 });
      await script.clock.advance(1);
    }
    await script.clock.advance(ttl / 2);
    const sessions = await Promise.all(keys.map((key) => store.get(key)));
    await Promise.all(keys.map((key, i) => store.set(key, sessions[i])));
    const renewals = script.calls.filter((call) => call.startsWith("renew"));
    assert.deepEqual(renewals, ["renew a b c"]);
  });

  it("of a session that is renewed during a write changes only the expiry", async () => {
    const script = new Script();
    await using store = script.store({ ttl: 10 });
    await store.ready();
    const { opened, open } = gate();
    script.before = () => opened;
    const first = store.set("k", { a: 1 });
    await settle();
    const second = store.set("k", { a: 2 });
    const session = await store.get("k");
    await script.clock.advance(5);
    const third = store.set("k", session);
    open();
    await Promise.all([first, second, third]);
    assert.equal(script.sessions.get("k")?.value, '{"a":2}');
    assert.ok(script.sessions.get("k")?.expires! >= script.clock.date() + 10);
  });

  it("is added to or removed from unchanged sessions stored with another ttl", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    await using forever = script.store();
    await forever.set("k", { a: 1 });
    await store.set("k", await store.get("k"));
    assert.ok(script.sessions.get("k")?.expires! > script.clock.date());
    await forever.set("k", await forever.get("k"));
    assert.equal(script.sessions.get("k")?.expires, undefined);
  });

  it("ends a session, unless an update has read it", async () => {
    const script = new Script();
    await using store = script.store({ ttl });
    await Promise.all(["read", "forgotten"].map((key) => store.set(key, { a: 1 })));
    await script.clock.advance(ttl * 0.75);
    await store.set("read", await store.get("read"));
    await script.clock.advance(ttl * 0.5);
    assert.deepEqual(await store.get("read"), { a: 1 });
    assert.equal(await store.get("forgotten"), undefined);
    assert.equal(await store.has("forgotten"), false);
    const keys: string[] = [];
    for await (const key of store.keys()) keys.push(key);
    assert.deepEqual(keys, ["read"]);
  });

  it("prunes with an unreferenced timer, reports errors, and stops at close()", async () => {
    const script = new Script();
    const reported: unknown[] = [];
    const store = script.store({
      ttl,
      pruneInterval: 10,
      onError: (error) => reported.push(error),
    });
    script.before = (call) => {
      if (call === "prune") throw new Error("no");
    };
    await store.get("k");
    await script.clock.advance(100); // the timer of the queue's deadlines has ended
    assert.equal(script.clock.referenced, 0);
    assert.ok(reported.length >= 6 && reported.length <= 20, `${reported.length} times in 100 ms`);
    assert.match(String(reported[0]), /Cannot prune the store: no/);
    await store.close();
    const { length } = script.calls;
    await script.clock.advance(1_000);
    assert.equal(script.calls.length, length);
  });
});

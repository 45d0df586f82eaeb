/** Closing stores, against a scripted backend. */

import assert from "node:assert/strict";
import process from "node:process";
import { describe, it } from "node:test";
import { gate, never, Script } from "../support/scripted.ts";
import { run } from "../support/process.ts";
import { imports } from "../support/programs.ts";

describe("close()", () => {
  it("waits for operations in progress, then closes, once", async () => {
    const script = new Script();
    const store = script.store();
    const { opened, open } = gate();
    script.before = () => opened;
    const write = store.set("k", 1);
    const closed = Promise.all([store.close(), store.close()]);
    open();
    await Promise.all([closed, write]);
    assert.deepEqual(script.calls, ["open", "write k", "close"]);
  });

  it("rejects if the database cannot be closed, and ends by the deadline", async () => {
    const failing = new Script();
    const store = failing.store();
    failing.failures = [new Error("no")];
    await assert.rejects(store.close(), { name: "StoreError", operation: "close" });
    const hanging = new Script();
    hanging.before = () => never();
    const closing = hanging.store({ timeout: 20 }).close();
    await hanging.clock.run(assert.rejects(closing, { name: "TimeoutError" }));
    assert.equal(hanging.clock.now(), 20);
  });

  it("leaves no timer behind", async () => {
    const { code, output } = await run(`
      import process from "node:process";
      ${imports}
      const timers = () => process.getActiveResourcesInfo().filter((it) => it === "Timeout").length;
      const store = makeStore(memoryBackend(), { ttl: 1000 });
      await store.set("k", 1);
      const before = timers();
      await store.close();
      console.log(before > 0, timers());
    `);
    // Bun does not list timers.
    assert.deepEqual({ code, output }, { code: 0, output: `${!("bun" in process.versions)} 0\n` });
  });

  it("of one store leaves another on the same handle open", async () => {
    const script = new Script();
    const one = script.store();
    await using two = script.store();
    await one.set("k", 1);
    await one.close();
    assert.equal(await two.get("k"), 1);
  });
});

/** The options `version`, `migrate` and `onNewer`. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Memory, type Migration } from "../../mod.ts";
import { MemoryData } from "../../src/memory.ts";
import { keys, load, put, store, storeOn, valueOf } from "../support/layers.ts";
import { Script } from "../support/scripted.ts";

/** Version 1 has a list instead of a name, version 2 counts, version 3 is another object. */
const steps: Record<number, Migration> = {
  1: (session) => {
    session.names = [session.name];
    delete session.name;
  },
  2: (session) => ({ ...session, count: session.names.length }),
  3: ({ names, count }) => ({ user: { names, count } }),
};

/** The options of a bot whose sessions have a version. */
function at(version: number, others: object = {}) {
  const migrate = Object.fromEntries(Object.entries(steps).slice(0, version));
  return { version, migrate, ...others };
}

describe("versions", () => {
  it("are stored beside the session", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { user: 1 }, at(3));
    assert.equal(valueOf(data, "1:1"), '~v3:{"user":1}');
  });

  it("a session passes through each missing step when it is read", async () => {
    const expected = { user: { names: ["Ada"], count: 1 } };
    const data = new MemoryData();
    await store(data, "0", { name: "Ada" });
    await store(data, "1", { names: ["Ada"] }, at(1));
    await store(data, "2", { names: ["Ada"], count: 1 }, at(2));
    await store(data, "3", expected, at(3));
    await using it = storeOn(data, at(3));
    for (const key of ["0", "1", "2", "3"]) assert.deepEqual(await it.get(key), expected, key);
    const all = [];
    for await (const [, session] of it.entries()) all.push(session);
    assert.deepEqual(all, [expected, expected, expected, expected]);
  });

  it("a migrated session counts as changed, once", async () => {
    const script = new Script();
    await store(script.data, "1:1", { name: "Ada" });
    const it = script.store(at(1));
    for (let i = 0; i < 3; i++) {
      await script.clock.run(it.set("1:1", await script.clock.run(it.get("1:1"))));
    }
    const writes = script.calls.filter((call) => call.startsWith("write"));
    assert.deepEqual(writes, ["write 1:1"]);
    assert.equal(valueOf(script.data, "1:1"), '~v1:{"names":["Ada"]}');
  });

  it("are stored also if a step changes nothing", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { a: 1 });
    await using it = storeOn(data, { version: 1, migrate: { 1: () => {} } });
    await it.set("1:1", await it.get("1:1"));
    assert.equal(valueOf(data, "1:1"), '~v1:{"a":1}');
  });

  it("work with update(), move() and expiry", async () => {
    const data = new MemoryData();
    await store(data, "old", { name: "Ada" }, { ttl: 60_000 });
    const { expires } = data.sessions.get("old")!;
    await using it = storeOn(data, at(1, { ttl: 100_000_000 }));
    assert.equal(await it.has("old"), true);
    await it.move("old", "new");
    assert.equal(data.sessions.get("new")!.expires, expires);
    await it.update("new", (session) => void session.names.push("Bo"));
    assert.equal(valueOf(data, "new"), '~v1:{"names":["Ada","Bo"]}');
    assert.ok(data.sessions.get("new")!.expires! > expires!);
  });

  it("a newer version is not read, and nothing changes", async () => {
    const data = new MemoryData();
    await store(data, "1:1", { user: 1 }, at(3));
    for (const [own, options] of [["none", {}], ["version 2", at(2)]] as const) {
      for (const onCorrupt of ["throw", "discard", () => assert.fail()] as const) {
        await using it = storeOn(data, { ...options, onCorrupt });
        const newer = {
          name: "VersionError",
          message: `Cannot read session "1:1": it has version 3, and this store ${own}`,
          operation: "read",
          key: "1:1",
          version: 3,
        };
        await assert.rejects(it.get("1:1"), newer);
        await assert.rejects(it.update("1:1", () => ({})), newer);
        await assert.rejects(it.move("1:1", "2:2"), newer);
        assert.equal(await it.has("1:1"), true);
      }
    }
    assert.equal(valueOf(data, "1:1"), '~v3:{"user":1}');
    assert.equal(data.sessions.size, 1);
  });

  it('onNewer: "keep" reads a newer version as it is, and keeps its version', async () => {
    for (const encrypt of [undefined, { keys }]) {
      const data = new MemoryData();
      await store(data, "1:1", { names: ["Ada"], count: 1 }, at(2, { encrypt }));
      await using it = storeOn(data, at(1, { onNewer: "keep", encrypt }));
      const session = await it.get("1:1");
      assert.deepEqual(session, { names: ["Ada"], count: 1 });
      await it.set("1:1", session);
      session.names.push("Bo");
      await it.set("1:1", session);
      assert.match(valueOf(data, "1:1"), /^~v2[,:]/);
      assert.deepEqual(await load(data, "1:1", at(3, { encrypt })), {
        user: { names: ["Ada", "Bo"], count: 1 },
      });
      await it.set("1:1", { names: ["Cy"] }); // a new session has the store's own version
      assert.match(valueOf(data, "1:1"), /^~v1[,:]/);
    }
  });

  it("a migration that fails is an error, and nothing changes", async () => {
    for (const step of [() => assert.fail("no name"), () => Promise.resolve({})]) {
      const data = new MemoryData();
      await store(data, "1:1", { name: "Ada" });
      const options = { version: 1, migrate: { 1: step }, onCorrupt: "discard" } as const;
      await assert.rejects(load(data, "1:1", options), (error: Error) => {
        assert.equal(error.name, "VersionError");
        const message =
          /^Cannot read session "1:1": its migration from version 0 to 1 failed: (no name|it returned a promise)$/;
        assert.match(error.message, message);
        return true;
      });
      assert.equal(valueOf(data, "1:1"), '{"name":"Ada"}');
    }
  });

  it("a header of a newer package is not read, and nothing changes", async () => {
    const data = new MemoryData();
    for (const options of [{}, at(1), { encrypt: { keys } }]) {
      for (const header of ["~zip:", "~v0:", "~v1,x9:", "~v12345678901:"]) {
        put(data, "1:1", `${header}{"a":1}`);
        await assert.rejects(load(data, "1:1", { ...options, onCorrupt: "discard" }), {
          name: "DecodeError",
          message: `Cannot read session "1:1": a newer version of this package stored it: ` +
            `its header is ${header}`,
        });
      }
    }
  });

  it("corrupt JSON after a header is corrupt", async () => {
    const data = new MemoryData();
    put(data, "1:1", "~v1:{");
    await assert.rejects(load(data, "1:1", at(1)), { name: "DecodeError" });
    const values: unknown[] = [];
    const onCorrupt = (value: unknown) => void values.push(value);
    await load(data, "1:1", at(1, { onCorrupt }));
    assert.deepEqual(values, ["~v1:{"]);
  });
});

describe("wrong versions", () => {
  const [one, two] = [() => {}, () => {}];
  const cases: [object, string, string][] = [
    [{ version: 0 }, "RangeError", 'option "version" must be a whole number from 1 to 999999999'],
    [{ version: 1.5 }, "RangeError", 'option "version" must be'],
    [{ version: "1" }, "TypeError", 'option "version" must be'],
    [{ version: 1 }, "TypeError", 'option "migrate" has no step 1; version is 1'],
    [{ version: 2, migrate: { 2: two } }, "TypeError", 'option "migrate" has no step 1'],
    [{ version: 1, migrate: [one, two] }, "TypeError", 'option "migrate" must be a plain object'],
    [{ version: 1, migrate: { 1: one, 2: two } }, "TypeError", "has a step 2; version is 1"],
    [{ version: 1, migrate: { 1: one, x: two } }, "TypeError", "has a step x; version is 1"],
    [
      { version: 1, migrate: { 1: "x" } },
      "TypeError",
      "must have functions, but step 1 is a string",
    ],
    [{ version: 1, migrate: { 1: async () => {} } }, "TypeError", "step 1 is asynchronous"],
    [{ migrate: { 1: one } }, "TypeError", 'option "migrate" needs the option "version"'],
    [{ onNewer: "keep" }, "TypeError", 'option "onNewer" needs the option "version"'],
    [{ version: 1, migrate: { 1: one }, onNewer: "discard" }, "RangeError", '"throw" or "keep"'],
  ];
  for (const [options, name, message] of cases) {
    it(`are refused: ${message}`, () => {
      assert.throws(() => Memory(options as never), (error: Error) => {
        assert.equal(error.name, name);
        assert.ok(
          error.message.startsWith("Memory: ") && error.message.includes(message),
          error.message,
        );
        return true;
      });
    });
  }
});

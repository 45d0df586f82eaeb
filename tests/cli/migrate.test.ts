/** `migrate`, and how it and `rotate` share the database with a running bot. */

import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import type { StoreOptions } from "../../mod.ts";
import { SQLite, type SQLiteOptions } from "../../sqlite.ts";
import type { Backend } from "../../src/backend.ts";
import type { Context } from "../../src/cli/context.ts";
import { migrate } from "../../src/cli/migrate.ts";
import { rotate } from "../../src/cli/rotate.ts";
import { rules, storeRules } from "../../src/options.ts";
import { backendOf, storeFactory } from "../../src/store/factory.ts";
import { cli, kinds, type Place, sqliteContext, withKeys } from "../support/commandLine.ts";
import { keys } from "../support/layers.ts";
import { untilCaching } from "../support/batches.ts";
import { place } from "../support/servers.ts";

const [key1, key2] = keys as [string, string];
const encrypt = { keys: [key1] };
const kind = (name: string) => kinds.find((kind) => kind.name === name)!;
const sqlite = kind("SQLite");

/** The code of a module. Each step notes that it ran. */
const code = `
  export const version = 3;
  const note = (step) => (session) => { session.steps.push(step); };
  export const migrate = {
    1: note(1),
    2: (session) => {
      if (session.broken) throw new Error("no name");
      return { ...session, steps: [...session.steps, 2] };
    },
    3: note(3),
  };
`;
const steps = { 1() {}, 2() {}, 3() {} };
const newest = { version: 3, migrate: steps };

/** Options of a bot of this version that changes nothing. */
function versioned(version: number): StoreOptions {
  const migrate = Object.fromEntries(Array.from({ length: version }, (_, i) => [i + 1, () => {}]));
  return version === 0 ? {} : { version, migrate };
}

/** A module for \`--module\`. */
function module(code: string, extension = "mjs") {
  const path = join(tmpdir(), `${place()}.${extension}`);
  writeFileSync(path, code);
  return { path, [Symbol.dispose]: () => rmSync(path) };
}

async function store(here: Place, key: string, session: unknown, options?: StoreOptions) {
  await using store = here.store(options);
  await store.set(key, session);
}

async function load(here: Place, key: string, options?: StoreOptions): Promise<unknown> {
  await using store = here.store(options);
  return await store.get(key);
}

function succeeded({ code, stdout, stderr }: Awaited<ReturnType<typeof cli>>): string {
  assert.equal(code, 0, stdout + stderr);
  return stdout;
}

for (const { name, text, place, noLeases = false } of kinds) {
  describe(`${name} migrate`, { timeout: 600_000 }, () => {
    it(`${name} migrate runs the missing steps, and keeps expiry and newer versions`, async () => {
      using file = module(code);
      await using here = place();
      for (const version of [0, 1, 2, 3, 4]) {
        await store(here, `v${version}`, { steps: [] }, versioned(version));
      }
      const date = new Date("2026-01-02T03:04:05.678Z");
      await store(here, "date", { steps: [], date }, { ...versioned(2), ttl: 600_000 });
      const before = await here.raw();
      const summary = "4 sessions of .*\\.\n" +
        "  1 session from version 0 to 3\n" +
        "  1 session from version 1 to 3\n" +
        "  2 sessions from version 2 to 3\n" +
        "Left 1 session of newer versions unchanged\\.\n$";
      const dry = await cli("migrate", here.url, "--module", file.path, "--dry-run");
      assert.match(succeeded(dry), new RegExp(`^Would migrate ${summary}`));
      for (const [key, { value }] of await here.raw()) {
        assert.deepEqual(value, before.get(key)!.value);
      }
      const run = await cli("migrate", here.url, "--module", file.path);
      assert.match(succeeded(run), new RegExp(`^Migrated ${summary}`));
      const expected = { v0: [1, 2, 3], v1: [2, 3], v2: [3], v3: [] };
      for (const [key, steps] of Object.entries(expected)) {
        assert.deepEqual(await load(here, key, newest), { steps });
      }
      const after = await here.raw();
      for (const key of ["v3", "v4"]) assert.deepEqual(after.get(key), before.get(key));
      assert.deepEqual(await load(here, "date", newest), {
        steps: [3],
        date: text ? date.toISOString() : date,
      });
      const off = Math.abs(after.get("date")!.expires! - before.get("date")!.expires!);
      assert.ok(off < 1_000, `${off}`);
      const again = await cli("migrate", here.url, "--module", file.path);
      assert.match(succeeded(again), /^Migrated 0 sessions of .*\nLeft 1 session of newer /);
    });

    it(`${name} migrate names sessions whose migration fails, and leaves them`, async () => {
      using file = module(code);
      await using here = place();
      await store(here, "1:1", { steps: [] });
      await store(here, "2:2", { steps: [], broken: true }, versioned(1));
      await store(here, "3:3", {});
      const before = await here.raw();
      for (const dry of [["--dry-run"], []]) {
        const run = await cli("migrate", here.url, "--module", file.path, ...dry);
        assert.equal(run.code, 1, run.stdout);
        assert.match(
          run.stderr,
          /^Not migrated: session "2:2": its migration from version 1 to 2 failed: no name\n/m,
        );
        assert.match(
          run.stderr,
          /^Not migrated: session "3:3": its migration from version 0 to 1 /m,
        );
        assert.match(run.stderr, /\n2 sessions were not migrated\n$/);
        assert.match(run.stdout, /igrate.* 1 session of .*\n {2}1 session from version 0 to 3\n$/);
      }
      const after = await here.raw();
      for (const key of ["2:2", "3:3"]) assert.deepEqual(after.get(key), before.get(key));
      assert.deepEqual(await load(here, "1:1", newest), { steps: [1, 2, 3] });
    });

    it(`${name} migrate needs the keys of encrypted sessions, which stay encrypted`, async () => {
      using file = module(code);
      await using here = place();
      await store(here, "1:1", { steps: [] }, { encrypt, ...versioned(1) });
      await store(here, "2:2", { steps: [] }, { encrypt, ...versioned(3) });
      const args = ["migrate", here.url, "--module", file.path];
      const without = await cli(...args);
      assert.equal(without.code, 1);
      assert.match(
        without.stderr,
        /^Not migrated: session "1:1": it is encrypted with key \w{8}; put this key into .*\n1 sess/,
      );
      assert.match(
        succeeded(await withKeys([key2, key1], args)),
        /\n {2}1 session from version 1 /,
      );
      const required = { encrypt: { keys: [key2], required: true }, ...newest };
      assert.deepEqual(await load(here, "1:1", required), { steps: [2, 3] });
      assert.deepEqual(await load(here, "2:2", { encrypt, ...newest }), { steps: [] });
    });

    it(`${name} rotate and migrate work while a process has all sessions in memory`, {
      skip: noLeases,
    }, async () => {
      using file = module(code);
      await using here = place();
      const old = { encrypt, ...versioned(2) };
      for (const key of ["1:1", "2:2", "3:3"]) await store(here, key, { steps: [] }, old);
      const keys = [key2, key1];
      const bot = here.store({ cache: true, encrypt: { keys }, ...newest });
      await untilCaching(bot);
      const [first, second] = [await bot.get("1:1"), await bot.get("2:2")];
      for (const args of [["rotate", here.url], ["migrate", here.url, "--module", file.path]]) {
        const run = await withKeys(keys, args);
        assert.match(succeeded(run), / 3 sessions of /);
        assert.equal(run.stderr, "");
      }
      await bot.set("1:1", { ...first, changed: true });
      await bot.set("2:2", second); // is not changed
      await bot.close();
      const required = { encrypt: { keys: [key2], required: true }, ...newest };
      assert.deepEqual(await load(here, "1:1", required), { steps: [], changed: true });
      assert.deepEqual(await load(here, "2:2", required), { steps: [] });
      assert.deepEqual(await load(here, "3:3", required), { steps: [3] });
    });
  });
}

describe("the module of migrate", { timeout: 600_000 }, () => {
  it("may have a default export, a relative path, and a codec", async () => {
    const encode = "(session) => 'x' + JSON.stringify(session)";
    const decode = "(text) => JSON.parse(text.slice(1))";
    using file = module(`export default {
      version: 1, migrate: { 1: (it) => { it.n++; } }, codec: { encode: ${encode}, decode: ${decode} },
    };`);
    await using here = sqlite.place();
    const codec = {
      encode: (session: unknown) => `x${JSON.stringify(session)}`,
      decode: (text: string) => JSON.parse(text.slice(1)),
    };
    await store(here, "1:1", { n: 1 }, { codec });
    await store(here, "2:2", { n: 1 });
    const path = relative(process.cwd(), file.path);
    assert.match(succeeded(await cli("migrate", here.url, "--module", path)), /^Migrated 2 sess/);
    for (const key of ["1:1", "2:2"]) {
      assert.deepEqual(await load(here, key, { codec, ...versioned(1) }), { n: 2 });
    }
    assert.equal((await here.raw()).get("2:2")!.value, '~v1,text:x{"n":2}');
  });

  it("needs the codec of sessions that have one", async () => {
    using file = module(code);
    await using here = sqlite.place();
    await store(here, "1:1", {}, { codec: { encode: () => "x", decode: () => ({}) } });
    const run = await cli("migrate", here.url, "--module", file.path);
    assert.equal(run.code, 1);
    assert.match(
      run.stderr,
      /^Not migrated: session "1:1": it is stored with the option "codec"; read it in .* codec\n/,
    );
  });

  it("may be TypeScript where the runtime takes it; elsewhere the message says what to do", async () => {
    using file = module("export const version: number = 1, migrate = { 1() {} };", "ts");
    await using here = sqlite.place();
    await store(here, "1:1", {});
    const run = await cli("migrate", here.url, "--module", file.path);
    if (run.code === 0) return assert.match(run.stdout, /^Migrated 1 session /);
    assert.equal(run.code, 2);
    assert.match(
      run.stderr,
      /^Cannot load .*; Node\.js loads \.ts from version 22\.18 on: use that, /,
    );
  });

  it("that cannot be loaded or has wrong exports ends with exit code 2 and one sentence", async () => {
    const wrong: [string, RegExp][] = [
      ["export const nothing = 1;", / must export version and migrate\n$/],
      ["export const version = 1;", /: option "migrate" has no step 1; version is 1\n$/],
      ["export const migrate = {};", /: option "migrate" needs the option "version"\n$/],
      ["export const version = '1';", /: option "version" must be a whole number from 1 to /],
      ["export const version = 1, migrate = { 1: 1 };", /functions, but step 1 is a number\n$/],
      [
        "export const version = 1, migrate = { 1: async () => {} };",
        /: option "migrate" must have synchronous functions, but step 1 is asynchronous\n$/,
      ],
      ["export const version = 1, migrate = { 1() {}, 2() {} };", /has a step 2; version is 1\n$/],
      [
        "export const version = 1, migrate = { 1() {} }, codec = { encode() {} };",
        /: option "codec" must have the function decode\n$/,
      ],
      ["throw new Error('a bad day');", /^Cannot load .*: a bad day\n$/],
      ["export const = 1;", /^Cannot load /],
    ];
    await using here = sqlite.place();
    await store(here, "1:1", {});
    for (const [code, message] of wrong) {
      using file = module(code);
      const run = await cli("migrate", here.url, "--module", file.path);
      assert.equal(run.code, 2, code);
      assert.match(run.stderr, message);
      assert.doesNotMatch(run.stderr, /\n {4}at /);
      assert.equal(run.stdout, "");
    }
    const missing = await cli("migrate", here.url, "--module", "./missing.mjs");
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /^Cannot load \.\/missing\.mjs: /);
    const none = await cli("migrate", here.url);
    assert.equal(none.code, 2);
    assert.match(none.stderr, /^error: required option '--module <file>' not specified/);
  });
});

describe("migrate and rotate beside a running bot", { timeout: 600_000 }, () => {
  const real = { module: "./migrations.ts", dryRun: false };
  /** What the module exports. */
  const exported = {
    version: 2,
    migrate: {
      1: (session: { n: number }) => void (session.n += 1),
      2: (session: { n: number }) => void (session.n += 10),
    },
  };

  /** The context of a command on SQLite, with work to do before each replacement of stored values. */
  function context(own: Partial<Context>, before: (round: number) => Promise<void>): Context {
    let round = 0;
    const factory = storeFactory<SQLiteOptions, unknown>({
      name: "SQLite",
      rules: {
        ...storeRules,
        filename: rules.text,
        config: rules.config({}),
        database: rules.existing("a database", "prepare"),
        table: rules.text,
      },
      backend(options): Backend<unknown> {
        const backend = backendOf(SQLite, options);
        return {
          ...backend,
          async replace(replacements, signal) {
            await before(round++);
            await backend.replace(replacements, signal);
          },
        };
      },
    });
    const sqlite = () => Promise.resolve(factory);
    const factories = { ...sqliteContext({}).factories, sqlite };
    return sqliteContext({ factories, load: () => Promise.resolve(exported), ...own });
  }

  it("migrate overwrites nothing that a bot writes meanwhile, of any version", async () => {
    await using here = sqlite.place();
    for (const key of ["older", "newer", "deleted", "quiet"]) await store(here, key, { n: 0 });
    let stdout = "";
    const own = { stdout: { write: (text: string) => stdout += text } };
    const meanwhile = context(own, async (round) => {
      if (round > 0) return;
      await store(here, "older", { n: 100 }, versioned(1));
      await store(here, "newer", { n: 100 }, versioned(2));
      await using bot = here.store();
      await bot.delete("deleted");
    });
    assert.equal(await migrate(here.url, real, meanwhile), 0);
    const newest = versioned(2);
    assert.deepEqual(await load(here, "older", newest), { n: 110 });
    assert.deepEqual(await load(here, "newer", newest), { n: 100 });
    assert.deepEqual(await load(here, "quiet", newest), { n: 11 });
    assert.equal(await load(here, "deleted", newest), undefined);
    assert.match(stdout, /^Migrated \d sessions of /);
  });

  it("rotate overwrites nothing that a bot writes meanwhile, with either key", async () => {
    await using here = sqlite.place();
    for (const key of ["older", "newer", "quiet"]) await store(here, key, { n: 1 }, { encrypt });
    const keys = [key2, key1];
    const meanwhile = context({ keys }, async (round) => {
      if (round > 0) return;
      await store(here, "older", { n: 2 }, { encrypt });
      await store(here, "newer", { n: 2 }, { encrypt: { keys } });
    });
    assert.equal(await rotate(here.url, real, meanwhile), 0);
    const required = { encrypt: { keys: [key2], required: true } };
    assert.deepEqual(await load(here, "older", required), { n: 2 });
    assert.deepEqual(await load(here, "newer", required), { n: 2 });
    assert.deepEqual(await load(here, "quiet", required), { n: 1 });
  });

  it("Ctrl-C ends both between pages, and the same command continues", async () => {
    await using here = sqlite.place();
    const total = 1_000;
    await here.fill(Array.from({ length: total }, (_, n): [string, unknown] => [`${n}`, { n }]));
    const commands = [
      (context: Context) => rotate(here.url, real, context),
      (context: Context) => migrate(here.url, real, context),
    ];
    for (const command of commands) {
      const done = () => /^(?:Encrypted|Migrated) ([\d,]+) session/.exec(stdout)![1]!;
      const number = () => Number(done().replaceAll(",", ""));
      const aborter = new AbortController();
      let stdout = "";
      const own = {
        keys: [key1],
        signal: aborter.signal,
        stdout: { write: (text: string) => stdout += text },
      };
      const interrupted = command(context(own, (round) => {
        if (round === 1) aborter.abort();
        return Promise.resolve();
      }));
      await assert.rejects(interrupted, {
        message: "Interrupted; run the same command again to continue",
        code: 130,
      });
      const first = number();
      assert.ok(first > 0 && first < total, stdout);
      stdout = "";
      const again = { ...own, signal: new AbortController().signal };
      assert.equal(await command(context(again, () => Promise.resolve())), 0);
      assert.equal(first + number(), total);
    }
    await using store = here.store({ encrypt: { ...encrypt, required: true }, ...versioned(2) });
    for await (const [key, session] of store.entries()) assert.equal(session.n, Number(key) + 11);
  });

  it("both show a bar on a terminal", async () => {
    await using here = sqlite.place();
    await store(here, "1:1", { n: 1 });
    let shown = "";
    const stderr = { isTTY: true, write: (text: string) => shown += text };
    const own = context({ keys: [key1], stderr }, () => Promise.resolve());
    assert.equal(await rotate(here.url, { dryRun: true }, own), 0);
    assert.match(shown, /100 % \| 1 of 1 /);
    shown = "";
    assert.equal(await migrate(here.url, { ...real, dryRun: true }, own), 0);
    assert.match(shown, /100 % \| 1 of 1 /);
  });
});

/** Encrypted sessions, sessions with versions, and sessions of codecs, on the command line. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { StoreOptions } from "../../mod.ts";
import { SQLite } from "../../sqlite.ts";
import { cli, kinds, pipe, type Place, withKeys } from "../support/commandLine.ts";
import { keys } from "../support/layers.ts";
import { place } from "../support/servers.ts";

const [key1, key2, key3] = keys as [string, string, string];
const kind = (name: string) => kinds.find((kind) => kind.name === name)!;
const sqlite = kind("SQLite");
const encrypt = { keys: [key1] };
const versioned = { version: 2, migrate: { 1() {}, 2() {} } };
const codec = {
  encode: (session: unknown) => Buffer.from(`\0\xff${JSON.stringify(session)}`, "latin1"),
  decode: (bytes: Buffer) => JSON.parse(bytes.toString("latin1").slice(2)),
};
const textCodec = {
  encode: (session: unknown) => `é${JSON.stringify(session)}`,
  decode: (text: string) => JSON.parse(text.slice(1)),
};
const secret = "Countess of Lovelace";

/** Stores a session as a bot does. */
async function store(
  here: Place,
  key: string,
  session: unknown,
  options: StoreOptions = {},
): Promise<void> {
  await using store = here.store(options);
  await store.set(key, session);
}

/** Reads a session as a bot does. */
async function load(here: Place, key: string, options: StoreOptions = {}): Promise<unknown> {
  await using store = here.store(options);
  return await store.get(key);
}

/** A stored value as text. */
function textOf(value: unknown): string {
  if (typeof value === "string") return value;
  const { buffer } = value as { buffer?: Uint8Array };
  return buffer === undefined ? JSON.stringify(value) : Buffer.from(buffer).toString("latin1");
}

async function header(here: Place, key: string): Promise<string> {
  return /^~[\w,]+:/.exec(textOf((await here.raw()).get(key)!.value))?.[0] ?? "";
}

/** Asserts that a run failed, that it said why, and that it printed nothing secret. */
function failed(run: Awaited<ReturnType<typeof cli>>, message: RegExp, code = 1): void {
  assert.equal(run.code, code, run.stdout + run.stderr);
  assert.match(run.stderr, message);
  for (const text of [...keys, secret]) assert.ok(!(run.stdout + run.stderr).includes(text));
  assert.doesNotMatch(run.stderr, /\n {4}at /);
}

/** Asserts that a run succeeded. Returns its output. */
function succeeded({ code, stdout, stderr }: Awaited<ReturnType<typeof cli>>): string {
  assert.equal(code, 0, stdout + stderr);
  return stdout;
}

const giveKey = "put this key into TELEGRAF_SESSION_KEYS or into the file of --keys";

/** Changes one byte of what is encrypted. */
async function tamper(here: Place, key: string): Promise<void> {
  const raw = await here.raw();
  const value = raw.get(key)!.value;
  if (typeof value === "string") {
    const at = value.length - 20;
    const other = value[at] === "A" ? "B" : "A";
    return await here.write(key, value.slice(0, at) + other + value.slice(at + 1));
  }
  const { buffer } = value as { buffer: Uint8Array };
  buffer[buffer.length - 20]! ^= 1;
  await here.write(key, value as never);
}

for (const { name, place } of kinds) {
  describe(`${name} with keys on the command line`, { timeout: 600_000 }, () => {
    it(`${name} get and export decrypt with the keys, and import encrypts`, async () => {
      await using here = place();
      await using there = place();
      await store(here, "1:1", { name: secret }, { encrypt, ...versioned });
      await store(here, "2:2", { n: 2 }, versioned);
      await store(here, "3:3", { n: 3 });

      const needsKey = new RegExp(`"1:1".*: it is encrypted with key \\w{8}; ${giveKey}\n`);
      failed(await cli("get", here.url, "1:1"), needsKey);
      failed(await withKeys([key2, key3], ["get", here.url, "1:1"]), needsKey);
      const partial = await cli("export", here.url);
      failed(partial, needsKey);
      assert.match(partial.stderr, /\nExported 2 sessions .*\n1 session was not exported\n$/);
      assert.equal(partial.stdout.trim().split("\n").length, 2);

      const got = await withKeys([key2, key1], ["get", here.url, "1:1"]);
      assert.equal(succeeded(got), `{"name":"${secret}"}\n`);
      assert.equal(succeeded(await cli("get", here.url, "2:2")), '{"n":2}\n');
      const lines = succeeded(await withKeys([key1], ["export", here.url]));
      assert.deepEqual(lines.trim().split("\n").toSorted(), [
        `{"key":"1:1","session":{"name":"${secret}"},"version":2}`,
        '{"key":"2:2","session":{"n":2},"version":2}',
        '{"key":"3:3","session":{"n":3}}',
      ]);

      succeeded(await withKeys([key2, key1], ["import", "-", there.url], lines));
      const required = { encrypt: { keys: [key2], required: true }, ...versioned };
      assert.deepEqual(await load(there, "1:1", required), { name: secret });
      for (const key of ["1:1", "2:2"]) assert.match(await header(there, key), /^~v2,k/);
      assert.match(await header(there, "3:3"), /^~k/);
      succeeded(await pipe(lines, "import", "--overwrite", "-", there.url));
      assert.deepEqual(await load(there, "3:3"), { n: 3 });
      assert.deepEqual(await load(there, "1:1", versioned), { name: secret });
      await assert.rejects(load(there, "1:1"), { name: "VersionError", version: 2 });
    });

    it(`${name} get and export refuse sessions of a codec`, async () => {
      await using here = place();
      await store(here, "1:1", { name: secret }, { codec });
      await store(here, "2:2", { name: secret }, { codec: textCodec, encrypt });
      const why = /"1:1".*: it is stored with the option "codec"; read it in a program with this /;
      failed(await cli("get", here.url, "1:1"), why);
      const run = await withKeys([key1], ["export", here.url]);
      failed(run, why);
      assert.match(run.stderr, /"2:2": it is stored with the option "codec"; read it in /);
      assert.match(run.stderr, /\nExported 0 sessions from /);
    });

    it(`${name} stats counts versions, keys and codecs, without keys`, async () => {
      await using here = place();
      await store(here, "1:1", { n: 1 });
      assert.doesNotMatch(succeeded(await cli("stats", here.url)), /Versions|Stored/);
      await store(here, "2:2", { n: 2 }, versioned);
      await store(here, "3:3", { n: 3 }, { encrypt, ...versioned });
      await store(here, "4:4", { n: 4 }, { encrypt: { keys: [key2] }, codec });
      await store(here, "5:5", { n: 5 }, { codec: textCodec });
      const output = succeeded(await cli("stats", here.url));
      assert.match(output, /: 5 sessions, /);
      assert.match(output, /\nVersions:\n/);
      assert.match(output, /\n {2}no version +3 {2}#+\n/);
      assert.match(output, /\n {2}version 2 +2 {2}#+\n/);
      assert.match(output, /\nStored:\n/);
      assert.match(output, /\n {2}as they are +2 {2}#+\n/);
      assert.match(output, /\n {2}encrypted with key \w{8} +1 {2}#+\n/);
      assert.match(output, /\n {2}encrypted with key \w{8}, by a codec +1 {2}#+\n/);
      assert.match(output, /\n {2}by a codec +1 {2}#+\n/);
    });

    it(`${name} doctor checks encrypted sessions if it has the keys`, async () => {
      await using here = place();
      await store(here, "1:1", { n: 1 }, { encrypt });
      await store(here, "2:2", { n: 2 }, { encrypt });
      await store(here, "3:3", { n: 3 }, { codec });
      await store(here, "4:4", { n: 4 }, versioned);
      const without = succeeded(await cli("doctor", here.url));
      const line = new RegExp(
        `\n• not checked: 2 sessions, encrypted with key \\w{8}; ${giveKey}\n`,
      );
      assert.match(without, line);
      const byCodec = /\n• not checked: 1 session, stored with the option "codec"; read it in /;
      assert.match(without, byCodec);
      const fine = succeeded(await withKeys([key1], ["doctor", here.url]));
      assert.doesNotMatch(fine, /encrypted with|✗/);
      assert.match(fine, byCodec);
      await tamper(here, "2:2");
      const { code, stdout } = await withKeys([key1], ["doctor", here.url]);
      assert.equal(code, 1);
      assert.match(stdout, /\n✗ 1 session cannot be decoded: "2:2"\n/);
    });

    it(`${name} rotate encrypts what an older key encrypted, or none`, async () => {
      await using here = place();
      await store(here, "1:1", { n: 1 }, { encrypt, ...versioned });
      await store(here, "2:2", { n: 2 }, { codec });
      await store(here, "3:3", { n: 3 }, { ttl: 60_000 });
      await store(here, "4:4", { n: 4 }, { encrypt: { keys: [key2] } });
      const before = await here.raw();
      const dry = await withKeys([key2, key1], ["rotate", "--dry-run", here.url]);
      assert.match(succeeded(dry), /^Would encrypt 3 sessions of .* with the newest key\.\n$/);
      assert.deepEqual((await here.raw()).get("2:2"), before.get("2:2"));
      const run = await withKeys([key2, key1], ["rotate", here.url]);
      assert.match(succeeded(run), /^Encrypted 3 sessions of .* with the newest key\.\n$/);
      const again = await withKeys([key2], ["rotate", here.url]);
      assert.match(succeeded(again), /^Encrypted 0 sessions of /);
      const after = await here.raw();
      assert.deepEqual(after.get("4:4"), before.get("4:4"));
      const [expires, was] = [after.get("3:3")!.expires!, before.get("3:3")!.expires!];
      assert.ok(Math.abs(expires - was) < 1_000, `${expires} ${was}`);
      const required = { encrypt: { keys: [key2], required: true } };
      assert.deepEqual(await load(here, "1:1", { ...required, ...versioned }), { n: 1 });
      assert.deepEqual(await load(here, "2:2", { ...required, codec }), { n: 2 });
      assert.deepEqual(await load(here, "3:3", required), { n: 3 });
    });

    it(`${name} rotate names sessions that it cannot read, and encrypts the others`, async () => {
      await using here = place();
      await store(here, "1:1", { n: 1 }, { encrypt: { keys: [key3] } });
      await store(here, "2:2", { n: 2 }, { encrypt });
      await store(here, "3:3", { n: 3 }, { encrypt });
      await tamper(here, "2:2");
      const before = await here.raw();
      const run = await withKeys([key2, key1], ["rotate", here.url]);
      failed(
        run,
        new RegExp(`^Not encrypted: session "1:1": it is encrypted .*; ${giveKey}\n`, "m"),
      );
      failed(run, /^Not encrypted: session "2:2": it is not what was encrypted for this session/m);
      assert.match(run.stderr, /\n2 sessions were not encrypted\n$/);
      assert.match(run.stdout, /^Encrypted 1 session /);
      const after = await here.raw();
      for (const key of ["1:1", "2:2"]) {
        assert.equal(textOf(after.get(key)!.value), textOf(before.get(key)!.value));
      }
      assert.deepEqual(await load(here, "3:3", { encrypt: { keys: [key2] } }), { n: 3 });
    });

    it(`${name} copy keeps versions and what codecs made, in SQLite and back`, async () => {
      await using here = place();
      await using between = sqlite.place();
      await using there = place();
      await store(here, "1:1", { n: 1 }, versioned);
      await store(here, "2:2", { n: 2 }, { codec, ...versioned });
      await store(here, "3:3", { n: 3 }, { codec: textCodec });
      await store(here, "4:4", { n: 4 });
      assert.match(succeeded(await cli("copy", here.url, between.url)), /^Copied 4 sessions /);
      assert.match(succeeded(await cli("copy", between.url, there.url)), /^Copied 4 sessions /);
      assert.deepEqual(await load(between, "1:1", versioned), { n: 1 });
      for (const place of [between, there]) {
        await assert.rejects(load(place, "1:1"), { name: "VersionError", version: 2 });
        assert.deepEqual(await load(place, "2:2", { codec, ...versioned }), { n: 2 });
        assert.deepEqual(await load(place, "3:3", { codec: textCodec }), { n: 3 });
      }
      const [before, after] = [await here.raw(), await there.raw()];
      for (const [key, { value }] of before) assert.deepEqual(after.get(key)!.value, value);
    });
  });
}

describe("copy of encrypted sessions", { timeout: 600_000 }, () => {
  /** A SQLite file with this table. */
  function file(table: string): Place {
    const filename = join(tmpdir(), `${place()}.sqlite`);
    const url = `sqlite:${filename}?table=${table}`;
    return {
      ...sqlite.place(),
      url,
      store: (options = {}) => SQLite({ filename, table, ...options }),
      [Symbol.asyncDispose]() {
        for (const end of ["", "-wal", "-shm"]) rmSync(filename + end, { force: true });
        return Promise.resolve();
      },
    };
  }

  it("copies them as they are if the table has the same name, and needs no keys", async () => {
    await using to = kind("PostgreSQL").place();
    const table = new URL(to.url).searchParams.get("table")!;
    await using from = file(table);
    await store(from, "1:1", { name: secret }, { encrypt, ...versioned });
    await store(from, "2:2", { n: 2 }, { encrypt: { keys: [key2] }, codec });
    assert.match(succeeded(await cli("copy", from.url, to.url)), /^Copied 2 sessions .*s\.\n$/);
    assert.deepEqual(await load(to, "1:1", { encrypt, ...versioned }), { name: secret });
    assert.deepEqual(await load(to, "2:2", { encrypt: { keys: [key2] }, codec }), { n: 2 });
    await using back = file(table);
    succeeded(await cli("copy", to.url, back.url));
    assert.deepEqual(await load(back, "1:1", { encrypt, ...versioned }), { name: secret });
  });

  it("refuses them without keys if the table has another name, or for another format", async () => {
    await using from = file("sessions");
    await store(from, "1:1", { name: secret }, { encrypt });
    await store(from, "2:2", { n: 2 });
    await using other = file("more");
    const bound = await cli("copy", from.url, other.url);
    failed(
      bound,
      /^Not copied: session "1:1": it is encrypted with key \w{8}, and it can only be /,
    );
    assert.ok(
      bound.stderr.includes(
        `its table, collection or prefix, "sessions", and not in "more"; ${giveKey}\n`,
      ),
      bound.stderr,
    );
    assert.match(bound.stdout, /^Copied 1 session /);
    assert.match(bound.stderr, /\n1 session was not copied\n$/);
    await using mongo = kind("MongoDB").place();
    const documents = await cli("copy", from.url, mongo.url);
    failed(documents, new RegExp(`"1:1": it is encrypted .*different formats; ${giveKey}\n`));
    assert.deepEqual(await load(mongo, "2:2"), { n: 2 });
  });

  it("refuses them if none of the keys fits, also for the same table", async () => {
    await using from = file("sessions");
    await using to = file("sessions");
    await store(from, "1:1", { name: secret }, { encrypt });
    const run = await withKeys([key2], ["copy", from.url, to.url]);
    failed(run, new RegExp(`"1:1": it is encrypted with key \\w{8}; ${giveKey}\n`));
    assert.match(run.stdout, /^Copied 0 sessions /);
  });

  it("encrypts with the newest key through every database, and the bot reads all", async () => {
    await using start = sqlite.place();
    await store(start, "plain", { name: "Zoë" });
    await store(start, "versioned", { n: 1 }, versioned);
    await store(start, "encrypted", { name: secret }, { encrypt, ...versioned });
    await store(start, "codec", { n: 2 }, { codec });
    await store(start, "text codec", { n: 3 }, { codec: textCodec, encrypt });
    await using postgres = kind("PostgreSQL").place();
    await using mongo = kind("MongoDB").place();
    await using redis = kind("Redis").place();
    await using mysql = kind("MySQL").place();
    await using last = sqlite.place();
    const chain = [start, postgres, mongo, redis, mysql, last];
    for (const [i, to] of chain.slice(1).entries()) {
      const output = succeeded(await withKeys([key2, key1], ["copy", chain[i]!.url, to.url]));
      assert.match(output, /^Copied 5 sessions .*s\.\n$/);
      for (const key of ["plain", "versioned", "encrypted", "codec", "text codec"]) {
        assert.match(await header(to, key), /k[\da-f]{8}:$/, key);
      }
    }
    const required = { encrypt: { keys: [key2], required: true } };
    assert.deepEqual(await load(last, "plain", required), { name: "Zoë" });
    assert.deepEqual(await load(last, "versioned", { ...required, ...versioned }), { n: 1 });
    assert.deepEqual(await load(last, "encrypted", { ...required, ...versioned }), {
      name: secret,
    });
    assert.deepEqual(await load(last, "codec", { ...required, codec }), { n: 2 });
    assert.deepEqual(await load(last, "text codec", { ...required, codec: textCodec }), { n: 3 });
  });

  it("MongoDB dates survive in MongoDB, and become text elsewhere", async () => {
    await using from = kind("MongoDB").place();
    await using to = kind("MongoDB").place();
    await using text = kind("PostgreSQL").place();
    const date = new Date("2026-01-02T03:04:05.678Z");
    await store(from, "1:1", { date }, { encrypt, ...versioned });
    const same = succeeded(await withKeys([key1], ["copy", from.url, to.url]));
    assert.doesNotMatch(same, /became/);
    assert.deepEqual(await load(to, "1:1", { encrypt, ...versioned }), { date });
    const other = succeeded(await withKeys([key1], ["copy", from.url, text.url]));
    assert.match(other, /\n1 date became ISO text\.\n/);
    const expected = { date: date.toISOString() };
    assert.deepEqual(await load(text, "1:1", { encrypt, ...versioned }), expected);
  });

  it("names sessions that do not authenticate", async () => {
    await using from = sqlite.place();
    await using to = kind("PostgreSQL").place();
    await store(from, "1:1", { name: secret }, { encrypt });
    await tamper(from, "1:1");
    const run = await withKeys([key1], ["copy", from.url, to.url]);
    failed(run, /^Not copied: session "1:1": it is not what was encrypted for this session/);
    failed(
      await withKeys([key1], ["get", from.url, "1:1"]),
      /^Session "1:1" cannot be decoded: it /,
    );
  });

  it("copies values of a newer version of the package only to the same place", async () => {
    await using from = file("sessions");
    await using to = file("sessions");
    await using other = file("more");
    await store(from, "1:1", { n: 1 });
    const Database = (await import("better-sqlite3")).default;
    const database = new Database(/sqlite:(.*)\?/.exec(from.url)![1]!);
    database.exec(`UPDATE sessions SET session = '~v1,zip:x'`);
    database.close();
    succeeded(await cli("copy", from.url, to.url));
    const newer = /"1:1".*: it is stored by a newer version of this package; update the package\n/;
    failed(await cli("copy", from.url, other.url), newer);
    failed(await cli("get", from.url, "1:1"), newer);
    assert.match(
      succeeded(await cli("stats", to.url)),
      /\n {2}by a newer version of this package +1 /,
    );
  });
});

describe("keys on the command line", { timeout: 600_000 }, () => {
  /** A file with this content, for `--keys`. */
  function keyFile(content: string) {
    const path = join(tmpdir(), `${place()}.keys`);
    writeFileSync(path, content);
    return { path, [Symbol.dispose]: () => rmSync(path) };
  }

  it("come from the file of --keys before the environment", async () => {
    await using here = sqlite.place();
    await store(here, "1:1", { name: secret }, { encrypt });
    using file = keyFile(`\ufeff${key2}\r\n\n  ${key1}\n`);
    const args = ["get", here.url, "1:1", "--keys", file.path];
    assert.match(succeeded(await cli(...args)), /Lovelace/);
    assert.match(succeeded(await withKeys([key3], args)), /Lovelace/);
    assert.match(succeeded(await withKeys([`${key2} ${key1}`], args.slice(0, 3))), /Lovelace/);
  });

  const commands = [
    ["copy", "a.db", "b.db"],
    ["stats", "a.db"],
    ["get", "a.db", "1:1"],
    [
      "export",
      "a.db",
    ],
    ["import", "-", "a.db"],
    ["doctor", "a.db"],
    ["rotate", "a.db"],
    [
      "migrate",
      "a.db",
      "--module",
      "a.js",
    ],
  ];

  it("are checked by every command that takes them", async () => {
    const expected =
      /^TELEGRAF_SESSION_KEYS must have keys of 32 random bytes, as base64, but key 2 has 6 bytes\n$/;
    for (const command of commands) {
      const run = await withKeys([key1, "c2VjcmV0"], command);
      failed(run, expected, 2);
      assert.ok(!run.stderr.includes("c2VjcmV0"));
      assert.equal(run.stdout, "");
    }
  });

  it("that are invalid are named, without their text", async () => {
    const invalid: [string[], RegExp][] = [
      [["correct horse"], /, but key 1 is a string that is not base64\n|key 1 has \d+ bytes\n/],
      [["not*base64"], /^TELEGRAF_SESSION_KEYS .*, but key 1 is a string that is not base64\n$/],
      [[key1, key2, key1], /^TELEGRAF_SESSION_KEYS has the same key twice\n$/],
      [[Buffer.alloc(32, 1).toString("hex")], /, but key 1 has 48 bytes\n$/],
    ];
    for (const [keys, message] of invalid) {
      const run = await withKeys(keys, ["stats", "missing.db"]);
      failed(run, message, 2);
      for (const key of keys) assert.ok(!run.stderr.includes(key));
    }
    using empty = keyFile(" \n");
    failed(
      await cli("stats", "a.db", "--keys", empty.path),
      /^The file of --keys has no key\n$/,
      2,
    );
    using short = keyFile("c2VjcmV0");
    const wrong =
      /^The file of --keys must have keys of 32 random bytes, as base64, but key 1 has 6 /;
    failed(await cli("stats", "a.db", "--keys", short.path), wrong, 2);
    const missing = /^Cannot read the file of --keys: ENOENT/;
    failed(await cli("stats", "a.db", "--keys", "missing.keys"), missing, 2);
  });

  it("are never taken from arguments, and not printed", async () => {
    const message = /^--keys needs the name of a file .* A key itself must not be an argument\n$/;
    const hex = Buffer.alloc(32, 7).toString("hex");
    for (const argument of [key1, `${key1},${key2}`, hex]) {
      const run = await cli("stats", "a.db", "--keys", argument);
      failed(run, message, 2);
      assert.ok(!run.stderr.includes(argument));
    }
    failed(await cli("stats", "a.db", "--key", "x"), /^error: unknown option '--key'/, 2);
    failed(await cli("rotate", "a.db", key1), /^error: too many arguments for 'rotate'/, 2);
  });

  it("are not needed by commands that do not read sessions", async () => {
    await using here = sqlite.place();
    await store(here, "1:1", { name: secret }, { encrypt });
    succeeded(await withKeys(["nonsense"], ["leases", here.url]));
    succeeded(await withKeys(["nonsense"], ["prune", here.url]));
    succeeded(await withKeys(["nonsense"], ["delete", here.url, "1:1"]));
  });

  it("rotate needs them", async () => {
    const message =
      /^rotate needs keys: put the newest one and the older ones into TELEGRAF_SESSION_/;
    failed(await cli("rotate", "a.db"), message, 2);
  });

  it("import refuses lines with a wrong version", async () => {
    await using here = sqlite.place();
    for (const version of [0, -1, 1.5, 1e9, '"1"', null]) {
      const run = await pipe(
        `{"key":"1:1","session":1,"version":${version}}`,
        "import",
        "-",
        here.url,
      );
      failed(run, /line 1: "version" is not a whole number from 1 to 999999999\n/);
    }
    assert.equal((await here.raw()).size, 0);
  });
});

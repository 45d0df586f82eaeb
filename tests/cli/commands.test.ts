/** Every command of the command line, on every database. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import Database from "better-sqlite3";
import { MongoClient, ObjectId } from "mongodb";
import { createConnection } from "mysql2/promise";
import pg from "pg";
import { createClient } from "redis";
import { copy } from "../../src/cli/copy.ts";
import { doctor } from "../../src/cli/doctor.ts";
import { missingDriver } from "../../src/cli/driver.ts";
import { startProgress } from "../../src/cli/progress.ts";
import { stats } from "../../src/cli/stats.ts";
import { duration } from "../../src/cli/text.ts";
import { version } from "../../src/cli/version.ts";
import { KvServer } from "../support/denokv.ts";
import { cli, end, kinds, pipe, type Place, sqliteContext, start } from "../support/commandLine.ts";
import { place, serverUrl } from "../support/servers.ts";

const day = 24 * 60 * 60 * 1000;
const kind = (name: string) => kinds.find((kind) => kind.name === name)!;
const text = kind("SQLite");

/** Expects exit code 0, and returns the output. */
async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli(...args);
  assert.equal(code, 0, stdout + stderr);
  return stdout;
}

/** Expects this exit code, and only this message. */
async function fails(code: number, message: RegExp, ...args: string[]): Promise<void> {
  const run = await cli(...args);
  assert.equal(run.code, code, run.stdout + run.stderr);
  assert.match(run.stderr, message);
  assert.equal(run.stdout, "");
  assert.doesNotMatch(run.stderr, /\n {4}at |s3cret/, "a stack or a password");
}

/** A terminal; `read` is called with each text that is written to it. */
function terminal(read: (text: string) => unknown, columns?: number) {
  return { isTTY: true, columns, write: (text: string) => read(text) };
}

/** The final text on a terminal: `\r\x1b[K` returns to the start of the line and erases it. */
function screen(written: string): string {
  return written.split("\n").map((line) => line.split("\r\x1b[K").at(-1)).join("\n");
}

/** Sends Ctrl-C. `child.kill` of Deno would also close standard input and hide the exit code. */
function interrupt(child: ReturnType<typeof start>): void {
  process.kill(child.pid!, "SIGINT");
}

/** Stores a session that never expires, one that expires later, and one that has expired. */
function three(place: Place): Promise<void> {
  return place.fill([
    ["1:1", { name: "Zoë" }],
    ["2:2", { list: [1, "b"] }, Date.now() + day + 1_000_000],
    ["3:3", { gone: true }, Date.now() + 100],
  ]).then(() => wait(200));
}

for (const { name, place, prunes } of kinds) {
  describe(`${name} on the command line`, { timeout: 600_000 }, () => {
    it(`${name} stats counts sessions and bytes, and reports when sessions expire`, async () => {
      await using here = place();
      await here.fill([["1:1", { text: "x".repeat(5_000) }], ["2:2", 1, Date.now() + 2 * day]]);
      const output = await ok("stats", here.url);
      assert.match(output, new RegExp(`^${name} .*: 2 sessions, 5\\.0 kB, 2\\.5 kB on average\n`));
      assert.match(output, /Largest:\n +5\.0 kB {2}"1:1"\n/);
      assert.match(output, /never +1 /);
      assert.match(output, /within a week +1 /);
      assert.match(output, /within a day +0\n/);
    });

    it(`${name} get prints a session as JSON`, async () => {
      await using here = place();
      await three(here);
      assert.equal(await ok("get", here.url, "1:1"), '{"name":"Zoë"}\n');
      assert.equal(await ok("get", here.url, "2:2"), '{"list":[1,"b"]}\n');
      await fails(1, /has no session "4:4"\n$/, "get", here.url, "4:4");
      await fails(1, /has no session "3:3"\n$/, "get", here.url, "3:3"); // it has expired
    });

    it(`${name} delete deletes only the given session`, async () => {
      await using here = place();
      await three(here);
      assert.match(await ok("delete", here.url, "1:1"), /^Deleted session "1:1" from /);
      await fails(1, /has no session "1:1"\n$/, "delete", here.url, "1:1");
      const raw = await here.raw();
      assert.ok(raw.has("2:2") && !raw.has("1:1"));
    });

    it(`${name} prune deletes expired sessions`, async () => {
      await using here = place();
      await three(here);
      const output = await ok("prune", here.url);
      assert.match(output, prunes ? /^Deleted 1 expired session from / : /by itself\.\n$/);
      assert.deepEqual([...(await here.raw()).keys()].toSorted(), ["1:1", "2:2"]);
    });

    it(`${name} export and import keep sessions and their expiry times`, async () => {
      await using here = place();
      await using there = place();
      await three(here);
      const { code, stdout, stderr } = await cli("export", here.url);
      assert.equal(code, 0, stderr);
      assert.match(stderr, /^Exported 2 sessions from /);
      const lines = stdout.trimEnd().split("\n").toSorted();
      assert.equal(lines.length, 2);
      assert.equal(lines[0], '{"key":"1:1","session":{"name":"Zoë"}}');
      assert.match(lines[1]!, /^{"key":"2:2","session":{"list":\[1,"b"\]},"expires":\d{13}}$/);

      const run = await pipe(stdout, "import", "-", there.url);
      assert.equal(run.code, 0, run.stderr);
      assert.match(run.stdout, /^Copied 2 sessions \(\d+ bytes\) from standard input to /);
      const [before, after] = [await here.raw(), await there.raw()];
      assert.deepEqual(after.get("1:1"), before.get("1:1"));
      assert.deepEqual(after.get("2:2")!.value, before.get("2:2")!.value);
      assert.ok(Math.abs(after.get("2:2")!.expires! - before.get("2:2")!.expires!) < 1_000);
    });

    it(`${name} import reports invalid lines by number, and imports the others`, async () => {
      await using here = place();
      const input = [
        '{"key":"1:1","session":{"n":1}}',
        '{"key":"2:2"',
        "",
        '{"session":{}}',
        '{"key":"4:4","session":1,"expires":"tomorrow"}',
        '{"key":"5:5","session":{"n":5},"more":1}',
        '{"key":"","session":1}',
        '{"key":"7:7","session":{"n":7}}',
      ].join("\n");
      const run = await pipe(input, "import", "-", here.url);
      assert.equal(run.code, 1);
      assert.match(
        run.stderr,
        /^Not imported: line 2: .*\nNot imported: line 4: "key" is not a string\n/,
      );
      assert.match(
        run.stderr,
        /line 5: "expires" is not .*\nNot imported: line 6: unknown field "more"; /,
      );
      assert.match(run.stderr, /session "": .*\n5 sessions were not copied\n$/);
      assert.deepEqual([...(await here.raw()).keys()].toSorted(), ["1:1", "7:7"]);
    });

    it(`${name} copy skips existing sessions, and replaces them with --overwrite`, async () => {
      await using from = text.place();
      await using to = place();
      await from.fill([["1:1", { n: 1 }], ["2:2", { n: 1 }]]);
      await to.fill([["1:1", { n: 0 }], ["9:9", { n: 9 }]]);
      const kept = await ok("copy", from.url, to.url);
      assert.match(kept, /^Copied 1 session .*\nSkipped 1 session that TO already has; --over/);
      await using store = to.store();
      assert.deepEqual(await store.get("1:1"), { n: 0 });
      assert.match(await ok("copy", "--overwrite", from.url, to.url), /^Copied 2 sessions /);
      assert.deepEqual(await store.get("1:1"), { n: 1 });
      assert.deepEqual(await store.get("9:9"), { n: 9 });
    });

    it(`${name} copy --dry-run and import --dry-run change nothing`, async () => {
      await using from = text.place();
      await using to = place();
      await from.fill([["1:1", { n: 1 }], ["2:2", { n: 1 }]]);
      const output = await ok("copy", "--dry-run", from.url, to.url);
      assert.match(
        output,
        /^Would copy 2 sessions \(14 bytes\)|^Would copy 2 sessions \(\d\d bytes/,
      );
      const run = await pipe('{"key":"1:1","session":1}', "import", "--dry-run", "-", to.url);
      assert.match(run.stdout, /^Would copy 1 session/);
      if (name !== "Redis" && name !== "MongoDB") {
        await fails(1, /has no table|There is no file/, "stats", to.url); // was not created
      }
      await to.fill([["1:1", { n: 0 }]]);
      assert.match(await ok("copy", "--dry-run", from.url, to.url), /^Would copy 1 session /);
      const dry = await ok("copy", "--dry-run", "--overwrite", from.url, to.url);
      assert.match(dry, /^Would copy 2 sessions /);
      assert.deepEqual([...(await to.raw()).keys()], ["1:1"]);
    });

    it(`${name} copy skips expired sessions`, async () => {
      await using from = place();
      await using to = text.place();
      await three(from);
      const output = await ok("copy", from.url, to.url);
      assert.match(output, /^Copied 2 sessions /);
      if (prunes) assert.match(output, /\nLeft out 1 expired session\.\n/);
      assert.ok(!(await to.raw()).has("3:3"));
    });

    it(`${name} leases lists none where no update runs`, async () => {
      await using here = place();
      await three(here);
      assert.match(await ok("leases", here.url), /: 0 leases are held\n$/);
      // The table has no columns for leases, or the server cannot have any.
      assert.deepEqual(await here.find("1:1", "2:2", "missing"), []);
    });

    it(`${name} doctor finds no problem, and changes nothing`, async () => {
      await using here = place();
      await three(here);
      const before = await here.raw();
      const output = await ok("doctor", here.url);
      assert.match(output, new RegExp(`^✓ open the database: ${name} .*, \\d+ ms\n`));
      assert.match(output, /✓ read all sessions: [23] sessions\n✓ write a session\n/);
      assert.match(output, /✓ read the .*\n✓ set the expiry time .*\n✓ delete a session\n$/);
      assert.doesNotMatch(output, /[✗•]/);
      assert.deepEqual([...(await here.raw()).keys()].filter((key) => /doctor/.test(key)), []);
      assert.deepEqual((await here.raw()).get("1:1"), before.get("1:1"));
    });

    it(`${name} doctor finds sessions that cannot be decoded`, {
      skip: name === "MongoDB" && "its documents can always be decoded",
    }, async () => {
      await using here = place();
      await here.fill([["1:1", { n: 1 }]]);
      await here.write("2:2", "{oops");
      const { code, stdout } = await cli("doctor", here.url);
      assert.equal(code, 1);
      assert.match(stdout, /✗ 1 session cannot be decoded: "2:2"\n/);
      await fails(1, /^Session "2:2" cannot be decoded: /, "get", here.url, "2:2");
      await using to = kind("MongoDB").place();
      const run = await cli("copy", here.url, to.url);
      assert.equal(run.code, 1);
      assert.match(
        run.stderr,
        /^Not copied: session "2:2": .*\n1 session was not copied/,
      );
      assert.match(run.stdout, /^Copied 1 session /);
    });
  });
}

describe("data of version 2.0.0-beta on the command line", { timeout: 600_000 }, () => {
  /** Runs all commands that change nothing. */
  async function look(url: string): Promise<string> {
    await ok("stats", url);
    await ok("export", url);
    await ok("get", url, "1:1");
    await using to = text.place();
    assert.match(await ok("copy", url, to.url), /^Copied 3 sessions /);
    assert.deepEqual((await to.raw()).get("1:1")!.value, '{"n":"new"}');
    return await ok("doctor", url);
  }

  it("PostgreSQL tables without a key are read and not changed", async () => {
    const client = new pg.Client(serverUrl("postgres"));
    await client.connect();
    const table = place();
    try {
      await client.query(`CREATE TABLE "${table}" (key varchar(32), session text)`);
      await client.query(`INSERT INTO "${table}" VALUES ('1:1', '{"n":"old"}'), ('2:2', '{}'),
        ('1:1', '{"n":"new"}'), ('3:3', '{}')`);
      const output = await look(`${serverUrl("postgres")}?table=${table}`);
      assert.match(
        output,
        /• the schema is from an older version; .*:\n {4}DELETE FROM .*\n {4}ALTER/,
      );
      assert.match(
        output,
        /• 1 key has more than one entry; the upgrade keeps the newest one: "1:1"\n/,
      );
      const { rows } = await client.query({
        text: `SELECT attname FROM pg_attribute WHERE attrelid = '"${table}"'::regclass
          AND attnum > 0 UNION ALL SELECT count(*)::text FROM "${table}"`,
        rowMode: "array",
      });
      assert.deepEqual(rows.flat().toSorted(), ["4", "key", "session"]);
    } finally {
      await client.query(`DROP TABLE "${table}"`);
      await client.end();
    }
  });

  it("MySQL tables without a key are read and not changed", async () => {
    const connection = await createConnection(serverUrl("mysql"));
    const table = place();
    try {
      await connection.query(`CREATE TABLE \`${table}\` (\`key\` varchar(32), session text)`);
      await connection.query(`INSERT INTO \`${table}\` VALUES ('1:1', '{"n":"old"}'), ('2:2', '{}'),
        ('1:1', '{"n":"new"}'), ('3:3', '{}')`);
      const output = await look(`${serverUrl("mysql")}?table=${table}`);
      assert.match(output, /• the schema is from an older version; .*:\n {4}ALTER TABLE/);
      assert.match(
        output,
        /• 1 key has more than one entry; the upgrade keeps the newest one: "1:1"\n/,
      );
      const [columns] = await connection.query(`SHOW COLUMNS FROM \`${table}\``);
      assert.deepEqual((columns as { Field: string }[]).map((it) => it.Field), ["key", "session"]);
    } finally {
      await connection.query(`DROP TABLE \`${table}\``);
      await connection.end();
    }
  });

  it("SQLite files are read, and not one byte is changed", async () => {
    await using here = text.place();
    const database = new Database(here.url);
    database.exec(`CREATE TABLE "telegraf-sessions" (key varchar(32), session text);
      INSERT INTO "telegraf-sessions" VALUES ('1:1', '{"n":"old"}'), ('2:2', '{}'),
        ('1:1', '{"n":"new"}'), ('3:3', '{}')`);
    database.close();
    const digest = () => createHash("sha256").update(readFileSync(here.url)).digest("hex");
    const before = digest();
    const output = await look(here.url);
    assert.match(
      output,
      /• 1 key has more than one entry; the upgrade keeps the newest one: "1:1"\n/,
    );
    assert.match(
      output,
      /• the schema is from an older version; .*:\n {4}DELETE FROM .*\n {4}CREATE/,
    );
    assert.equal(digest(), before);
    assert.ok(!existsSync(`${here.url}-wal`) && !existsSync(`${here.url}-shm`));
  });

  it("MongoDB collections without an index are read and not changed", async () => {
    const client = new MongoClient(serverUrl("mongodb"));
    const collection = client.db().collection(place());
    try {
      await collection.insertMany([
        { key: "1:1", session: { n: "new" } }, // the beta used the first of duplicates
        { key: "1:1", session: { n: "old" } },
        { key: "2:2", session: {} },
        { key: 3, session: { number: true } },
      ]);
      const url = `${serverUrl("mongodb")}?collection=${collection.collectionName}`;
      const output = await look(url);
      assert.match(output, /older version; .*:\n {4}convert keys .* to text\n {4}create a unique/);
      assert.match(
        output,
        /• 1 key has more than one entry; the upgrade keeps the first one: "1:1"\n/,
      );
      assert.equal(await ok("get", url, "3"), '{"number":true}\n');
      assert.equal((await collection.listIndexes().toArray()).length, 1);
      assert.equal(await collection.countDocuments({ key: 3 }), 1);
      await ok("delete", url, "3");
      assert.equal(await collection.countDocuments({ key: 3 }), 0);
    } finally {
      await collection.drop();
      await client.close();
    }
  });
});

describe("MongoDB's types on the command line", { timeout: 600_000 }, () => {
  const date = new Date("2026-01-02T03:04:05.678Z");

  it("MongoDB dates remain dates in MongoDB", async () => {
    await using from = kind("MongoDB").place();
    await using to = kind("MongoDB").place();
    await from.fill([["1:1", { date, list: [{ date }], id: new ObjectId() }]]);
    assert.doesNotMatch(await ok("copy", from.url, to.url), /became/);
    assert.deepEqual(await to.raw(), await from.raw());
  });

  for (const to of kinds.filter((kind) => kind.text)) {
    it(`${to.name} receives MongoDB's dates as ISO text, and copy reports their number`, async () => {
      await using from = kind("MongoDB").place();
      await using there = to.place();
      const id = new ObjectId();
      const bytes = new Uint8Array([1, 2, 3]);
      await from.fill([["1:1", { date, list: [{ date }], id, bytes }], ["2:2", { n: 1.5 }]]);
      const output = await ok("copy", from.url, there.url);
      assert.match(output, /\n2 dates became ISO text\.\n/);
      assert.match(output, /\n1 ObjectId became text\.\n/);
      assert.match(output, /\n1 binary value became base64 text\.\n/);
      const raw = await there.raw();
      const iso = date.toISOString();
      const expected = { date: iso, list: [{ date: iso }], id: `${id}`, bytes: "AQID" };
      assert.deepEqual(JSON.parse(raw.get("1:1")!.value as string), expected);
      assert.equal(raw.get("2:2")!.value, '{"n":1.5}');
    });
  }

  it("MongoDB dates are exported as ISO text", async () => {
    await using from = kind("MongoDB").place();
    await from.fill([["1:1", { date }]]);
    const { stdout, stderr } = await cli("export", from.url);
    assert.equal(stdout, `{"key":"1:1","session":{"date":"${date.toISOString()}"}}\n`);
    assert.match(stderr, /\n1 date became ISO text\.\n$/);
  });
});

describe("the command line", { timeout: 600_000 }, () => {
  it("--help lists every command, and each command has its own --help", async () => {
    const help = await ok("--help");
    const commands = [
      "copy",
      "stats",
      "get",
      "delete",
      "export",
      "import",
      "leases",
      "prune",
      "rotate",
      "migrate",
      "doctor",
    ];
    for (const command of commands) {
      assert.match(help, new RegExp(`^  ${command} `, "m"));
      const own = await ok(command, "--help");
      assert.match(own, new RegExp(`^Usage: telegraf-session ${command} `));
      assert.match(own, /Exit codes:/);
      if (/copy|import/.test(command)) assert.match(own, /run the same command again/);
    }
  });

  it("wrong usage ends with exit code 2 and one sentence", async () => {
    await fails(2, /^error: unknown command 'coppy'/, "coppy");
    await fails(2, /^error: missing required argument 'TO'/, "copy", "a.db");
    await fails(2, /^error: unknown option '--dry'/, "copy", "a.db", "b.db", "--dry");
    await fails(2, /cannot be used with/, "copy", "a.db", "b.db", "--skip", "--overwrite");
    await fails(2, /^"bot" is neither a URL nor a file/, "stats", "bot");
    await fails(2, /^Unknown database "http:"/, "stats", "http://localhost");
    await fails(2, /^Unknown parameter "tabel"/, "stats", "sqlite:a.db?tabel=x");
    await fails(2, /^A session key must have 1 to 512 bytes/, "get", "a.db", "");
    await fails(2, /^FROM and TO share sessions/, "copy", "a.db", "sqlite:a.db");
    const redis = "redis://localhost?prefix=a:";
    await fails(2, /^FROM and TO share sessions/, "copy", redis, `${redis}b:`);
    await fails(2, /choices/, "import", "--format", "csv", "a", "b.db");
  });

  it("a failure ends with exit code 1 and one sentence without the password", async () => {
    const wrong = (url: string) => url.replace(/:\/\/[^@]*@/, "://nobody:s3cret@");
    await fails(1, /^There is no file missing\.db\n$/, "stats", "missing.db");
    await fails(1, /^PostgreSQL .*: password auth.*\n$/, "stats", wrong(serverUrl("postgres")));
    await fails(1, /^MySQL .*: Access denied .*\n$/, "stats", wrong(serverUrl("mysql")));
    const table = `${serverUrl("postgres")}?table=${place()}`;
    await fails(1, /^PostgreSQL .* has no table "test-.*"\n$/, "export", table);
    await using to = text.place();
    await fails(1, /^There is no file missing.jsonl\n$/, "import", "missing.jsonl", to.url);
    assert.ok(!existsSync(to.url));
    const down = "postgres://user:s3cret@127.0.0.1:1/bot";
    await fails(
      1,
      /^PostgreSQL 127\.0\.0\.1:1\/bot: timed out after 10 s; last error: .*\n$/,
      "stats",
      down,
    );
    const { code, stdout } = await cli("doctor", down);
    assert.equal(code, 1);
    assert.match(stdout, /^✗ open the database: PostgreSQL 127\.0\.0\.1:1\/bot: timed out.*\n$/);
  });

  it("PostgreSQL doctor finds missing rights", async () => {
    await using here = kind("PostgreSQL").place();
    await here.fill([["1:1", { n: 1 }]]);
    const client = new pg.Client(serverUrl("postgres"));
    await client.connect();
    const role = place().replace("-", "_");
    const table = new URL(here.url).searchParams.get("table");
    await client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'`);
    try {
      const url = here.url.replace(/:\/\/[^@]*@/, `://${role}:secret@`);
      const doctor = async (grant: string) => {
        await client.query(grant);
        const { code, stdout } = await cli("doctor", url);
        assert.equal(code, 1, stdout);
        return stdout;
      };
      const reader = await doctor(`GRANT SELECT ON "${table}" TO ${role}`);
      assert.match(reader, /✓ read all sessions: 1 session\n✗ write a session: .*den/);
      assert.match(reader, /✗ set the expiry .*: .*denied.*\n✗ delete a session: .*denied/);
      // This role may change sessions, and may not insert them.
      const changer = await doctor(`GRANT UPDATE, DELETE ON "${table}" TO ${role}`);
      assert.match(changer, /✗ write a session: .*denied.*\n✓ set the expiry .*\n✓ delete .*\n$/);
      await using to = text.place();
      assert.match(await ok("copy", url, to.url), /^Copied 1 session /);

      const schema = `${role}_schema`;
      const missing = `${url}&schema=${schema}`;
      await client.query(`CREATE SCHEMA ${schema}; GRANT USAGE ON SCHEMA ${schema} TO ${role}`);
      const nothing = await cli("doctor", missing);
      assert.equal(nothing.code, 1);
      assert.match(
        nothing.stdout,
        /• table ".*" does not exist yet;.*\n.*CREATE TABLE .*\n✗ create it \(dry run\): /,
      );
      assert.match(nothing.stdout, /: permission denied for schema /);
      await client.query(`GRANT CREATE ON SCHEMA ${schema} TO ${role}`);
      assert.match(await ok("doctor", missing), /\n✓ create it \(dry run\)\n$/);
      assert.match(await ok("doctor", missing), /• table ".*" does not exist yet/);
      await client.query(`DROP SCHEMA ${schema}`); // fails unless the schema is empty

      await client.query(`ALTER TABLE "${table}" DROP COLUMN expires`);
      const old = await doctor(`GRANT INSERT ON "${table}" TO ${role}`);
      assert.match(
        old,
        /✗ upgrade it \(dry run\): must be owner of table .* within the old limits\n/,
      );
      assert.match(old, /✓ write a session\n/);
    } finally {
      await client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
      await client.end();
    }
  });

  it("MySQL doctor finds missing rights", async () => {
    await using here = kind("MySQL").place();
    await here.fill([["1:1", { n: 1 }]]);
    const connection = await createConnection(serverUrl("mysql"));
    const user = place();
    const table = new URL(here.url).searchParams.get("table");
    await connection.query(`CREATE USER '${user}'@'%' IDENTIFIED BY 'secret'`);
    try {
      const url = here.url.replace(/:\/\/[^@]*@/, `://${user}:secret@`);
      await connection.query(`GRANT SELECT, UPDATE, DELETE ON \`${table}\` TO '${user}'@'%'`);
      const { code, stdout } = await cli("doctor", url);
      assert.equal(code, 1, stdout);
      assert.match(stdout, /✗ write a session: .*denied.*\n✓ set the expiry .*\n✓ delete .*\n$/);
      const other = place();
      await connection.query(`GRANT SELECT, INSERT ON \`${other}-%\`.* TO '${user}'@'%'`);
      await connection.query(`CREATE DATABASE \`${other}-1\``);
      const missing = url.replace(/\/[^/]*\?.*$/, `/${other}-1`);
      const nothing = await cli("doctor", missing);
      assert.equal(nothing.code, 1, nothing.stdout);
      assert.match(
        nothing.stdout,
        /• table ".*" does not exist yet;.*\n.*\n✗ create it \(dry run\): CREATE comm/,
      );
      await connection.query(`GRANT CREATE ON \`${other}-%\`.* TO '${user}'@'%'`);
      assert.match(await ok("doctor", missing), /\n✓ create it \(dry run\)\n$/);
      const [tables] = await connection.query(`SHOW TABLES IN \`${other}-1\``);
      assert.deepEqual(tables, []);
      await connection.query(`DROP DATABASE \`${other}-1\``);

      await connection.query(`ALTER TABLE \`${table}\` DROP COLUMN expires`);
      await connection.query(`GRANT INSERT ON \`${table}\` TO '${user}'@'%'`);
      const old = await cli("doctor", url);
      assert.match(
        old.stdout,
        /✗ upgrade it \(dry run\): ALTER command denied .* the old limits\n/,
      );
      assert.match(old.stdout, /✓ write a session\n/);
    } finally {
      await connection.query(`DROP USER '${user}'@'%'`);
      await connection.end();
    }
  });

  it("Redis doctor finds missing rights", async () => {
    await using here = kind("Redis").place();
    await here.fill([["1:1", { n: 1 }]]);
    const client = await createClient({ url: serverUrl("redis") }).connect();
    const user = place();
    try {
      const rules = ["on", ">secret", "~*", "+@all", "-set", "-mset"];
      await client.sendCommand(["ACL", "SETUSER", user, ...rules]);
      const { code, stdout } = await cli("doctor", here.url.replace("://", `://${user}:secret@`));
      assert.equal(code, 1, stdout);
      assert.match(
        stdout,
        /✓ read all sessions: 1 session\n✗ write a session: .*NOPERM/,
      );
    } finally {
      await client.sendCommand(["ACL", "DELUSER", user]);
      client.destroy();
    }
  });

  it("SQLite doctor finds a missing folder", async () => {
    const file = join(tmpdir(), place(), "bot.sqlite");
    const { code, stdout } = await cli("doctor", file);
    assert.equal(code, 1, stdout);
    assert.match(
      stdout,
      /• table ".*" does not exist yet;.*\n.*CREATE TABLE .*\n✗ create it \(dry run\): ENOENT/,
    );
    await using here = text.place();
    assert.match(await ok("doctor", here.url), /\n✓ create it \(dry run\)\n$/);
    assert.ok(!existsSync(here.url));
  });

  it("Deno KV doctor finds a missing folder", async () => {
    const { code, stdout } = await cli("doctor", `denokv:${join(tmpdir(), place(), "bot.kv")}`);
    assert.equal(code, 1, stdout);
    assert.match(
      stdout,
      /• prefix ".*" does not exist yet;.*\n {4}create the file\n✗ create it \(dry run\): ENOENT/,
    );
    await using here = kind("Deno KV").place();
    assert.match(await ok("doctor", here.url), /\n✓ create it \(dry run\)\n$/);
    const [file] = here.url.slice("denokv:".length).split("?") as [string];
    assert.ok(!existsSync(file));
    await fails(1, /^There is no file .*\.kv\n$/, "stats", here.url);
  });

  it("Deno KV is copied over KV Connect", async () => {
    await using server = new KvServer();
    await server.start();
    await using file = kind("Deno KV").place();
    await three(file);
    const url = `denokv:${server.url}?prefix=${place()}`;
    assert.match(await ok("copy", file.url, url), /^Copied 2 sessions .* to Deno KV 127\.0\.0\.1:/);
    assert.equal(await ok("get", url, "1:1"), '{"name":"Zoë"}\n');
    assert.doesNotMatch(await ok("doctor", url), /[✗•]/);
    await fails(2, /^The denokv: URL has no file name; write denokv:bot\.kv/, "stats", "denokv:");
    await fails(
      2,
      /^Unknown parameter "table" in a denokv: URL; .*: prefix/,
      "stats",
      `${url}&table=x`,
    );
    await fails(2, /^FROM and TO share sessions/, "copy", "denokv:a.kv", "denokv:a.kv");
  });

  it("Ctrl-C ends every command that waits for a server, with exit code 130", async () => {
    const sockets = new Set<Socket>();
    const silent = createServer((socket) => sockets.add(socket.on("error", () => {})));
    await once(silent.listen(0, "127.0.0.1"), "listening");
    const { port } = silent.address() as { port: number };
    const url = `postgres://user:s3cret@127.0.0.1:${port}/bot`;
    await using here = text.place();
    await here.fill([["1:1", { n: 1 }]]);
    const [keys, module] = [`${here.url}.keys`, `${here.url}.mjs`];
    writeFileSync(keys, Buffer.alloc(32).toString("base64"));
    writeFileSync(module, "export const version = 1, migrate = { 1() {} };");
    try {
      const commands = [
        ["stats", url],
        ["get", url, "1:1"],
        ["delete", url, "1:1"],
        ["export", url],
        ["prune", url],
        ["doctor", url],
        ["copy", url, here.url],
        ["copy", here.url, url],
        ["import", "-", url],
        ["import", "--format", "grammy-psql", url, here.url],
        ["rotate", url, "--keys", keys],
        ["migrate", url, "--module", module],
      ];
      for (const command of commands) {
        const connected = once(silent, "connection");
        const child = start(...command);
        const ended = end(child);
        await Promise.race([connected, ended]);
        interrupt(child);
        const { code, stdout, stderr } = await ended;
        assert.equal(code, 130, `${command}: ${stdout}${stderr}`);
        assert.match(stderr, /^Interrupted/);
        assert.doesNotMatch(stdout, /✓|✗/);
      }
    } finally {
      for (const socket of sockets) socket.destroy();
      silent.close();
      for (const file of [keys, module]) rmSync(file);
    }
  });

  it("Ctrl-C ends an import that waits for its input", async () => {
    await using to = text.place();
    const child = start("import", "-", to.url);
    const ended = end(child);
    while (!existsSync(to.url)) await wait(10);
    interrupt(child);
    const { code, stderr } = await ended;
    assert.equal(code, 130, stderr);
    assert.match(stderr, /^Interrupted; run the same command again to continue/m);
  });

  it("Ctrl-C ends an import even if it also ends the writer of its pipe", async () => {
    await using to = text.place();
    const child = start("import", "-", to.url);
    const ended = end(child);
    child.stdin.write('{"key":"1:1","session":1}\n');
    while (!existsSync(to.url)) await wait(10);
    interrupt(child);
    child.stdin.end();
    const { code, stderr } = await ended;
    assert.equal(code, 130, stderr);
    assert.match(stderr, /^Interrupted; run the same command again to continue/m);
  });

  it("Ctrl-C ends doctor and stats, and they print no partial result", async () => {
    await using here = text.place();
    await here.fill(
      Array.from({ length: 2_000 }, (_, i): [string, unknown] => [`${i}:${i}`, { i }]),
    );
    for (const command of [doctor, stats]) {
      const aborter = new AbortController();
      let stdout = "";
      // The bar appears after the sessions are counted, so the first number above 0 is a batch.
      const stderr = terminal((shown) => /[1-9]\d* of 2000/.test(shown) && aborter.abort());
      const context = sqliteContext({
        stdout: { write: (text) => stdout += text },
        stderr,
        signal: aborter.signal,
      });
      await assert.rejects(command(here.url, context), { message: "Interrupted", code: 130 });
      assert.doesNotMatch(stdout, /sessions/);
    }
  });

  it("a session that the other database rejects fails alone", async () => {
    await using from = kind("Redis").place();
    await using to = kind("PostgreSQL").place();
    const sessions = Array.from({ length: 200 }, (_, i): [string, unknown] => [`${i}:${i}`, { i }]);
    await from.fill([...sessions, ["x".repeat(513), { n: 1 }]]);
    await from.write("nul:nul", '{"a":"\0"}'); // PostgreSQL rejects its whole batch
    const { code, stdout, stderr } = await cli("copy", from.url, to.url);
    assert.equal(code, 1);
    assert.match(stdout, /^Copied 200 sessions /);
    assert.match(stderr, /^Not copied: session "x+": A session key must have /m);
    assert.match(stderr, /^Not copied: session "nul:nul": .*invalid byte sequence /m);
    assert.match(stderr, /\n2 sessions were not copied\n$/);
    assert.equal((await to.raw()).size, 200);
  });

  it("Ctrl-C ends a copy, and the same command continues it", async () => {
    await using from = text.place();
    await using to = kind("PostgreSQL").place();
    const total = 60_000;
    await from.fill(
      Array.from({ length: total }, (_, i): [string, unknown] => [`${i}:${i}`, { i }]),
    );
    const child = start("copy", from.url, to.url);
    const client = new pg.Client(serverUrl("postgres"));
    await client.connect();
    const table = new URL(to.url).searchParams.get("table");
    for (let copied = 0; copied === 0;) {
      const { rows } = await client.query(`SELECT count(*)::int FROM "${table}"`)
        .catch(() => ({ rows: [{ count: 0 }] }));
      copied = rows[0].count;
    }
    await client.end();
    interrupt(child);
    const { code, stdout, stderr } = await end(child);
    assert.equal(code, 130, stdout + stderr);
    assert.match(stderr, /^Interrupted; run the same command again to continue/m);
    const done = Number(/^Copied ([\d,]+) sessions/.exec(stdout)![1]!.replaceAll(",", ""));
    assert.equal((await to.raw()).size, done);
    assert.ok(done > 0 && done < total);

    const again = await ok("copy", from.url, to.url);
    const [rest, there] = [total - done, done].map((number) => number.toLocaleString("en"));
    assert.ok(again.startsWith(`Copied ${rest} session`), again);
    assert.ok(again.includes(`\nSkipped ${there} session`), again);
    assert.equal((await to.raw()).size, total);
  });

  it("progress is a bar on a terminal, and nothing elsewhere", () => {
    let shown = "";
    const bar = startProgress(terminal((text) => shown += text, 120), 2_000);
    bar.add(500);
    bar.stop();
    assert.match(shown, /█+░+ 25 % \| 500 of 2000 \| \d+ per s \| .+ left/);
    assert.match(screen(shown), /^█{10}░{30} 25 % \| 500 of 2000 \| \d+ per s \| \d+s left\n$/);
    shown = "";
    const lines = startProgress({ write: (text) => shown += text }, 2_000);
    lines.add(500);
    lines.stop();
    assert.equal(shown, "");
  });

  it("stats and doctor show a bar on a terminal", async () => {
    await using here = text.place();
    await here.fill([["1:1", 1], ["2:2", 2]]);
    for (const command of [stats, doctor]) {
      let shown = "";
      const stderr = terminal((text) => shown += text);
      assert.equal(await command(here.url, sqliteContext({ stderr })), 0);
      assert.match(shown, /100 % \| 2 of 2 /);
    }
  });

  it("the bar never wraps, even on a narrow terminal", () => {
    for (const columns of [0, 1, 2, 10, 40, 46, 47, 80, 120, undefined]) {
      for (const total of [0, 7, 1_000_000_000]) {
        const written: string[] = [];
        const progress = startProgress(terminal((text) => written.push(text), columns), total);
        progress.add(5);
        progress.stop();
        for (const text of written) {
          const [line = ""] = screen(text).split("\n");
          assert.ok(line.length < (columns || 80), `${columns} columns: ${line}`);
        }
        const most = Math.min(5, total);
        if (columns === 120) assert.match(written.join(""), new RegExp(`\\| ${most} of ${total} `));
      }
    }
  });

  it("the bar follows the width of the terminal, and can be removed", () => {
    let shown = "";
    const output = { ...terminal((text) => shown += text), columns: 120 };
    const bar = startProgress(output, 2_000);
    assert.match(screen(shown), /^░{40} 0 % \| 0 of 2000 \| 0 per s \| \? left$/);
    bar.clear();
    assert.equal(screen(shown), "");
    output.columns = 60;
    bar.stop();
    assert.match(screen(shown), /^░{24} 0 % \| 0 of 2000 \| 0 per s \| \? left\n$/);
  });

  it("messages of copy have their own lines on a terminal, and elsewhere there is no bar", async () => {
    await using from = text.place();
    await from.fill([["1:1", 1], ["x".repeat(513), 2], ["3:3", 3]]);
    for (const isTTY of [true, false]) {
      await using to = text.place();
      let shown = "";
      const stderr = { ...terminal((text) => shown += text, 70), isTTY };
      const mode = { overwrite: false, dryRun: false };
      const copied = copy(from.url, to.url, mode, sqliteContext({ stderr }));
      await assert.rejects(copied, { message: "1 session was not copied" });
      const message = `^Not copied: session "x{513}": A session key must have .*\n`;
      const end = isTTY ? "█+ 100 % \\| 3 of 3 \\| \\d+ per s \\| 0s left\n$" : "$";
      assert.match(screen(shown), new RegExp(message + end));
      assert.equal(/[█░\r]/.test(shown), isTTY);
    }
  });

  it("times are shown in seconds, minutes or hours", () => {
    const times = [0, 0.4, 59.4, 59.6, 65, 3_599.7, 7_383, 100 * 3_600].map(duration);
    assert.deepEqual(times, ["0s", "0s", "59s", "1m00s", "1m05s", "1h00m", "2h03m", "100h00m"]);
  });

  it("--version prints the version of the package", async () => {
    assert.equal(await ok("--version"), `${version}\n`);
  });

  it("--timeout limits the time for opening", async () => {
    const down = "postgres://user:s3cret@127.0.0.1:1/bot";
    await fails(
      1,
      /: timed out after 0\.5 s; last error: connect /,
      "stats",
      down,
      "--timeout",
      "0.5",
    );
    for (const wrong of ["x", "0", "-1", ""]) {
      await fails(2, /^--timeout must be a number of seconds/, "stats", down, "--timeout", wrong);
    }
    // A suspended server that restarts may refuse connections for longer than the default of 10 s.
    const { hostname, port } = new URL(serverUrl("postgres"));
    let refused = 0;
    const sleepy = createServer((near) => {
      near.on("error", () => {});
      if (++refused < 40) return void near.destroy();
      const far = connect(Number(port), hostname).on("error", () => near.destroy());
      near.pipe(far).pipe(near);
    });
    await once(sleepy.listen(0, "127.0.0.1"), "listening");
    try {
      await using here = kind("PostgreSQL").place();
      await here.fill([["1:1", 1]]);
      const url = new URL(here.url);
      url.host = `127.0.0.1:${(sleepy.address() as { port: number }).port}`;
      assert.match(await ok("stats", url.href, "--timeout", "120"), /: 1 session, /);
    } finally {
      sleepy.close();
    }
  });

  it("for an address without a scheme, the error names the right one", async () => {
    const begin = (place: string, hint: RegExp) => fails(2, hint, "stats", place);
    await begin(
      "localhost:6379",
      /^"localhost:6379" is not a URL: begin with redis:\/\/, as in re/,
    );
    await begin("127.0.0.1:6379", /^"127\.0\.0\.1:6379" is not a URL: begin with redis:\/\/, /);
    await begin("[::1]:5432/bot", /^"\[::1\]:5432" is not a URL: begin with postgres:\/\/, /);
    await begin("user:s3cret@db.example.com:3306/bot", /^"db.example.com:3306" .* mysql:\/\/, as/);
    await begin("db.example.com:27017", /begin with mongodb:\/\/, as in mongodb:\/\/db/);
    await begin("localhost:1234", /^"localhost:1234" is not .* redis:\/\/, mongodb:\/\/, /);
    await begin(
      "user:s3cret@localhost/bot",
      /^"\*\*\*@localhost\/bot" is neither a URL nor a file /,
    );
    await begin("redis:localhost", /^A redis: URL must begin with redis:\/\/\n$/);
  });

  it("under npx, a missing driver is reported with a command that works there", () => {
    const npx = ["copy", "redis://:s3cret@localhost", "postgres://localhost/bot"];
    const { message } = missingDriver("PostgreSQL", "pg", sqliteContext({ npx }));
    assert.match(message, /; run: npx -p @telegraf\/session -p redis -p pg telegraf-session …$/);
    const local = missingDriver("PostgreSQL", "pg", sqliteContext({}));
    assert.match(local.message, /; run: npm install pg$/);
  });

  it("copy reports sessions that cannot be decoded and are copied unchanged", async () => {
    await using from = text.place();
    await using to = kind("PostgreSQL").place();
    await from.fill([["1:1", { n: 1 }]]);
    await from.write("2:2", "{oops");
    const dry = await ok("copy", "--dry-run", from.url, to.url);
    assert.match(
      dry,
      /^Would copy 2 sessions .*\n1 session cannot be decoded and would be co.*"2:2"/,
    );
    const real = await ok("copy", from.url, to.url);
    assert.match(real, /^Copied 2 sessions .*\n1 session cannot be decoded and was copied .*"2:2"/);
    assert.equal((await to.raw()).get("2:2")!.value, "{oops");
    await using documents = kind("MongoDB").place();
    const run = await cli("copy", "--dry-run", from.url, documents.url);
    assert.equal(run.code, 1);
    assert.match(run.stdout, /^Would copy 1 session /);
    assert.match(run.stderr, /^Not copied: session "2:2": /);
  });

  it("after sqlite: a file may have any name", async () => {
    const file = join(tmpdir(), `${place()} 100%.session`);
    try {
      const url = `sqlite:${file.replaceAll("%", "%25")}?table=bot`;
      const run = await pipe('{"key":"1:1","session":1}', "import", "-", url);
      assert.equal(run.code, 0, run.stderr);
      const database = new Database(file);
      assert.deepEqual(database.prepare("SELECT key FROM bot").all(), [{ key: "1:1" }]);
      database.close();
    } finally {
      rmSync(file, { force: true });
    }
  });
});

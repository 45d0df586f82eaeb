/** The demo bot, in a separate process that reads its lines from a pipe. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { withoutNoise } from "../support/process.ts";
import { serverUrl } from "../support/servers.ts";

const file = fileURLToPath(new URL("../../examples/demo.ts", import.meta.url));
const command = process.versions.deno === undefined ? [file] : ["run", "-A", "--no-check", file];
const start = "Sessions are kept in ./telegraf-sessions.sqlite\n";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "telegraf-session-demo-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

function spawnDemo(options: string[] = []) {
  return spawn(process.execPath, [...command, ...options], {
    cwd: folder,
    env: { ...process.env, BOT_TOKEN: "", DEBUG: "", NO_COLOR: "1" },
    timeout: 60_000,
  });
}

/** Runs the demo to its end with the lines. */
async function run(lines: string[], ...options: string[]) {
  const child = spawnDemo(options);
  child.stdin.on("error", () => {}); // it may end without reading
  child.stdin.end(lines.map((line) => `${line}\n`).join(""));
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit"),
  ]);
  return { stdout, stderr: withoutNoise(stderr), code };
}

/** Runs the demo on SQLite; returns its answers. */
async function answers(...lines: string[]): Promise<string[]> {
  const { stdout, stderr, code } = await run(lines);
  assert.deepEqual({ stderr, code }, { stderr: "", code: 0 });
  assert.ok(stdout.startsWith(start), stdout);
  return stdout.slice(start.length).split("\n").slice(0, -1);
}

/** The address of a port where no process listens. */
async function closedPort(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return `127.0.0.1:${port}`;
}

test("demo /count continues in the next run", async () => {
  assert.deepEqual(await answers("/count", "/count"), ["1", "2"]);
  assert.deepEqual(await answers("/count"), ["3"]);
});

test("demo /profile repeats its questions until it has a name and an age", async () => {
  assert.deepEqual(await answers("/profile", "/what", "Ann", "old", "0", "151", "31", "/me"), [
    "What is your name?",
    "What is your name?",
    "How old are you, Ann?",
    ...Array(3).fill("Please send a whole number from 1 to 150."),
    "Thank you, Ann. See /me.",
    "Ann, 31, count 0",
  ]);
});

test("demo /profile continues in the next run", async () => {
  assert.deepEqual(await answers("/profile", "Ann"), [
    "What is your name?",
    "How old are you, Ann?",
  ]);
  assert.deepEqual(await answers("31", "/me"), ["Thank you, Ann. See /me.", "Ann, 31, count 0"]);
});

test("demo answers other commands during /profile", async () => {
  assert.deepEqual(await answers("/profile", "/count", "Ann", "/count", "31"), [
    "What is your name?",
    "1",
    "How old are you, Ann?",
    "2",
    "Thank you, Ann. See /me.",
  ]);
});

test("demo /forget deletes the stored session", async () => {
  const lines = ["/count", "/profile", "Ann", "31", "/forget", "/me"];
  assert.deepEqual((await answers(...lines)).slice(-2), ["Forgotten.", "no profile, count 0"]);
  assert.deepEqual(await answers("/me", "/count"), ["no profile, count 0", "1"]);
});

test("demo /help lists the commands, and other text is answered", async () => {
  const lines = await answers("/help", "", "hello");
  const listed = lines.slice(0, -1).map((line) => line.split(" ", 1)[0]);
  assert.deepEqual(listed, ["/count", "/profile", "/me", "/forget", "/help"]);
  assert.match(lines.at(-1)!, /\/help/);
});

test("demo without any input ends with exit code 0", async () => {
  assert.deepEqual(await answers(), []);
});

test("demo ends with exit code 0 on SIGTERM", async () => {
  const child = spawnDemo();
  const exit = once(child, "exit");
  child.stdin.write("/count\n");
  let output = "";
  for await (const chunk of child.stdout) {
    output += chunk;
    // After `child.kill()` Deno would report the signal instead of the exit code.
    if (output === `${start}1\n`) process.kill(child.pid!, "SIGTERM");
  }
  child.stdin.destroy();
  assert.deepEqual(await exit, [0, null]);
  assert.deepEqual(await answers("/count"), ["2"]);
});

test("demo --store takes a file name, also as a URL", async () => {
  const first = await run(["/count"], "--store", "other.sqlite");
  assert.deepEqual(first, {
    stdout: "Sessions are kept in other.sqlite\n1\n",
    stderr: "",
    code: 0,
  });
  const second = await run(["/count"], `--store=sqlite:${join(folder, "other.sqlite")}`);
  assert.match(second.stdout, /\n2\n$/);
});

for (const server of ["redis", "mongodb", "postgres", "mysql"] as const) {
  test(`demo --store takes the URL of a ${server} server`, async () => {
    const where = `--store=${serverUrl(server)}`;
    const first = await run(["/forget", "/count", "/profile", "Ann", "31"], where);
    assert.match(first.stdout, /\n1\n(.*\n){2}Thank you, Ann. See \/me.\n$/);
    const second = await run(["/count", "/me", "/forget"], where);
    assert.match(second.stdout, /\n2\nAnn, 31, count 2\nForgotten.\n$/);
    assert.deepEqual([first.stderr, first.code, second.stderr, second.code], ["", 0, "", 0]);
  });
}

test("demo --help prints the usage", async () => {
  const { stdout, stderr, code } = await run([], "--help");
  assert.match(stdout, /^Usage: deno task demo/);
  assert.deepEqual({ stderr, code }, { stderr: "", code: 0 });
});

test("demo ends with exit code 2 on unknown arguments", async () => {
  for (
    const [argument, complaint] of [
      ["--stor=x", /^Unknown option '--stor'/],
      ["x", /^Unexpected argument 'x'/],
      ["--store", /^Option '--store <value>' argument missing/],
      ["--store=mssql://sa:secret@localhost", /^No store for mssql:\n/],
    ] as const
  ) {
    const { stdout, stderr, code } = await run([], argument);
    assert.match(stderr, complaint);
    assert.match(stderr, /\nUsage: deno task demo/);
    assert.doesNotMatch(stderr, /secret/);
    assert.deepEqual({ stdout, code }, { stdout: "", code: 2 });
  }
});

test("demo ends with exit code 1 and one line if the store cannot be opened", async () => {
  const address = `user:secret@${await closedPort()}`;
  const stores = [
    `redis://${address}`,
    `mongodb://${address}/test`,
    `postgres://${address}/test`,
    `mysql://${address}/test`,
    "missing/folder/file.sqlite",
  ];
  const started = Date.now();
  await Promise.all(stores.map(async (store) => {
    const { stdout, stderr, code } = await run(["/count"], "--store", store);
    assert.match(stderr, /^Cannot open the store: [^\n]+\n$/, store);
    assert.doesNotMatch(stderr, /secret/);
    assert.deepEqual({ stdout, code }, { stdout: "", code: 1 }, store);
  }));
  assert.ok(Date.now() - started < 120_000);
});

/** The bots in `examples/`, each with a simulated Telegram server and a real database. */

import { PGlite } from "@electric-sql/pglite";
import { PGliteDialect } from "kysely";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { after, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { TelegramServer } from "telegram-test-api/lib/telegramServer.js";
import { withoutNoise } from "../support/process.ts";
import { serverUrl } from "../support/servers.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-examples-"));
after(() => rmSync(folder, { recursive: true }));

/** The factory and the place of each bot's sessions, to delete them after the test. */
const examples = {
  redis: ["Redis", { REDIS_URL: serverUrl("redis") }],
  mongodb: ["Mongo", { MONGODB_URL: serverUrl("mongodb") }],
  sqlite: ["SQLite", { SQLITE_FILE: join(folder, "sessions.sqlite") }],
  pg: ["Postgres", { POSTGRES_URL: serverUrl("postgres") }],
  mysql: ["MySQL", { MYSQL_URL: serverUrl("mysql") }],
  denokv: ["DenoKV", { DENOKV_FILE: join(folder, "sessions.kv") }],
  kysely: ["KyselyStore", { PGLITE_FOLDER: join(folder, "pglite") }],
} as const;

const token = "1:token";
const user = 1 + Math.floor(Math.random() * 2 ** 40);

/** Starts the bot in a separate process, sends /count, stops it, and returns its answer. */
async function count(example: string, env: Record<string, string>): Promise<string> {
  const server = new TelegramServer({ host: "127.0.0.1" });
  server.config.port = 0; // any free port
  await server.start();
  const { port } = server["server"].address();
  const child = spawn(
    process.execPath,
    [
      "run",
      "-A",
      "--no-check",
      fileURLToPath(new URL(`../../examples/${example}.ts`, import.meta.url)),
    ],
    { env: { ...process.env, ...env, BOT_TOKEN: token, BOT_API: `http://127.0.0.1:${port}` } },
  );
  const ended = Promise.all([once(child, "exit"), text(child.stdout), text(child.stderr)]);
  const answered = once(server, "AddedBotMessage");
  const client = server.getClient(token, { userId: user, chatId: user });
  await server.addUserCommand(client.makeCommand("/count"));
  await Promise.race([answered, ended]);
  if (child.exitCode === null) process.kill(child.pid!, "SIGTERM");
  const [[code], output, errors] = await ended;
  const answer = server.storage.botMessages[0]?.message.text;
  await server.stop();
  const trouble = withoutNoise(errors);
  assert.deepEqual({ code, output, trouble }, { code: 0, output: "", trouble: "" });
  return answer!;
}

// Other runtimes find the package by its name only if it is installed.
const skip = process.versions.deno === undefined && "only Deno finds this package by its name";

describe("examples", { skip }, () => {
  for (const [example, [factory, env]] of Object.entries(examples)) {
    it(`examples/${example}.ts continues to count after a restart`, async () => {
      assert.match(await count(example, env), /^You have counted to 1\b/);
      assert.match(await count(example, env), /^You have counted to 2\b/);
      const [where] = Object.values(env);
      const entry = await import(`../../${example}.ts`);
      const options = example === "sqlite"
        ? { filename: where }
        : example === "denokv"
        ? { path: where }
        : example === "kysely"
        ? { dialect: new PGliteDialect({ pglite: new PGlite(where) }) }
        : { url: where };
      await using store = entry[factory](options);
      assert.equal((await store.get(`${user}:${user}`)).count, 2);
      await store.delete(`${user}:${user}`);
    });
  }
});

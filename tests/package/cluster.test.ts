/**
 * The bot in `examples/cluster.ts`, with a simulated Telegram server. Its workers are replaced and killed
 * while updates arrive. As Telegram does, the test sends each update until it is answered with 200.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, randomInt } from "node:crypto";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { TelegramServer } from "telegram-test-api/lib/telegramServer.js";
import { Postgres } from "../../pg.ts";
import { freePort } from "../../scripts/servers/launch.ts";
import { message } from "../../src/testing/telegraf.ts";
import { serverUrl } from "../support/servers.ts";
import { until } from "../support/until.ts";

const token = "1:token";
const patience = 600_000;
const chats = 5;
const updates = 20;
const first = randomInt(2 ** 40);
const users = Array.from({ length: chats }, (_, i) => first + i);

/** A module that makes Node.js find this package by its name, as if it were installed. */
const entry = new URL("../../pg.ts", import.meta.url).href;
const findsPackage = `data:text/javascript,${
  encodeURIComponent(
    `import { registerHooks } from "node:module";
    const resolve = (name, context, next) =>
      next(name === "@telegraf/session/pg" ? "${entry}" : name, context);
    registerHooks({ resolve });`,
  )
}`;

/** The bot in its processes. */
async function start(url: string, port: number) {
  const server = new TelegramServer({ host: "127.0.0.1" });
  server.config.port = 0; // any free port
  await server.start();
  const env = {
    BOT_TOKEN: token,
    BOT_API: `http://127.0.0.1:${server["server"].address().port}`,
    POSTGRES_URL: url,
    WEBHOOK_URL: `http://127.0.0.1:${port}/`,
    PORT: `${port}`,
  };
  const file = fileURLToPath(new URL("../../examples/cluster.ts", import.meta.url));
  const supervisor = spawn(process.execPath, ["--import", findsPackage, file], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const workers: number[] = [];
  let log = "";
  createInterface({ input: supervisor.stdout }).on("line", (line) => {
    log += `${line}\n`;
    const [, pid] = /^worker (\d+) is ready$/.exec(line) ?? [];
    if (pid !== undefined) workers.push(Number(pid));
  });
  supervisor.stderr.setEncoding("utf8").on("data", (text) => log += text);
  const ended = once(supervisor, "close");
  return {
    supervisor,
    workers,
    log: () => log,
    async [Symbol.asyncDispose]() {
      supervisor.kill("SIGTERM");
      await ended;
      await server.stop();
    },
  };
}

const { deno, bun, node } = process.versions;
const runs = !deno && !bun && parseInt(node) >= 24 && entry.endsWith(".ts");
const skip = !runs && "node:cluster needs Node.js, and the types in the file need Node.js 24";

it("examples/cluster.ts counts each update once while its workers are killed and replaced", {
  skip,
}, async () => {
  const url = serverUrl("postgres");
  const port = await freePort();
  await using store = Postgres<{ count: number }>({ url });
  await using bot = await start(url, port);
  const { supervisor, workers } = bot;
  await until(() => workers.length === 4, patience);

  const headers = {
    "content-type": "application/json",
    "x-telegram-bot-api-secret-token": createHash("sha256").update(token).digest("hex"),
  };
  let answered = 0;
  /** Sends an update until it is answered with 200. */
  async function send(body: string): Promise<void> {
    for (let attempt = 1;; attempt++) {
      try {
        // The answer to the first attempt often gets lost.
        const signal = AbortSignal.timeout(attempt === 1 ? randomInt(40) : 10_000);
        const options = { method: "POST", headers, body, signal };
        const response = await fetch(`http://127.0.0.1:${port}/`, options);
        await response.arrayBuffer();
        if (response.status === 200) break;
      } catch {
        // The worker was killed, or the time is up.
      }
      await wait(50);
    }
    answered++;
  }
  const sent = Promise.all(users.flatMap((user) =>
    Array.from({ length: updates }, async (_, i) => {
      await wait(i * 200);
      await send(JSON.stringify(message("/count", user)));
    })
  ));
  const ready = () => until(() => workers.length === 4, patience);
  for (const share of [0.1, 0.4]) {
    await until(() => answered > share * chats * updates, patience);
    const [worker] = workers.splice(randomInt(4), 1);
    process.kill(worker!, "SIGKILL");
    await ready();
  }
  workers.length = 0;
  supervisor.kill("SIGHUP");
  await ready();
  await sent;
  const counts = await Promise.all(users.map((user) => store.get(`${user}:${user}`)));
  assert.deepEqual(counts.map((session) => session?.count), users.map(() => updates), bot.log());
  for (const user of users) await store.delete(`${user}:${user}`);
});

/**
 * A bot that counts, in four processes behind one port. It gets its updates by a webhook and keeps its
 * sessions in PostgreSQL. No update is lost and none counts twice, also when processes are killed.
 *
 * `kill -HUP` replaces the four processes one after another, for example after a new version was copied.
 *
 * On Node.js 24, in a project with `npm i @telegraf/session pg telegraf`:
 * `BOT_TOKEN=… WEBHOOK_URL=https://… node cluster.ts`. A proxy has to pass requests from the URL to the
 * port.
 *
 * @module
 */

import { Postgres } from "@telegraf/session/pg";
import cluster, { type Worker } from "node:cluster";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import process from "node:process";
import { json } from "node:stream/consumers";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number };
}

// Set BOT_API only if you run your own Bot API server: it is the URL of that server.
const { BOT_TOKEN, BOT_API, POSTGRES_URL, WEBHOOK_URL, PORT = "3000" } = process.env;
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });
// Telegram sends it with each update, so that nobody else can send updates.
const secret = createHash("sha256").update(BOT_TOKEN!).digest("hex");

if (cluster.isPrimary) await supervise();
else await work();

/** Starts the workers, and replaces those that end. */
async function supervise() {
  await bot.telegram.setWebhook(WEBHOOK_URL!, { secret_token: secret });
  const leaving = new Set<Worker>();
  const workers = () => Object.values(cluster.workers!).filter((worker) => worker !== undefined);
  const leave = (worker: Worker) => {
    leaving.add(worker);
    worker.process.kill("SIGTERM");
  };
  for (let i = 0; i < 4; i++) cluster.fork();
  cluster.on("exit", (worker) => {
    if (!leaving.delete(worker)) cluster.fork();
  });
  process.on("SIGHUP", async () => {
    for (const worker of workers()) {
      await once(cluster.fork(), "listening");
      leave(worker);
    }
  });
  process.once("SIGTERM", () => {
    process.removeAllListeners("SIGHUP");
    workers().forEach(leave);
  });
}

/** Handles updates. */
async function work() {
  const store = Postgres({ url: POSTGRES_URL ?? "postgres://127.0.0.1:5432/bot" });
  // If a worker is killed, its chats wait for up to 5 s.
  bot.use(store.exclusive({ once: true, lease: 5_000 }));
  bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
  bot.command("count", (ctx) => ctx.reply(`You have counted to ${++ctx.session.count}.`));
  bot.catch((error) => {
    throw error;
  });

  const server = createServer(async (request, response) => {
    if (request.headers["x-telegram-bot-api-secret-token"] !== secret) {
      response.writeHead(403).end();
      return;
    }
    try {
      await bot.handleUpdate(await json(request) as Parameters<typeof bot.handleUpdate>[0]);
      response.end();
    } catch (error) {
      console.error(error);
      response.writeHead(500).end(); // Telegram sends the update again
    }
  });
  process.once("SIGTERM", () => {
    server.close(async () => {
      await store.close();
      process.exit();
    });
  });
  await store.ready();
  server.listen(Number(PORT), () => console.log(`worker ${process.pid} is ready`));
}

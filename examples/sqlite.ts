/**
 * A bot that counts. It keeps its sessions in a SQLite file.
 *
 * On Deno: `BOT_TOKEN=… deno run -A examples/sqlite.ts`. On Node.js 24, in a project with
 * `npm i @telegraf/session better-sqlite3 telegraf`: `BOT_TOKEN=… node sqlite.ts`.
 *
 * @module
 */

import { SQLite } from "@telegraf/session/sqlite";
import process from "node:process";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number };
}

// Set BOT_API only if you run your own Bot API server: it is the URL of that server.
const { BOT_TOKEN, BOT_API, SQLITE_FILE } = process.env;
const store = SQLite({ filename: SQLITE_FILE ?? "./telegraf-sessions.sqlite" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
bot.command("count", (ctx) => ctx.reply(`You have counted to ${++ctx.session.count}.`));
bot.catch((error) => console.error(error)); // without this, the first error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // throws now, not at the first update, if the database is unreachable
await bot.launch(); // resolves when the bot is stopped and all its updates are handled
await store.close();

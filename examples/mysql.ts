/**
 * A bot that counts. It keeps its sessions in MySQL or MariaDB.
 *
 * On Deno: `BOT_TOKEN=… deno run -A examples/mysql.ts`. On Node.js 24, in a project with
 * `npm i @telegraf/session mysql2 telegraf`: `BOT_TOKEN=… node mysql.ts`.
 *
 * @module
 */

import { MySQL } from "@telegraf/session/mysql";
import process from "node:process";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number };
}

// Set BOT_API only if you run your own Bot API server: it is the URL of that server.
const { BOT_TOKEN, BOT_API, MYSQL_URL } = process.env;
const store = MySQL({ url: MYSQL_URL ?? "mysql://127.0.0.1:3306/bot" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
bot.command("count", (ctx) => ctx.reply(`You have counted to ${++ctx.session.count}.`));
bot.catch((error) => console.error(error)); // without this, the first error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // throws now, not at the first update, if the database is unreachable
await bot.launch(); // resolves when the bot is stopped and all its updates are handled
await store.close();

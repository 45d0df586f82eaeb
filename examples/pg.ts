/**
 * A bot that counts, with its sessions in PostgreSQL.
 *
 * On Deno: `BOT_TOKEN=… deno run -A examples/pg.ts`. On Node.js 24, in a project with
 * `npm i @telegraf/session pg telegraf`: `BOT_TOKEN=… node pg.ts`.
 *
 * @module
 */

import { Postgres } from "@telegraf/session/pg";
import process from "node:process";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number };
}

// BOT_API is the URL of a Bot API server of your own, where you have one.
const { BOT_TOKEN, BOT_API, POSTGRES_URL } = process.env;
const store = Postgres({ url: POSTGRES_URL ?? "postgres://127.0.0.1:5432/bot" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
bot.command("count", (ctx) => ctx.reply(`You have counted to ${++ctx.session.count}.`));
bot.catch((error) => console.error(error)); // without it, an error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // fails now if the database cannot be reached, not with the first update
await bot.launch(); // until it is stopped and the updates under way are handled
await store.close();

/**
 * A bot that counts, with its sessions in MongoDB.
 *
 * On Deno: `BOT_TOKEN=… deno run -A examples/mongodb.ts`. On Node.js 24, in a project with
 * `npm i @telegraf/session mongodb telegraf`: `BOT_TOKEN=… node mongodb.ts`.
 *
 * @module
 */

import { Mongo } from "@telegraf/session/mongodb";
import process from "node:process";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number; since: Date };
}

// BOT_API is the URL of a Bot API server of your own, where you have one.
const { BOT_TOKEN, BOT_API, MONGODB_URL } = process.env;
const store = Mongo({ url: MONGODB_URL ?? "mongodb://127.0.0.1:27017/bot" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0, since: new Date() }) }));
bot.command("count", (ctx) => {
  const since = ctx.session.since.toUTCString(); // MongoDB keeps dates as dates
  return ctx.reply(`You have counted to ${++ctx.session.count} since ${since}.`);
});
bot.catch((error) => console.error(error)); // without it, an error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // fails now if the database cannot be reached, not with the first update
await bot.launch(); // until it is stopped and the updates under way are handled
await store.close();

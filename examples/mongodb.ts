/**
 * A bot that counts. It keeps its sessions in MongoDB.
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

// Set BOT_API only if you run your own Bot API server: it is the URL of that server.
const { BOT_TOKEN, BOT_API, MONGODB_URL } = process.env;
const store = Mongo({ url: MONGODB_URL ?? "mongodb://127.0.0.1:27017/bot" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0, since: new Date() }) }));
bot.command("count", (ctx) => {
  const since = ctx.session.since.toUTCString(); // MongoDB stores dates as dates
  return ctx.reply(`You have counted to ${++ctx.session.count} since ${since}.`);
});
bot.catch((error) => console.error(error)); // without this, the first error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // throws now, not at the first update, if the database is unreachable
await bot.launch(); // resolves when the bot is stopped and all its updates are handled
await store.close();

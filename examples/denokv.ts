/**
 * A bot that counts. It keeps its sessions in Deno KV.
 *
 * On Deno: `BOT_TOKEN=… deno run -A --unstable-kv examples/denokv.ts`. On Node.js 24, in a project
 * with `npm i @telegraf/session @deno/kv telegraf`: `BOT_TOKEN=… node denokv.ts`.
 *
 * @module
 */

import { DenoKV } from "@telegraf/session/denokv";
import process from "node:process";
import { type Context, session, Telegraf } from "telegraf";

interface BotContext extends Context {
  session: { count: number };
}

// Set BOT_API only if you run your own Bot API server: it is the URL of that server.
const { BOT_TOKEN, BOT_API, DENOKV_FILE } = process.env;
const store = DenoKV({ path: DENOKV_FILE ?? "./telegraf-sessions.kv" });
const bot = new Telegraf<BotContext>(BOT_TOKEN!, { telegram: { apiRoot: BOT_API } });

bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
bot.command("count", (ctx) => ctx.reply(`You have counted to ${++ctx.session.count}.`));
bot.catch((error) => console.error(error)); // without this, the first error ends the process

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await store.ready(); // throws now, not at the first update, if the database is unreachable
await bot.launch(); // resolves when the bot is stopped and all its updates are handled
await store.close();

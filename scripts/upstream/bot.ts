// A bot that was written for @telegraf/session 2.0.0-beta.7. It counts one update and exits.
import { type Context, session, Telegraf } from "telegraf";
import { makeStore } from "./store.js";

interface Session {
  count: number;
}

interface BotContext extends Context {
  session: Session;
}

const bot = new Telegraf<BotContext>("1:token");
const store = makeStore<Session>();
bot.use(session({ store, defaultSession: () => ({ count: 0 }) }));
bot.on("message", (ctx) => console.log(++ctx.session.count));

bot.botInfo = {
  id: 1,
  is_bot: true,
  first_name: "bot",
  username: "bot",
  can_join_groups: false,
  can_read_all_group_messages: false,
  supports_inline_queries: false,
};
const from = { id: Number(process.env.USER_ID), is_bot: false, first_name: "user" };
const chat = { id: from.id, type: "private" as const, first_name: "user" };
const message = { message_id: 1, date: 1, text: "hi", from, chat };
bot.handleUpdate({ update_id: 1, message }).then(() => process.exit());

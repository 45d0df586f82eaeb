/**
 * A Telegraf bot that remembers its users. Chat with it in the terminal: `deno task demo`.
 *
 * The first half is the bot; copy it if you like. The second half is the terminal. You need no
 * token: the npm package `telegram-test-api` replaces Telegram unless `BOT_TOKEN` is set.
 *
 * @module
 */

import process from "node:process";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { type Context, Scenes, session, Telegraf } from "telegraf";
import { message } from "telegraf/filters";
import type { Store } from "../mod.ts";

/** The session of one user in one chat. The wizard stores its current step here too. */
interface Session extends Scenes.WizardSession {
  count: number;
  profile?: { name: string; age: number };
}

interface BotContext extends Context {
  session: Session;
  scene: Scenes.SceneContextScene<BotContext, Scenes.WizardSessionData>;
  wizard: Scenes.WizardContextWizard<BotContext>;
}

const commands = `/count    adds one and answers with the number
/profile  asks for your name and age
/me       shows what is stored
/forget   deletes it
/help     shows this list`;

/** A scene. Its progress is in the session, so it survives a restart between two questions. */
const askProfile = new Scenes.WizardScene<BotContext>(
  "profile",
  async (ctx) => {
    await ctx.reply("What is your name?");
    return ctx.wizard.next();
  },
  async (ctx) => {
    const name = ctx.text?.trim();
    if (!name || name.startsWith("/")) return ctx.reply("What is your name?");
    Object.assign(ctx.wizard.state, { name });
    await ctx.reply(`How old are you, ${name}?`);
    return ctx.wizard.next();
  },
  async (ctx) => {
    const age = /^\d{1,3}$/.test(ctx.text?.trim() ?? "") ? Number(ctx.text) : 0;
    if (age < 1 || age > 150) return ctx.reply("Please send a whole number from 1 to 150.");
    const { name } = ctx.wizard.state as { name: string };
    ctx.session.profile = { name, age };
    await ctx.reply(`Thank you, ${name}. See /me.`);
    return ctx.scene.leave();
  },
);

/** Creates the bot. Its sessions are in the given store. */
function createBot(token: string, store: Store<Session>, apiRoot?: string): Telegraf<BotContext> {
  const bot = new Telegraf<BotContext>(token, { telegram: { apiRoot } });
  const stage = new Scenes.Stage<BotContext>([askProfile]);

  // The stage has the commands, not the bot, so that they also work in the middle of a scene.
  stage.command(["start", "help"], (ctx) => ctx.reply(commands));
  stage.command("count", (ctx) => ctx.reply(String(++ctx.session.count)));
  stage.command("profile", (ctx) => ctx.scene.enter("profile"));
  stage.command("me", (ctx) => {
    const { count, profile } = ctx.session;
    const who = profile ? `${profile.name}, ${profile.age}` : "no profile";
    return ctx.reply(`${who}, count ${count}`);
  });
  stage.command("forget", (ctx) => {
    // This deletes the session from the store. The next update starts with the default session.
    (ctx as Partial<BotContext>).session = undefined;
    return ctx.reply("Forgotten.");
  });

  bot.use(session({ store, defaultSession: (): Session => ({ count: 0 }) }));
  bot.use(stage.middleware());
  bot.on(message("text"), (ctx) => ctx.reply("I do not know that. /help shows what I know."));

  // Without this, the first error of a handler or of the store would end the bot.
  bot.catch(async (error, ctx) => {
    console.error(`Update ${ctx.update.update_id} failed:`, error);
    await ctx.reply("Something went wrong, please try again.").catch(() => {});
  });
  return bot;
}

/** Connects to Telegram until a signal stops the process. Resolves when all updates are handled. */
async function serve(bot: Telegraf<BotContext>): Promise<void> {
  await bot.launch(() => {
    console.log(`@${bot.botInfo?.username} is up. Ctrl-C stops it.`);
    process.once("SIGINT", () => bot.stop("SIGINT"));
    process.once("SIGTERM", () => bot.stop("SIGTERM"));
  });
}

// The terminal starts here.

// Telegraf's HTTP client loads Node's deprecated punycode module. This hides the warning.
process.noDeprecation = true;

const usage = `Usage: deno task demo [--store <where>]

  --store <where>  redis://…, mongodb://…, postgres://…, mysql://… or a file name for SQLite;
                   default: ./telegraf-sessions.sqlite
  --help           this text

With a bot's token in the environment variable BOT_TOKEN it talks to Telegram.`;

class UsageError extends Error {}

function readArguments(): { store: string; help?: boolean } {
  const store = { type: "string", default: "./telegraf-sessions.sqlite" } as const;
  try {
    return parseArgs({ options: { store, help: { type: "boolean" } } }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Creates the store for a URL or file name. Loads only the driver that the store needs. */
async function makeStore(where: string): Promise<Store<Session>> {
  const timeout = 5_000;
  const there = { url: where, timeout };
  if (/^rediss?:/.test(where)) return (await import("../redis.ts")).Redis<Session>(there);
  if (/^mongodb(\+srv)?:/.test(where)) return (await import("../mongodb.ts")).Mongo<Session>(there);
  if (/^postgres(ql)?:/.test(where)) return (await import("../pg.ts")).Postgres<Session>(there);
  if (/^mysql:/.test(where)) return (await import("../mysql.ts")).MySQL<Session>(there);
  const filename = where.replace(/^sqlite:(\/\/)?/, "");
  const [scheme] = /^[a-z+]{2,}:/.exec(filename) ?? [];
  if (scheme) throw new UsageError(`No store for ${scheme}`);
  return (await import("../sqlite.ts")).SQLite<Session>({ filename, timeout });
}

/** Passes each typed line to the bot and prints the bot's answers. */
async function chat(store: Store<Session>): Promise<void> {
  const { TelegramServer } = await import("telegram-test-api/lib/telegramServer.js");
  const server = new TelegramServer({ host: "127.0.0.1" });
  server.config.port = 0; // any free port
  await server.start();
  const { port } = server["server"].address();
  const token = "1:demo";
  const bot = createBot(token, store, `http://127.0.0.1:${port}`);
  const user = server.getClient(token);
  server.on("AddedBotMessage", () => console.log(server.storage.botMessages.at(-1)?.message.text));
  try {
    for await (const text of lines()) {
      if (text.startsWith("/")) await server.addUserCommand(user.makeCommand(text));
      else if (text) await server.addUserMessage(user.makeMessage(text));
      // `bot.launch()` would poll without a pause, because the test server answers immediately even
      // if there is no update. Besides, `handleUpdate()` resolves when the session is stored.
      for (const update of server.getUpdates(token)) {
        await bot.handleUpdate(update as Parameters<typeof bot.handleUpdate>[0]);
      }
    }
  } finally {
    await server.stop();
  }
}

/** Reads lines from the terminal or a pipe, until the input ends or a signal stops the process. */
async function* lines(): AsyncGenerator<string> {
  const { stdin: input, stdout } = process;
  if (input.isTTY) console.log(`\n${commands}\n\nCtrl-D ends the chat. Start again: it remembers.`);
  const reader = createInterface({ input, output: input.isTTY ? stdout : undefined, prompt: "> " });
  let open = true;
  reader.once("close", () => open = false);
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => reader.close());
  reader.prompt();
  for await (const line of reader) {
    yield line.trim();
    if (open) reader.prompt();
  }
  if (input.isTTY) console.log();
}

async function main(): Promise<void> {
  const { store: where, help } = readArguments();
  if (help) return console.log(usage);
  const store = await makeStore(where);
  try {
    await store.ready();
    console.log(`Sessions are kept in ${where.replace(/(?<=:\/\/).*@|\?.*/g, "")}`);
    const token = process.env.BOT_TOKEN;
    await (token ? serve(createBot(token, store)) : chat(store));
  } finally {
    await store.close(); // waits for the writes in progress
  }
}

try {
  await main();
} catch (error) {
  process.exitCode = error instanceof UsageError ? 2 : 1;
  console.error(error instanceof Error ? error.message : error);
  if (error instanceof UsageError) console.error(`\n${usage}`);
}

/**
 * What `--help` says beside arguments and options.
 *
 * @module
 */

import { formats } from "./formats.ts";

/** How databases are named, and how the program ends. */
export const urls = `
URLs:
  redis://host:6379/0?prefix=my-bot:          also rediss:; prefix is "telegraf:" without it
  mongodb://host/bot?collection=sessions      also mongodb+srv:
  postgres://user@host/bot?table=sessions     and &schema=bot
  mysql://user@host/bot?table=sessions
  sqlite:bot.db?table=sessions                or just a file: ./bot.sqlite
  Table and collection are "telegraf-sessions" without it. Quote URLs with ? and & for the shell.
  Drivers are installed beside this package: redis, mongodb, better-sqlite3, pg, mysql2.

Exit codes:
  0    done
  1    failed, or something is wrong
  2    wrong usage
  130  interrupted by Ctrl-C`;

/** How to go on after an interruption. */
export const resume = `
To go on after an interruption, run the same command again: what TO has by then is skipped.
`;

/** What is imported, and under which keys. */
export const sources = `
Formats and their SOURCE:
${Object.entries(formats).map(([name, { source }]) => `  ${name.padEnd(26)}${source}\n`).join("")}
Keys become those of Telegraf, <user id>:<chat id>, unless --keep-keys is given: telegraf-session-local
has the ids the other way round, and grammY has the id of the chat, which in a private one is the
user's. Keys of another form stay as they are.
`;

/**
 * The texts that `--help` prints after arguments and options.
 *
 * @module
 */

import { defaults } from "../options.ts";
import { formats } from "./formats.ts";
import { variable } from "./keys.ts";

/** The forms of URLs, and the exit codes. */
export const urls = `
URLs:
  redis://host:6379/0?prefix=my-bot:          or rediss:; the default prefix is "${defaults.prefix}"
  mongodb://host/bot?collection=sessions      or mongodb+srv:
  postgres://user@host/bot?table=sessions     optionally &schema=bot
  mysql://user@host/bot?table=sessions
  sqlite:bot.db?table=sessions                or only the file name: ./bot.sqlite
  denokv:bot.kv?prefix=my-bot                 or denokv:https://…; Deno needs --unstable-kv
  The default table, collection or prefix is "${defaults.table}". Put URLs that contain ? or & in
  quotes. Install the driver of each database: redis, mongodb, better-sqlite3, pg, mysql2, @deno/kv.

Exit codes:
  0    done
  1    failed, or a session was left out, or doctor found a problem
  2    wrong usage
  130  interrupted by Ctrl-C`;

/** Where keys come from. */
export const keys = `
Keys of encrypted sessions:
  Put them into the environment variable ${variable} or into the file of --keys, the
  newest first, separated by white space or commas. Each is base64 of 32 random bytes. With --keys
  the variable is not used.
`;

/** How to continue after an interruption. */
export const resume = `
To continue after an interruption, run the same command again. It skips sessions that TO has.
`;

/** The formats of `import`, and how it converts keys. */
export const sources = `
Formats and their SOURCE:
${Object.entries(formats).map(([name, { source }]) => `  ${name.padEnd(26)}${source}\n`).join("")}
Keys are converted to the form that Telegraf uses, <user id>:<chat id>, unless --keep-keys is given.
telegraf-session-local uses <chat id>:<user id>. grammY uses only <chat id>, which in a private chat
is also the user id. Keys that cannot be converted are kept unchanged.
`;

/**
 * The command line: copies, exports, imports and looks after stored sessions.
 *
 * ```shell
 * npx @telegraf/session copy ./sessions.sqlite postgres://localhost/bot
 * deno run -A jsr:@telegraf/session/cli --help
 * ```
 *
 * To import this module is to run it.
 *
 * @module
 */

import { Argument, Command, CommanderError, Option } from "commander";
import process from "node:process";
import { type Context, exit, Failure, seconds, sentence } from "./src/cli/context.ts";
import { copy } from "./src/cli/copy.ts";
import { doctor } from "./src/cli/doctor.ts";
import { exportLines } from "./src/cli/export.ts";
import { formats } from "./src/cli/formats.ts";
import { resume, sources, urls } from "./src/cli/help.ts";
import { importSessions } from "./src/cli/import.ts";
import { prune } from "./src/cli/prune.ts";
import { get, remove } from "./src/cli/session.ts";
import { stats } from "./src/cli/stats.ts";
import { version } from "./src/cli/version.ts";

const aborter = new AbortController();
const base: Omit<Context, "timeout"> = {
  factories: {
    redis: async () => (await import("./redis.ts")).Redis,
    mongodb: async () => (await import("./mongodb.ts")).Mongo,
    sqlite: async () => (await import("./sqlite.ts")).SQLite,
    pg: async () => (await import("./pg.ts")).Postgres,
    mysql: async () => (await import("./mysql.ts")).MySQL,
  },
  drivers: {
    mongodb: () => import("mongodb"),
    pg: () => import("pg"),
    mysql: () => import("mysql2"),
  },
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  signal: aborter.signal,
  npx: /[\\/]_npx[\\/]/.test(process.argv[1] ?? "") ? process.argv.slice(2) : undefined,
};

const program = new Command("telegraf-session")
  .description("Copies, exports, imports and looks after sessions of Telegraf bots.")
  .addHelpText("after", urls)
  .version(version)
  .helpCommand(false)
  .showHelpAfterError("(--help tells how)")
  .exitOverride();

type Options = Record<string, unknown>;
type Run = (args: string[], context: Context, options: Options) => Promise<number>;

/** Adds a command with these arguments; what it returns is the exit code. */
function command(usage: string, summary: string, run: Run, notes = ""): Command {
  const [name, ...args] = usage.split(" ");
  const command = program.command(name!).description(summary).addHelpText("after", notes + urls)
    .addOption(
      new Option("--timeout <seconds>", "how long opening a database may take")
        .argParser(seconds).default(10_000, "10"),
    );
  for (const arg of args) command.addArgument(new Argument(`<${arg}>`));
  return command.copyInheritedSettings(program).action(async (...given: unknown[]) => {
    const options = given[args.length] as Options;
    const context = { ...base, timeout: Number(options.timeout) };
    process.exitCode = await run(given.slice(0, args.length) as string[], context, options);
  });
}

const mode = ({ overwrite, dryRun, format, keepKeys, allKeys }: Options) => ({
  overwrite: overwrite === true,
  dryRun: dryRun === true,
  format: String(format),
  keepKeys: keepKeys === true,
  allKeys: allKeys === true,
});

/** Options of what writes sessions. */
function writing(command: Command): Command {
  return command
    .option("--dry-run", "only say what would be done; change nothing")
    .addOption(new Option("--skip", "keep sessions that TO already has (default)"))
    .addOption(new Option("--overwrite", "replace sessions that TO already has").conflicts("skip"));
}

writing(command(
  "copy FROM TO",
  "Copy all sessions of one database to another, with the time when they expire. FROM stays as it is.",
  ([from, to], context, options) => copy(from!, to!, mode(options), context),
  resume,
));
command(
  "stats URL",
  "How many sessions, how large, and when they expire.",
  ([url], context) => stats(url!, context),
);
command(
  "get URL KEY",
  "Print a session as JSON.",
  ([url, key], context) => get(url!, key!, context),
);
command(
  "delete URL KEY",
  "Delete a session.",
  ([url, key], context) => remove(url!, key!, context),
);
command(
  "export URL",
  'Print all sessions as lines of JSON: {"key": …, "session": …, "expires": ms since 1970 or absent}.',
  ([url], context) => exportLines(url!, context),
);
writing(command(
  "import SOURCE TO",
  "Import what export printed, or what another package wrote.",
  ([from, to], context, options) => importSessions(from!, to!, mode(options), context),
  resume + sources,
))
  .addOption(
    new Option("--format <name>", "what wrote SOURCE").choices(Object.keys(formats))
      .default("jsonl"),
  )
  .option("--keep-keys", "keep keys as they are")
  .option("--all-keys", "take all JSON objects of a Redis, not only keys of that package's form");
command("prune URL", "Delete expired sessions.", ([url], context) => prune(url!, context));
command(
  "doctor URL",
  "Check connection, rights, schema and sessions, and say what an upgrade would do. A session is written, read and deleted; nothing else changes.",
  ([url], context) => doctor(url!, context),
);

// The second Ctrl-C ends it immediately.
process.once("SIGINT", () => aborter.abort());
program.parseAsync().catch((error) => {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exit.usage;
  else {
    process.exitCode = error instanceof Failure ? error.code : exit.failed;
    process.stderr.write(`${sentence(error)}\n`, () => {
      // A connection or standard input that it no longer waits for would keep it from ending.
      if (process.exitCode === exit.interrupted) process.exit();
    });
  }
});

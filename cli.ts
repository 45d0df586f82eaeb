/**
 * The command line: copies, exports, imports, checks and deletes stored sessions.
 *
 * ```shell
 * npx @telegraf/session copy ./sessions.sqlite postgres://localhost/bot
 * deno run -A jsr:@telegraf/session/cli --help
 * ```
 *
 * Importing this module runs the command line.
 *
 * @module
 */

import { Argument, Command, CommanderError, Option } from "commander";
import process from "node:process";
import { type Context, defaultTimeout, seconds } from "./src/cli/context.ts";
import { copy } from "./src/cli/copy.ts";
import { doctor } from "./src/cli/doctor.ts";
import { exportLines } from "./src/cli/export.ts";
import { exit, Failure, sentence } from "./src/cli/failure.ts";
import { formats } from "./src/cli/formats.ts";
import { resume, sources, urls } from "./src/cli/help.ts";
import { importSessions } from "./src/cli/import.ts";
import { leases } from "./src/cli/leases.ts";
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
  .description("Copies, exports, imports, checks and deletes sessions of Telegraf bots.")
  .addHelpText("after", urls)
  .version(version)
  .helpCommand(false)
  .showHelpAfterError("(add --help for usage)")
  .exitOverride();

type Options = Record<string, unknown>;
type Run = (args: string[], context: Context, options: Options) => Promise<number>;

/** Adds a command. `usage` is its name and its arguments; `run` returns the exit code. */
function command(usage: string, summary: string, run: Run, notes = ""): Command {
  const [name, ...args] = usage.split(" ");
  const command = program.command(name!).description(summary).addHelpText("after", notes + urls)
    .addOption(
      new Option("--timeout <seconds>", "time limit for opening a database")
        .argParser(seconds).default(defaultTimeout, String(defaultTimeout / 1000)),
    );
  for (const arg of args) command.addArgument(new Argument(`<${arg}>`));
  return command.copyInheritedSettings(program).action(async (...values: unknown[]) => {
    const options = values[args.length] as Options;
    const context = { ...base, timeout: Number(options.timeout) };
    process.exitCode = await run(values.slice(0, args.length) as string[], context, options);
  });
}

const modeOf = ({ overwrite, dryRun, format, keepKeys, allKeys }: Options) => ({
  overwrite: overwrite === true,
  dryRun: dryRun === true,
  format: String(format),
  keepKeys: keepKeys === true,
  allKeys: allKeys === true,
});

/** Adds the options of commands that write sessions. */
function addWriteOptions(command: Command): Command {
  return command
    .option("--dry-run", "print what would be done, and change nothing")
    .addOption(new Option("--skip", "keep sessions that TO already has (default)"))
    .addOption(new Option("--overwrite", "replace sessions that TO already has").conflicts("skip"));
}

addWriteOptions(command(
  "copy FROM TO",
  "Copy all sessions from one database to another, with their expiry times. FROM is not changed.",
  ([from, to], context, options) => copy(from!, to!, modeOf(options), context),
  resume,
));
command(
  "stats URL",
  "Print the number of sessions, their sizes, and when they expire.",
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
  'Print each session as one line of JSON: {"key": …, "session": …, "expires": …}. "expires" is in ms since 1970, and absent if the session never expires.',
  ([url], context) => exportLines(url!, context),
);
addWriteOptions(command(
  "import SOURCE TO",
  "Import sessions that export printed or that another package stored.",
  ([from, to], context, options) => importSessions(from!, to!, modeOf(options), context),
  resume + sources,
))
  .addOption(
    new Option("--format <name>", "the format of SOURCE").choices(Object.keys(formats))
      .default("jsonl"),
  )
  .option("--keep-keys", "do not convert keys")
  .option(
    "--all-keys",
    "import JSON objects under any key of a Redis database, not only under keys that the package uses",
  );
command(
  "leases URL",
  "Print which updates hold the lease of a session: its key, the process, and for how long.",
  ([url], context) => leases(url!, context),
);
command("prune URL", "Delete expired sessions.", ([url], context) => prune(url!, context));
command(
  "doctor URL",
  "Check the connection, permissions, schema and sessions, and print what an upgrade would change. Doctor writes, reads and deletes one test session, and changes nothing else.",
  ([url], context) => doctor(url!, context),
);

// Only the first Ctrl-C is handled, so a second one ends the process immediately.
process.once("SIGINT", () => aborter.abort());
program.parseAsync().catch((error) => {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exit.usage;
  else {
    process.exitCode = error instanceof Failure ? error.code : exit.failed;
    process.stderr.write(`${sentence(error)}\n`, () => {
      // Standard input or an abandoned connection would keep the process alive.
      if (process.exitCode === exit.interrupted) process.exit();
    });
  }
});

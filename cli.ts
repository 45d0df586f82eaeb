/**
 * The command line: copies, exports, imports, checks, encrypts, migrates and deletes stored sessions.
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
import { keys, resume, sources, urls } from "./src/cli/help.ts";
import { importSessions } from "./src/cli/import.ts";
import { readKeys } from "./src/cli/keys.ts";
import { leases } from "./src/cli/leases.ts";
import { migrate } from "./src/cli/migrate.ts";
import { prune } from "./src/cli/prune.ts";
import { rotate } from "./src/cli/rotate.ts";
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
    denokv: async () => (await import("./denokv.ts")).DenoKV,
  },
  drivers: {
    mongodb: () => import("mongodb"),
    pg: () => import("pg"),
    mysql: () => import("mysql2"),
  },
  load: (url) => import(url),
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  signal: aborter.signal,
  npx: /[\\/]_npx[\\/]/.test(process.argv[1] ?? "") ? process.argv.slice(2) : undefined,
};

const program = new Command("telegraf-session")
  .description(
    "Copies, exports, imports, checks, encrypts, migrates and deletes sessions of Telegraf bots.",
  )
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

/** Adds a command that reads or writes sessions, which may be encrypted. */
function sessionCommand(usage: string, summary: string, run: Run, notes = ""): Command {
  const withKeys: Run = async (args, context, options) => {
    const file = options.keys as string | undefined;
    return await run(args, { ...context, keys: await readKeys(file) }, options);
  };
  return command(usage, summary, withKeys, notes + keys)
    .option("--keys <file>", "a file with the keys of encrypted sessions");
}

const dryRun = ["--dry-run", "print what would be done, and change nothing"] as const;

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
    .option(...dryRun)
    .addOption(new Option("--skip", "keep sessions that TO already has (default)"))
    .addOption(new Option("--overwrite", "replace sessions that TO already has").conflicts("skip"));
}

addWriteOptions(sessionCommand(
  "copy FROM TO",
  "Copy all sessions from one database to another, with their expiry times. FROM is not changed.",
  ([from, to], context, options) => copy(from!, to!, modeOf(options), context),
  resume,
));
sessionCommand(
  "stats URL",
  "Print the number of sessions, their sizes, when they expire, and how they are stored.",
  ([url], context) => stats(url!, context),
);
sessionCommand(
  "get URL KEY",
  "Print a session as JSON.",
  ([url, key], context) => get(url!, key!, context),
);
command(
  "delete URL KEY",
  "Delete a session.",
  ([url, key], context) => remove(url!, key!, context),
);
sessionCommand(
  "export URL",
  'Print each session as one line of JSON: {"key": …, "session": …, "expires": …, "version": …}. "expires" is in ms since 1970, and absent if the session never expires. "version" is absent if the session has none.',
  ([url], context) => exportLines(url!, context),
);
addWriteOptions(sessionCommand(
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
  "Print which updates hold the lease of a session: its key, the process, and for how long. Also the process that has all sessions in memory, by the option cache.",
  ([url], context) => leases(url!, context),
);
command("prune URL", "Delete expired sessions.", ([url], context) => prune(url!, context));
sessionCommand(
  "rotate URL",
  "Encrypt all sessions with the newest key that another key encrypted, or none. Bots may go on: none of their changes is overwritten. All of them must know the newest key first.",
  ([url], context, { dryRun }) => rotate(url!, { dryRun: dryRun === true }, context),
).option(...dryRun);
sessionCommand(
  "migrate URL",
  "Bring all sessions of older versions to the version of a module. Bots of the new release may go on: none of their changes is overwritten. If keys are given, migrated sessions are encrypted with the newest one.",
  ([url], context, { dryRun, module }) =>
    migrate(url!, { dryRun: dryRun === true, module: String(module) }, context),
)
  .requiredOption(
    "--module <file>",
    "a module that exports version and migrate, and codec if the bot has one",
  )
  .option(...dryRun);
sessionCommand(
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

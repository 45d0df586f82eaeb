/**
 * `migrate URL --module FILE`.
 *
 * @module
 */

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type Rules, storeRules } from "../options.ts";
import { checkOptions, checkTransforms } from "../validation.ts";
import type { Context } from "./context.ts";
import { Database, type Transforms } from "./database.ts";
import { exit, Failure, sentence } from "./failure.ts";
import { checkReadable } from "./readable.ts";
import { type Change, rewriteAll } from "./rewriting.ts";
import { count } from "./text.ts";
import { locate } from "./url.ts";

/** The parts of the options that a module exports. */
const { version, migrate: steps, codec } = storeRules;
const rules: Rules<Transforms> = { version, migrate: steps, codec };

/** How to migrate. */
export interface Migrate {
  /** The file whose exports are options of the bot's store. */
  readonly module: string;
  /** Whether to write nothing. */
  readonly dryRun: boolean;
}

/** Brings all sessions of older versions to the version of a module. */
export async function migrate(
  url: string,
  { module, dryRun }: Migrate,
  context: Context,
): Promise<number> {
  const location = locate(url);
  const transforms = await load(module, context);
  await using database = await Database.open(location, context, { transforms });
  return await rewriteAll(database, migration(database, transforms, dryRun), dryRun, context);
}

function migration(
  { codec, title }: Database,
  transforms: Transforms,
  dryRun: boolean,
): Change {
  const newest = transforms.version!;
  /** The versions of the batch, before their migration. */
  const versions = new Map<string, number>();
  /** The numbers of sessions, by the version that they had. */
  const counts = new Map<number, number>();
  let total = 0;
  let newer = 0;
  return {
    done: "migrated",
    renew(plain, key) {
      if (plain.version > newest) newer++;
      if (plain.version >= newest) return undefined;
      if (plain.problem !== undefined || transforms.codec === undefined) checkReadable(plain);
      versions.set(key, plain.version);
      const session = codec.decode(plain, key);
      return session === undefined ? undefined : codec.encode(session);
    },
    add(keys) {
      for (const key of keys) {
        const version = versions.get(key)!;
        counts.set(version, (counts.get(version) ?? 0) + 1);
      }
      total += keys.size;
      versions.clear();
    },
    summary() {
      const done = dryRun ? "Would migrate" : "Migrated";
      const lines = [...counts].sort(([a], [b]) => a - b).map(([version, number]) =>
        `  ${count(number, "session")} from version ${version} to ${newest}`
      );
      if (newer > 0) lines.push(`Left ${count(newer, "session")} of newer versions unchanged.`);
      return [`${done} ${count(total, "session")} of ${title}.`, ...lines];
    },
  };
}

/** @throws {Failure} if the module cannot be loaded, or if its exports cannot work. */
async function load(file: string, context: Context): Promise<Transforms> {
  let exported: Transforms & { default?: Transforms };
  try {
    exported = await context.load(pathToFileURL(resolve(file)).href) as typeof exported;
  } catch (error) {
    const { code } = Object(error);
    const hint = code === "ERR_UNKNOWN_FILE_EXTENSION"
      ? "; Node.js loads .ts from version 22.18 on: use that, or a .js or .mjs file"
      : "";
    throw new Failure(`Cannot load ${file}: ${sentence(error)}${hint}`, exit.usage);
  }
  const { version, migrate, codec } = { ...exported.default, ...exported };
  if (version === undefined && migrate === undefined) {
    throw new Failure(`${file} must export version and migrate`, exit.usage);
  }
  const options: Transforms = { version, migrate, codec };
  try {
    checkOptions(file, options, rules);
    checkTransforms(file, options);
  } catch (error) {
    throw new Failure(sentence(error), exit.usage);
  }
  return options;
}

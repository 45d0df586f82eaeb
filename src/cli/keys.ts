/**
 * Keys for encrypted sessions. They come from the environment or from a file, never from arguments, which
 * other users of the machine and the history of the shell can show.
 *
 * @module
 */

import { readFile } from "node:fs/promises";
import process from "node:process";
import { checkTransforms } from "../validation.ts";
import { exit, Failure, sentence } from "./failure.ts";

/** The environment variable with the keys. */
export const variable = "TELEGRAF_SESSION_KEYS";

/** Where keys are given, for messages. */
export const places = `${variable} or into the file of --keys`;

/**
 * The keys, the newest first; `undefined` if there are none.
 *
 * @param file the value of `--keys`, which comes before the environment.
 * @throws {Failure} if the file or a key is invalid.
 */
export async function readKeys(file: string | undefined): Promise<string[] | undefined> {
  const text = file === undefined ? process.env[variable] ?? "" : await read(file);
  const keys = text.split(/[\s,]+/).filter((key) => key !== "");
  if (keys.length === 0) {
    if (file === undefined) return undefined;
    throw new Failure("The file of --keys has no key", exit.usage);
  }
  try {
    checkTransforms(file === undefined ? variable : "The file of --keys", { encrypt: { keys } });
  } catch (error) {
    // A factory would name its option, which may also be a `KeyObject`.
    const message = sentence(error).replace(': option "encrypt.keys"', "");
    throw new Failure(message.replace(" or KeyObject", ""), exit.usage);
  }
  return keys;
}

async function read(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (file.split(/[\s,]+/).some((part) => /^([\w+/-]{43}=?|[\da-f]{64})$/i.test(part))) {
      // It may be a key, so it is not shown.
      const why = "--keys needs the name of a file that has the keys, and there is no such file";
      throw new Failure(`${why}. A key itself must not be an argument`, exit.usage);
    }
    throw new Failure(`Cannot read the file of --keys: ${sentence(error)}`, exit.usage);
  }
}

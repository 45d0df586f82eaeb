/**
 * Sessions that the command line may be unable to read.
 *
 * @module
 */

import type { Codec } from "../backend.ts";
import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";
import { Failure } from "./failure.ts";
import { places } from "./keys.ts";

/** How a session is stored that needs more to be read, and what helps; `undefined` for all others. */
export function obstacle({ problem, keyId, form }: Plain<unknown>): string | undefined {
  if (problem instanceof StoreError) {
    return keyId === undefined
      ? "stored by a newer version of this package; update the package"
      : `encrypted with key ${keyId}; put this key into ${places}`;
  }
  if (problem !== undefined || form === undefined) return undefined;
  return 'stored with the option "codec"; read it in a program with this codec';
}

/** @throws {Error} if there is no session in the format of the database. */
export function checkReadable(plain: Plain<unknown>): void {
  const how = obstacle(plain);
  if (how !== undefined) throw new Failure(`it is ${how}`);
  if (plain.problem !== undefined) throw plain.problem;
}

/** Whether the value is a stored `undefined`. */
export function isAbsent({ content, form, problem }: Plain<unknown>): boolean {
  return content === "" && form === undefined && problem === undefined;
}

/** Whether no option could make the session readable. */
export function isBroken(
  codec: Codec<Plain<unknown>>,
  plain: Plain<unknown>,
  key: string,
): boolean {
  try {
    codec.decode(plain, key);
    return false;
  } catch (error) {
    return !(error instanceof StoreError);
  }
}

/**
 * Rewrites stored sessions in another form, without overwriting what others write at the same time.
 *
 * @module
 */

import type { Entry, MaybePromise, Replacement } from "../backend.ts";
import type { Plain } from "../codec/header.ts";
import { StoreError } from "../errors.ts";

/** The part of a database that rewriting needs. */
export interface Rewritable {
  read(keys: string[]): MaybePromise<Entry<unknown>[]>;
  replace(replacements: Replacement<unknown>[]): MaybePromise<void>;
}

/** The new form of a session; `undefined` if it has it already. Throws if it cannot be read. */
export type Renew = (plain: Plain<unknown>, key: string) => Plain<unknown> | undefined;

/**
 * The new form of a session that the newest key has not encrypted.
 *
 * @throws {Error} if it cannot be decrypted.
 */
export const rotated: Renew = (plain) => {
  if (plain.problem !== undefined) throw plain.problem;
  return plain.hasNewestKey ? undefined : plain;
};

/** How often a session is tried again that others keep writing in its old form. */
const mostAttempts = 20;

/**
 * Rewrites the sessions of some keys.
 *
 * @param refuse gets each session that cannot be rewritten.
 * @returns the keys of those that it has rewritten.
 */
export async function rewrite(
  database: Rewritable,
  keys: string[],
  renew: Renew,
  refuse: (key: string, error: unknown) => void,
): Promise<ReadonlySet<string>> {
  const rewritten = new Set<string>();
  for (let left = keys, attempt = 0; left.length > 0; attempt++) {
    const replacements = (await database.read(left)).flatMap(({ key, value: before }) => {
      try {
        const after = renew(before as Plain<unknown>, key);
        return after === undefined ? [] : { key, before, after };
      } catch (error) {
        refuse(key, error);
        return [];
      }
    });
    // Someone has written them in the old form again.
    for (const { key } of replacements) rewritten.delete(key);
    if (attempt === mostAttempts) break;
    left = await replaceAll(database, replacements, refuse);
    for (const key of left) rewritten.add(key);
  }
  return rewritten;
}

/** Replaces values. Returns the keys of those that may have been replaced. */
async function replaceAll(
  database: Rewritable,
  replacements: Replacement<unknown>[],
  refuse: (key: string, error: unknown) => void,
): Promise<string[]> {
  try {
    if (replacements.length > 0) await database.replace(replacements);
    return replacements.map(({ key }) => key);
  } catch (error) {
    // Without a key it is not about one of them: the server does not answer, for example.
    if (!(error instanceof StoreError) || error.key === undefined) throw error;
    if (replacements.length > 1) {
      // One of them may be too large in its new form.
      const alone = replacements.map((one) => replaceAll(database, [one], refuse));
      return (await Promise.all(alone)).flat();
    }
    refuse(replacements[0]!.key, error);
    return [];
  }
}

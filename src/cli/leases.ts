/**
 * `leases URL`.
 *
 * @module
 */

import type { Held } from "../backend.ts";
import { leaseDefaults } from "../lease/options.ts";
import { describeProcess, holderOf } from "../lease/token.ts";
import { ownersKey } from "../store/entry.ts";
import type { Context } from "./context.ts";
import { Database } from "./database.ts";
import { exit } from "./failure.ts";
import { count } from "./text.ts";
import { locate } from "./url.ts";

/** Prints the leases that are held now. */
export async function leases(url: string, context: Context): Promise<number> {
  await using database = await Database.open(locate(url), context);
  const held = await database.leases();
  context.stdout.write(`${database.title}: ${count(held.length, "lease is", "leases are")} held\n`);
  for (const lease of held) context.stdout.write(`  ${describeLease(lease)}\n`);
  return exit.ok;
}

/** Leases that are older than an update may hold one by default. */
export function overdueLeases(held: Held[]): Held[] {
  return held.filter(({ token }) => (ageOf(token) ?? 0) > leaseDefaults.most);
}

/** A lease in one line. */
export function describeLease({ key, token, left }: Held): string {
  const holder = holderOf(token);
  const who = holder === undefined
    ? "by an unknown holder"
    : `by ${describeProcess(holder)} for ${time(ageOf(token)!)}`;
  const what = key === ownersKey ? 'all sessions (option "cache")' : JSON.stringify(key);
  return `${what}  ${who}, ends in ${time(left)} unless it is renewed`;
}

/** How long ago the holder asked for the lease, in ms. */
function ageOf(token: string): number | undefined {
  const holder = holderOf(token);
  return holder && Math.max(0, Date.now() - holder.since.getTime());
}

function time(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/**
 * The updates that a session has seen, as the text that its settlements note: for each update its ID and
 * the minute when it was handled, in base 36.
 *
 * @module
 */

/** How many updates are noted. */
const most = 64;

/** How long they are noted, in minutes: a day, because Telegram keeps updates no longer. */
const life = 24 * 60;

/** Whether the note has the update. */
export function hasSeen(note: string, update: number): boolean {
  return ` ${note}`.includes(` ${update.toString(36)}.`);
}

/** The note with one more update. */
export function addSeen(note: string, update: number, date: number): string {
  const now = Math.floor(date / 60_000);
  const isFresh = (seen: string) => now - parseInt(seen.slice(seen.indexOf(".") + 1), 36) < life;
  const kept = note.split(" ").filter(isFresh).slice(1 - most);
  return [...kept, `${update.toString(36)}.${now.toString(36)}`].join(" ");
}

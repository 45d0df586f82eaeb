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
export function hasSeen(note: string, update: number, date: number): boolean {
  const start = `${update.toString(36)}.`;
  return recent(note, date).some((seen) => seen.startsWith(start));
}

/** The note with one more update. */
export function addSeen(note: string, update: number, date: number): string {
  const kept = recent(note, date).slice(1 - most);
  return [...kept, `${update.toString(36)}.${minute(date).toString(36)}`].join(" ");
}

function recent(note: string, date: number): string[] {
  const begin = minute(date) - life;
  return note.split(" ").filter((seen) => parseInt(seen.split(".")[1] ?? "", 36) > begin);
}

function minute(date: number): number {
  return Math.floor(date / 60_000);
}

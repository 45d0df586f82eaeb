/**
 * Formats numbers, times and keys for messages.
 *
 * @module
 */

/** Formats a number of things, as `1 session` or `2,000 sessions`. */
export function count(number: number, thing: string, things = `${thing}s`): string {
  return `${number.toLocaleString("en")} ${number === 1 ? thing : things}`;
}

/** Formats a number of bytes, as `2.5 MB`. */
export function bytes(number: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit++;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

/** Formats seconds, as `45s`, `1m05s` or `2h03m`. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  const two = (number: number) => String(Math.floor(number)).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${two(whole % 3600 / 60)}m`;
}

/** Formats keys for a message: quotes the first five, and counts the others. */
export function quoted(keys: readonly string[]): string {
  const shown = keys.slice(0, 5).map((key) => JSON.stringify(key)).join(", ");
  return keys.length > 5 ? `${shown} and ${count(keys.length - 5, "other")}` : shown;
}

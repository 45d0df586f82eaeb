/**
 * What to do when a signal aborts, for signals that serve many calls one after the other.
 *
 * @module
 */

const reactions = new WeakMap<AbortSignal, { now: (() => void) | undefined }>();

/**
 * Sets what happens when the signal aborts, in place of what was set before. A batch does this on
 * its way out and back: to add and remove a listener each time costs more than all else.
 */
export function onAbort(signal: AbortSignal, reaction: (() => void) | undefined): void {
  const known = reactions.get(signal);
  if (known !== undefined) {
    known.now = reaction;
    return;
  }
  const added = { now: reaction };
  reactions.set(signal, added);
  signal.addEventListener("abort", () => added.now?.());
}

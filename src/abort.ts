/**
 * Abort handlers for signals that serve many calls, one after the other.
 *
 * @module
 */

const slots = new WeakMap<AbortSignal, { handler: (() => void) | undefined }>();

/**
 * Replaces the handler that runs when the signal aborts. Each batch sets and clears it. Adding and
 * removing an event listener per batch would be the largest cost of a batch.
 */
export function setAbortHandler(signal: AbortSignal, handler: () => void): void {
  const slot = slots.get(signal);
  if (slot !== undefined) {
    slot.handler = handler;
    return;
  }
  const added: { handler: (() => void) | undefined } = { handler };
  slots.set(signal, added);
  signal.addEventListener("abort", () => added.handler?.());
}

/** Removes the handler. */
export function clearAbortHandler(signal: AbortSignal): void {
  const slot = slots.get(signal);
  if (slot !== undefined) slot.handler = undefined;
}

/**
 * Exit codes, and the errors that end a command.
 *
 * @module
 */

import type { MaybePromise } from "../backend.ts";
import { reason } from "../errors.ts";

/** The exit codes. */
export const exit = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** An error whose message is printed as it is, without a stack. */
export class Failure extends Error {
  readonly code: number;

  constructor(message: string, code: number = exit.failed) {
    super(message);
    this.code = code;
  }
}

/** The failure that ends a command after Ctrl-C. */
export function interruption(): Failure {
  return new Failure("Interrupted", exit.interrupted);
}

/**
 * Runs work that changes nothing. After Ctrl-C, stops waiting for its result.
 *
 * @throws {Failure} after Ctrl-C.
 */
export async function unlessInterrupted<T>(
  signal: AbortSignal,
  work: () => MaybePromise<T>,
): Promise<T> {
  let stop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(interruption());
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  stopped.catch(() => {}); // a rejection after the race is not an error
  try {
    return await (signal.aborted ? stopped : Promise.race([work(), stopped]));
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** The reason why a session was refused, without its key, which the message already has. */
export function refusal(error: unknown): string {
  return sentence(error).replace(/^Cannot (?:read|write) session ".*": (?=\S)/s, "");
}

/** The message of an error, in one sentence without credentials. */
export function sentence(error: unknown): string {
  return error instanceof Failure ? error.message : reason(error);
}

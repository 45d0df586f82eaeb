/** Records what stores publish on their tracing channels. */

import { tracingChannel } from "node:diagnostics_channel";
import * as util from "node:util";
import type { BatchTrace, OperationTrace } from "../../mod.ts";

export const events = ["start", "end", "asyncStart", "asyncEnd", "error"] as const;

export const operationChannel = tracingChannel<OperationTrace, OperationTrace>(
  "telegraf-session:operation",
);
export const batchChannel = tracingChannel<BatchTrace, BatchTrace>("telegraf-session:batch");

/** Subscribes to both channels. */
export class Recorder {
  /** The messages of operations and batches, in the order in which they began. */
  readonly operations: OperationTrace[] = [];
  readonly batches: BatchTrace[] = [];
  /** The events of each message. */
  readonly events = new Map<object, string[]>();
  /** All texts that a subscriber could read in a message, at each event. */
  readonly texts: string[] = [];
  readonly #unsubscribe: (() => void)[] = [];

  constructor() {
    this.#subscribe(operationChannel, this.operations);
    this.#subscribe(batchChannel, this.batches);
  }

  #subscribe<Message extends object>(
    channel: ReturnType<typeof tracingChannel<Message, Message>>,
    messages: Message[],
  ): void {
    const handlers = Object.fromEntries(events.map((event) => [event, (message: Message) => {
      if (event === "start") messages.push(message);
      this.events.set(message, [...this.events.get(message) ?? [], event]);
      this.texts.push(util.inspect(message, { depth: 9, showHidden: true, getters: true }));
    }])) as Record<typeof events[number], (message: unknown) => void>;
    channel.subscribe(handlers);
    this.#unsubscribe.push(() => channel.unsubscribe(handlers));
  }

  /** What each operation did, and its error. */
  get calls(): string[] {
    return this.operations.map(({ operation, error }) => [operation, error ?? []].flat().join(" "));
  }

  /** What each batch did, with its number of keys, and its error. */
  get work(): string[] {
    return this.batches.map(({ operation, keys, error }) =>
      [operation, keys, error ?? []].flat().join(" ")
    );
  }

  [Symbol.dispose](): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }
}

/**
 * Lua scripts, the same for all kinds of clients.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { isError } from "../errors.ts";
import type { Client } from "./client.ts";
import { keyPrefixOf } from "./primary.ts";

/** `sendCommand` of a cluster of node-redis. */
type SendCommand = (key: string, isReadonly: boolean, command: string[]) => Promise<unknown>;

/** A Lua script. It is sent as its hash if the server knows it. */
export class Script {
  readonly #text: string;
  #hash: string | undefined;

  constructor(text: string) {
    this.#text = text;
  }

  async run(client: Client, keys: string[], args: string[] = []): Promise<unknown[]> {
    this.#hash ??= createHash("sha1").update(this.#text).digest("hex");
    const send = (command: "EVALSHA" | "EVAL", script: string) => {
      const options = { keys, arguments: args };
      // The masters of ioredis are searched for each time, and it has no `sendCommand` here.
      if (client.sendCommand && client.masters !== undefined) {
        // The cluster client of node-redis 4 sends scripts to a random node.
        const names = keys.map((key) => keyPrefixOf(client) + key);
        const words = [command, script, `${keys.length}`, ...names, ...args];
        const sendCommand = client.sendCommand as SendCommand;
        return sendCommand.call(client, names[0]!, false, words);
      }
      return command === "EVALSHA"
        ? client.evalSha!(script, options)
        : client.eval!(script, options);
    };
    try {
      return await send("EVALSHA", this.#hash) as unknown[];
    } catch (error) {
      if (!isError(error) || !error.message.startsWith("NOSCRIPT")) throw error;
      return await send("EVAL", this.#text) as unknown[];
    }
  }
}

/**
 * Gives clients of `@upstash/redis`, which send commands over HTTP, the interface of node-redis.
 *
 * @module
 */

import { setAbortHandler } from "../abort.ts";
import { isError } from "../errors.ts";
import type { Client } from "./client.ts";
import { sequence } from "./ioredis.ts";

/** The properties by which a client of `@upstash/redis` is recognized. */
export interface Upstash {
  pipeline: (...args: never[]) => unknown;
  createScript: (...args: never[]) => unknown;
  get: (...args: never[]) => unknown;
  mget: (...args: never[]) => unknown;
  evalsha: (...args: never[]) => unknown;
}

/**
 * What a client sends its commands with. They would parse stored text as JSON, but it returns the text.
 * An application can pass its own, and the client's middleware wraps it.
 */
interface Requester {
  readonly readYourWrites?: unknown;
  readonly options?: { readonly signal?: unknown };
  request(request: { path: string[]; body: string[][]; signal?: AbortSignal }): Promise<unknown>;
}

interface Answer {
  readonly result?: unknown;
  readonly error?: string;
}

interface Command {
  readonly words: string[];
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

/** The requester of a client of `@upstash/redis`, of any installed version; `undefined` of another one. */
export function requesterOf(client: object): Requester | undefined {
  const { createScript, pipeline, client: requester } = client as
    & Partial<Upstash>
    & { client?: Partial<Requester> };
  const fits = typeof createScript === "function" && typeof pipeline === "function" &&
    typeof requester?.request === "function";
  return fits ? requester as Requester : undefined;
}

/** Databases of Upstash may refuse requests of more than 1 MB. JSON may double the size of a text. */
const limits = { keys: 128, bytes: 400_000 };

const adapters = new WeakMap<Requester, Client>();

/** The adapter of a client, the same one each time. */
export function adaptRequester(requester: Requester): Client {
  let adapter = adapters.get(requester);
  if (adapter === undefined) adapters.set(requester, adapter = makeAdapter(requester));
  return adapter;
}

function makeAdapter(requester: Requester): Client {
  // The client repeats failed requests, and a request may overtake another one.
  const inOrder = sequence();
  const forBatch = (signal?: AbortSignal): Client => {
    const send = sender(requester, signal);
    return {
      isOpen: true,
      limits,
      forBatch,
      connect: () => Promise.resolve(),
      on: () => {},
      get: (key) => send("GET", key),
      mGet: (keys) => send("MGET", ...keys),
      set: (key, value, expiry) =>
        inOrder([key], () => send("SET", key, value, ...expiry ? ["PX", `${expiry.PX}`] : [])),
      mSet: (keysAndValues) =>
        inOrder(keysAndValues.filter((_, i) => i % 2 === 0), () => send("MSET", ...keysAndValues)),
      del: (keys) => inOrder([keys].flat(), () => send("DEL", ...[keys].flat())),
      pTTL: (key) => send("PTTL", key),
      pExpire: (key, ms) => send("PEXPIRE", key, `${ms}`),
      evalSha: (hash, { keys, arguments: args }) =>
        send("EVALSHA", hash, `${keys.length}`, ...keys, ...args),
      eval: (text, { keys, arguments: args }) =>
        send("EVAL", text, `${keys.length}`, ...keys, ...args),
      async scan(cursor, { MATCH, COUNT }) {
        const reply = await send("SCAN", cursor, "MATCH", MATCH, "COUNT", `${COUNT}`);
        const [next, keys] = reply as [unknown, unknown[]];
        return { cursor: next, keys };
      },
    };
  };
  return forBatch();
}

/** Sends the commands of a tick in one request, which ends when the signal aborts. */
function sender(requester: Requester, signal?: AbortSignal) {
  const controller = new AbortController();
  if (signal) setAbortHandler(signal, () => controller.abort("aborted"));
  let waiting: Command[] = [];
  const flush = async () => {
    const commands = waiting;
    waiting = [];
    try {
      const answers = await request(requester, commands, controller.signal);
      commands.forEach(({ resolve, reject }, i) => {
        const { result, error } = answers[i]!;
        if (error) reject(new Error(error));
        else resolve(result);
      });
    } catch (error) {
      for (const { reject } of commands) reject(error);
    }
  };
  return (...words: string[]) =>
    new Promise<unknown>((resolve, reject) => {
      if (waiting.push({ words, resolve, reject }) === 1) queueMicrotask(flush);
    });
}

/** The answer to each command. */
async function request(
  requester: Requester,
  commands: Command[],
  signal: AbortSignal,
): Promise<Answer[]> {
  const body = commands.map(({ words }) => words);
  // Instead of a signal that the application has given to the client.
  const own = requester.options?.signal === undefined ? { signal } : {};
  let answers: unknown;
  try {
    answers = await requester.request({ path: ["pipeline"], body, ...own });
  } catch (error) {
    throw withoutCommands(error);
  }
  // After an abort the client returns the reason.
  if (Array.isArray(answers) && answers.length === commands.length) return answers;
  throw new Error("Upstash sent no results");
}

/** An error without the sessions that the request, or an incomplete answer, contains. */
function withoutCommands(error: unknown): unknown {
  if (!isError(error)) return error;
  const { name, message } = error;
  if (name === "UpstashError") {
    const why = message.replace(/, command was: .*$/s, "");
    return new Error(why === "undefined" ? "Upstash sent no reason" : why);
  }
  if (name === "UpstashJSONParseError" || name === "SyntaxError") {
    const [, page = ""] = /response body: ([^[{].*)$/s.exec(message) ?? [];
    return new Error(`Upstash sent no JSON: ${page}`);
  }
  if (/URL/.test(message)) return error; // the client has none
  return new Error(`Upstash cannot be reached: ${message}`, { cause: error });
}

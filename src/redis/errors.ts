/**
 * Transient errors of Redis and its clients.
 *
 * @module
 */

import { isError, TooLargeError } from "../errors.ts";
import { disconnected } from "../network.ts";

/**
 * Transient errors of clients, servers and proxies. `docs/errors.md` gives the reason for each.
 */
const transientMessages = new RegExp(
  "^(The client is offline|The application has a|Socket closed|Disconnects client|All the root nodes|" +
    "(Socket|Connection|Command) timeout|Timeout waiting|" +
    "(Ready check failed: )?Connection is closed|Command (timed out|aborted)|" +
    "Reached the max retries|Stream isn't writeable|Cluster isn't ready|None of startup nodes|" +
    "Failed to refresh slots|Too many Cluster redirections|All sentinels|An earlier write|" +
    "LOADING|CLUSTERDOWN|MASTERDOWN|NOMASTERLINK|TRYAGAIN|READONLY|REDIRECT|NOREPLICAS|BUSY |" +
    "Upstash (cannot be reached|sent no )|" +
    "ERR max (number of clients|concurrent connections|commands per second)|" +
    "(no upstream host|upstream (failure|protocol error)|finished with \\d+ error)|" + // Envoy
    "ERR (Connection (refused|reset by peer|timed out)|Broken pipe|Host is down|No route to host))", // Twemproxy
);

/** What Redis before version 7, and Dragonfly, put before the error of a command of a script. */
const scriptPrefix = /^ERR Error running script .*@user_script: ?\d+: -/;

/** Whether the same command may succeed in a moment. */
export function transient(error: unknown): boolean {
  if (!isError(error)) return false;
  const { message, constructor } = error as { message: string; constructor?: { name: string } };
  return disconnected(error) || transientMessages.test(message.replace(scriptPrefix, "")) ||
    constructor?.name === "TimeoutError"; // of a command that could not be sent in time
}

/** Whether a server has refused a write because it is a replica. */
export function isReadOnly(error: unknown): boolean {
  return isError(error) && /^READONLY/.test(error.message.replace(scriptPrefix, ""));
}

/** The error to throw after commands have failed, which says what to do. */
export function explained(error: unknown, isCluster: boolean): unknown {
  if (!isError(error)) return error;
  const { message } = error;
  if (isReadOnly(error)) {
    const hint = "is the server a replica, or a former primary?";
    return new Error(`${message.replace(scriptPrefix, "")}; ${hint}`, { cause: error });
  }
  if (message.includes("Write commands not allowed after non deterministic commands")) {
    const why = "the lease of a session needs Redis 5 or newer, and this server is older";
    return new Error(`${why}: ${message}`, { cause: error });
  }
  if (/^(NOPERM|ERR unknown command)\b.*\beval(sha)?\b/i.test(message)) {
    const hint = "this needs Lua scripts: allow the commands EVAL and EVALSHA";
    return new Error(`${message}; ${hint}`, { cause: error });
  }
  if (isCluster && /^(MOVED|ASK) /.test(message)) {
    // The nodes do not agree yet. The client of node-redis 4 ends its redirections with this error.
    return new Error(`Too many Cluster redirections. Last error: ${message}`, { cause: error });
  }
  if (isCluster || !/^(MOVED|ASK|CROSSSLOT) /.test(message)) return error;
  const hint = "the server is part of a cluster: pass a cluster client as { client }";
  return new Error(`${message}; ${hint}`, { cause: error });
}

/** Returns a function that throws the error of a write again, as `TooLargeError` if it is about the size. */
export function explainSize(key: string): (error: unknown) => never {
  return (error) => {
    if (!isError(error) || !/^ERR max (request|single record) size/.test(error.message)) {
      throw error;
    }
    throw new TooLargeError(error.message, { operation: "write", key, cause: error });
  };
}

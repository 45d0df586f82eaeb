/**
 * Options of the client that the MongoDB store creates.
 *
 * @module
 */

import { connectTimeout } from "../address.ts";

/**
 * How long the client waits for a server, a connection and an answer, in ms: half of the operation's
 * timeout or less, which leaves time for a second attempt. Options in the URL override these.
 */
export function timeoutOptions(url: string, timeout: number): Record<string, number> {
  const options = {
    serverSelectionTimeoutMS: connectTimeout({ timeout }),
    connectTimeoutMS: connectTimeout({ timeout }),
    socketTimeoutMS: Math.ceil(timeout / 2),
  };
  const given = url.toLowerCase();
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => !given.includes(`${name.toLowerCase()}=`)),
  );
}

/**
 * What the options of the PostgreSQL and MySQL stores have in common.
 *
 * @module
 */

import { reason } from "../errors.ts";
import type { ConnectionOptions } from "../address.ts";

/** An error about these options. Has no cause because the driver's error may contain the URL. */
export function refused(error: unknown, factory: string, driver: string): TypeError {
  const own = (error as Error).name === "TypeError" && (error as Error).message;
  if (own && own.startsWith(`${factory}: `)) return error as TypeError;
  const what = `option "url" or "config" is refused by ${driver}`;
  return new TypeError(`${factory}: ${what}: ${reason(error)}`);
}

/** The server and user, if they are not given by a URL. */
export function address({ host, port, database, user, password }: ConnectionOptions): object {
  return { host, port: port === undefined ? undefined : Number(port), database, user, password };
}

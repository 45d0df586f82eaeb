/** Deno KV in tests: the driver of the runtime, and a server with the protocol KV Connect. */

import { Buffer } from "node:buffer";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";
import { buffer } from "node:stream/consumers";
import type { Kv } from "../../src/denokv/driver.ts";
import { open } from "../../src/denokv/driver.ts";

/** The access token of the servers. */
export const token = "token";
process.env.DENO_KV_ACCESS_TOKEN = token;

/** Opens a database with the driver of the runtime. */
export async function openKv(where: string): Promise<Kv> {
  return await open(where, () => import("@deno/kv"));
}

/** The native part of `@deno/kv`. It takes and returns the messages of the protocol. */
interface Native {
  open(path: string, inMemory: undefined, debug: boolean): number;
  close(id: number, debug: boolean): void;
  snapshotRead(id: number, message: Uint8Array, debug: boolean): Promise<Uint8Array>;
  atomicWrite(id: number, message: Uint8Array, debug: boolean): Promise<Uint8Array>;
}

function native(): Native {
  const require = createRequire(import.meta.url);
  return require(join(dirname(require.resolve("@deno/kv")), "_napi_index.cjs"));
}

/** Serves a database in memory by the protocol KV Connect, as Deno Deploy does. */
export class KvServer implements AsyncDisposable {
  readonly #native: Native = native();
  readonly #id: number;
  readonly #server: Server;
  #port = 0;
  /** Answers the next requests with this status, while it is set. */
  status: number | undefined;
  /** How many requests were served. */
  requests = 0;

  constructor() {
    this.#id = this.#native.open(":memory:", undefined, false);
    this.#server = createServer(async (request, response) => {
      const body = await buffer(request);
      const reply = (status: number, type: string, content: string | Uint8Array) =>
        response.writeHead(status, { "content-type": type }).end(content);
      this.requests++;
      if (this.status !== undefined) return reply(this.status, "text/plain", "the server is ill");
      if (request.headers.authorization !== `Bearer ${token}`) {
        return reply(401, "text/plain", "wrong token");
      }
      if (request.url === "/") {
        return reply(
          200,
          "application/json",
          JSON.stringify({
            version: 2,
            databaseId: "00000000-0000-0000-0000-000000000000",
            endpoints: [{ url: `${this.url}/kv`, consistency: "strong" }],
            token,
            expiresAt: new Date(Date.now() + 3_600_000).toISOString(),
          }),
        );
      }
      try {
        const message = request.url === "/kv/snapshot_read"
          // The field read_is_strongly_consistent.
          ? [await this.#native.snapshotRead(this.#id, body, false), Uint8Array.of(0x20, 1)]
          : [await this.#native.atomicWrite(this.#id, body, false)];
        reply(200, "application/x-protobuf", Buffer.concat(message));
      } catch (error) {
        reply(400, "text/plain", String(error).split("\n", 1)[0]!);
      }
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Listens, on the same port as before. */
  async start(): Promise<this> {
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
    return this;
  }

  /** Closes all connections, and listens no more. */
  async stop(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.stop();
    this.#native.close(this.#id, false);
  }
}

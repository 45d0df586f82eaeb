/** Deno KV in tests: the driver of the runtime, and a server with the protocol KV Connect. */

import { Buffer } from "node:buffer";
import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import process from "node:process";
import { buffer } from "node:stream/consumers";
import { type Kv, open } from "../../src/denokv/driver.ts";
import { openDatabase } from "./kvDatabase.ts";

/** The access token of the servers. */
const token = "token";
process.env.DENO_KV_ACCESS_TOKEN = token;

/** Opens a database with the driver of the runtime. */
export function openKv(where: string): Promise<Kv> {
  return open(where, () => import("@deno/kv"));
}

/** Deletes what a database has under a prefix. */
export async function dropKv(kv: Kv, prefix: string): Promise<void> {
  for await (const { key } of kv.list({ prefix: [prefix] }, { limit: 10_000 })) {
    const atomic = kv.atomic();
    atomic.delete(key as string[]);
    await atomic.commit();
  }
}

/** An answer: status, type and content. */
type Reply = [status: number, type: string, content: string | Uint8Array];

/** Serves a database in memory by the protocol KV Connect, as Deno Deploy does. */
export class KvServer implements AsyncDisposable {
  readonly #database = openDatabase();
  readonly #sockets = new Set<Socket>();
  #server: http.Server | http2.Http2Server | undefined;
  #port = 0;
  /** The status of all answers, if it is set. */
  status: number | undefined;
  /** Called before a write, with its message. */
  beforeWrite: ((message: Buffer) => unknown) | undefined;
  /** Called after a write, before the answer is sent. */
  afterWrite: (() => unknown) | undefined;

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Listens, on the same port as before. */
  async start(): Promise<void> {
    const listener = async (request: http.IncomingMessage, response: http.ServerResponse) => {
      try {
        const body = await buffer(request);
        const [status, type, content] = await this.#answer(request, body);
        response.writeHead(status, { "content-type": type });
        response.end(content);
      } catch {
        // The connection is lost.
      }
    };
    // Deno's driver speaks only HTTP/2, and `fetch` of other runtimes only HTTP/1.
    this.#server = process.versions.deno === undefined
      ? http.createServer(listener)
      : http2.createServer(listener as never);
    this.#server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => this.#sockets.delete(socket));
    });
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** Closes all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Listens no more. */
  async stop(): Promise<void> {
    const server = this.#server!;
    this.#server = undefined;
    const closed = once(server, "close");
    server.close();
    this.cut();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server !== undefined) await this.stop();
    this.#database.close();
  }

  async #answer({ url, headers }: http.IncomingMessage, body: Buffer): Promise<Reply> {
    if (this.status !== undefined) return [this.status, "text/plain", "a failure"];
    if (headers.authorization !== `Bearer ${token}`) return [401, "text/plain", "a wrong token"];
    if (url === "/") {
      const metadata = {
        version: 2,
        databaseId: "00000000-0000-0000-0000-000000000000",
        endpoints: [{ url: "/kv", consistency: "strong" }],
        token,
        expiresAt: new Date(Date.now() + 3_600_000).toISOString(),
      };
      return [200, "application/json", JSON.stringify(metadata)];
    }
    const protobuf = "application/x-protobuf";
    try {
      if (url === "/kv/snapshot_read") {
        const answer = await this.#database.call("snapshotRead", body);
        // The field `read_is_strongly_consistent`.
        return [200, protobuf, Buffer.concat([answer, Uint8Array.of(0x20, 1)])];
      }
      await this.beforeWrite?.(body);
      const answer = await this.#database.call("atomicWrite", body);
      await this.afterWrite?.();
      return [200, protobuf, answer];
    } catch (error) {
      return [400, "text/plain", String(error).split("\n", 1)[0]!];
    }
  }
}

/** A server for `@upstash/redis`: Upstash's REST protocol on top of a Redis server. */

import { Buffer } from "node:buffer";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createClient } from "redis";

/** What the server does with the next requests: an HTTP status and a body, or nothing at all. */
export type Fault = { readonly status: number; readonly body: string } | "silent";

/** A request that has arrived. */
export interface Request {
  readonly path: string;
  readonly commands: string[][];
  /** In bytes. */
  readonly size: number;
}

/** The bridge from HTTP to Redis. */
export class Bridge implements AsyncDisposable {
  readonly token = "t0ken";
  readonly requests: Request[] = [];
  /** The largest size of a request in bytes. */
  maxRequestSize = 10_000_000;
  fault: Fault | undefined;
  readonly #redis;
  #server: Server;
  #port = 0;

  private constructor(url: string) {
    this.#redis = createClient({ url }).on("error", () => {});
    this.#server = this.#create();
  }

  /** Starts a bridge to the Redis server of the URL. */
  static async to(url: string): Promise<Bridge> {
    const bridge = new Bridge(url);
    await bridge.#redis.connect();
    await bridge.up();
    return bridge;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Listens, on the same port each time. */
  async up(): Promise<void> {
    this.#server = this.#create().listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** Closes all connections, and refuses new ones. */
  async down(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.down();
    this.#redis.destroy();
  }

  #create(): Server {
    return createServer((request, response) => {
      this.#serve(request, response).catch((error) => response.destroy(error));
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const path = request.url!;
    const answer = (status: number, value: unknown) => {
      response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value));
    };
    const parsed = JSON.parse(String(body));
    const commands: string[][] = path === "/" ? [parsed] : parsed;
    this.requests.push({ path, commands, size: body.length });
    if (this.fault === "silent") return;
    if (this.fault !== undefined) {
      response.writeHead(this.fault.status).end(this.fault.body);
      return;
    }
    if (request.headers.authorization !== `Bearer ${this.token}`) {
      return answer(401, { error: "WRONGPASS invalid or missing auth token" });
    }
    if (body.length > this.maxRequestSize) {
      const sizes = `Limit: ${this.maxRequestSize} bytes, Actual: ${body.length} bytes`;
      return answer(400, { error: `ERR max request size exceeded. ${sizes}` });
    }
    const encode = request.headers["upstash-encoding"] === "base64" ? inBase64 : same;
    // In the same tick, so that no other request comes between them.
    const replies = await Promise.all(commands.map(async (command) => {
      try {
        const result: unknown = await this.#redis.sendCommand(command.map(String));
        return { result: result === "OK" ? result : encode(result) };
      } catch (error) {
        return { error: (error as Error).message };
      }
    }));
    if (path === "/") answer("error" in replies[0]! ? 400 : 200, replies[0]);
    else answer(200, replies);
  }
}

const same = (reply: unknown) => reply;

/** All texts of a reply in base64. */
function inBase64(reply: unknown): unknown {
  if (Array.isArray(reply)) return reply.map(inBase64);
  return typeof reply === "string" ? Buffer.from(reply).toString("base64") : reply;
}

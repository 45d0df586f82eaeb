/** A way to a server on which everything can happen that happens to connections in real life. */

import { Buffer } from "node:buffer";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout } from "node:timers";

/** What can happen to a request: it, or the whole or half of its reply, is lost with the connection. */
export const faults = ["request lost", "reply lost", "reply halved", "reply garbled"] as const;
export type Fault = typeof faults[number];

/** A fault that waits for its request. */
interface Trap {
  readonly fault: Fault;
  readonly marker: Buffer;
  readonly sprung: () => void;
}

/** Passes connections on to a server, as long as it is told to. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #traps = new Set<Trap>();
  #port = 0;
  #address = "127.0.0.1";
  #paused = false;
  /** How many connections were made through it. */
  connections = 0;
  /** Whether connections are accepted on which nothing ever passes. */
  blackHole = false;
  /** How much longer each round trip takes, in ms. */
  delay = 0;
  /** Answers a request in place of the server, where it returns something. */
  answer: ((request: Buffer) => Buffer | undefined) | undefined;
  /** Changes bytes of a request before the server gets it. */
  change: ((request: Buffer) => void) | undefined;

  private constructor(host: string, port: number) {
    this.#server = createServer({ noDelay: true }, (near) => {
      this.connections++;
      const far = connect({ port, host, noDelay: true });
      /** What its next reply meets. */
      let trap: Trap | undefined;
      for (const [from, to] of [[near, far], [far, near]] as const) {
        this.#sockets.add(from);
        if (this.#paused) from.pause();
        from.on("error", () => {});
        from.on("close", () => {
          this.#sockets.delete(from);
          to.destroy();
        });
      }
      const cut = () => {
        near.destroy();
        far.destroy();
      };
      if (this.blackHole) {
        near.resume();
        return;
      }
      near.on("data", (data: Buffer) => {
        this.change?.(data);
        const answer = this.answer?.(data);
        if (answer !== undefined) return near.write(answer);
        trap ??= [...this.#traps].find(({ marker }) => data.includes(marker));
        if (trap === undefined) return this.#pass(data, far);
        this.#traps.delete(trap);
        if (trap.fault !== "request lost") return this.#pass(data, far);
        trap.sprung();
        cut();
      });
      far.on("data", (data: Buffer) => {
        if (trap === undefined) return this.#pass(data, near);
        const { fault, sprung } = trap;
        trap = undefined;
        sprung();
        if (fault === "reply garbled") return near.write(Buffer.alloc(data.length, "garbage "));
        if (fault === "reply lost") return cut();
        near.end(data.subarray(0, data.length / 2), cut);
      });
    });
  }

  #pass(data: Buffer, to: Socket): void {
    if (this.delay > 0) setTimeout(() => to.write(data), this.delay / 2);
    else to.write(data);
  }

  /** A proxy to the server of the URL, which listens on an address. */
  static async to(url: string, address = "127.0.0.1"): Promise<Proxy> {
    const { hostname, port } = new URL(url);
    const proxy = new Proxy(hostname, Number(port));
    proxy.#address = address;
    await proxy.up();
    return proxy;
  }

  /** Where it listens. */
  get host(): string {
    return `${this.#address.includes(":") ? `[${this.#address}]` : this.#address}:${this.#port}`;
  }

  /** Cuts all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Nothing passes any more on the connections that there are, and nobody is told. */
  silence(): void {
    for (const socket of this.#sockets) {
      socket.removeAllListeners("data");
      socket.resume();
    }
  }

  /** Holds back all that would pass, until `resume`. */
  pause(): void {
    this.#paused = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** Lets pass what was held back. */
  resume(): void {
    this.#paused = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /**
   * Lets the fault happen to the next request that has the text in it.
   *
   * @returns fulfilled when it has happened.
   */
  trap(fault: Fault, text: string): Promise<void> {
    return new Promise((resolve) =>
      this.#traps.add({ fault, marker: Buffer.from(text), sprung: resolve })
    );
  }

  /** Cuts all connections and refuses new ones. */
  async down(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
  }

  /** Takes connections again. */
  async up(): Promise<void> {
    await new Promise<void>((resolve) =>
      this.#server.listen(this.#port, this.#address, () => resolve())
    );
    this.#port = (this.#server.address() as { port: number }).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }
}

/** A proxy to a server that causes the faults of real connections. */

import { Buffer } from "node:buffer";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout } from "node:timers";
import { freePort } from "../../scripts/servers/launch.ts";
import { until } from "./until.ts";

/** The faults of a request. All except the last also cut the connection. */
export const faults = ["request lost", "reply lost", "reply halved", "reply garbled"] as const;
export type Fault = typeof faults[number];

/** A fault that waits for a matching request. */
interface Trap {
  readonly fault: Fault;
  readonly marker: Buffer;
  /** How many matching requests it lets pass. */
  skip: number;
  readonly sprung: () => void;
}

/** Forwards connections to a server. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #traps = new Set<Trap>();
  #port = 0;
  #address = "127.0.0.1";
  #paused = false;
  /** The URL of the server to which it forwards new connections. */
  target: string;
  /** The number of connections that it has accepted. */
  connections = 0;
  /** True if it accepts new connections but forwards no data on them. */
  blackHole = false;
  /** The additional time of each round trip, in ms. */
  delay = 0;
  /** Answers a request instead of the server, unless it returns `undefined`. */
  answer: ((request: Buffer) => Buffer | undefined) | undefined;
  /** Changes bytes of a request before the server receives it. */
  change: ((request: Buffer) => void) | undefined;

  private constructor(url: string) {
    this.target = url;
    this.#server = createServer({ noDelay: true }, (near) => {
      this.connections++;
      const { hostname, port } = new URL(this.target);
      const far = connect({ port: Number(port), host: hostname, noDelay: true });
      /** The fault of its next reply. */
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
        trap ??= [...this.#traps].find((it) => data.includes(it.marker) && it.skip-- === 0);
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

  /** Starts a proxy that listens on the address and forwards to the server of the URL. */
  static async to(url: string, address = "127.0.0.1"): Promise<Proxy> {
    const proxy = new Proxy(url);
    proxy.#address = address;
    await proxy.up();
    return proxy;
  }

  /** The host and port where it listens. */
  get host(): string {
    return `${this.#address.includes(":") ? `[${this.#address}]` : this.#address}:${this.#port}`;
  }

  /** Cuts all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Drops all further data on the existing connections, without closing them. */
  silence(): void {
    for (const socket of this.#sockets) {
      socket.removeAllListeners("data");
      socket.resume();
    }
  }

  /** Holds back all data until `resume`. */
  pause(): void {
    this.#paused = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** Forwards the data that was held back. */
  resume(): void {
    this.#paused = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /**
   * Applies the fault to the next request that contains the text.
   *
   * @param skip how many such requests pass before.
   * @returns a promise that is fulfilled when the fault has happened.
   */
  trap(fault: Fault, text: string, skip = 0): Promise<void> {
    return new Promise((resolve) =>
      this.#traps.add({ fault, marker: Buffer.from(text), skip, sprung: resolve })
    );
  }

  /** Forgets all traps. */
  disarm(): void {
    this.#traps.clear();
  }

  /** Cuts all connections and refuses new ones. */
  async down(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
  }

  /** Accepts connections, again on the same port. */
  async up(): Promise<void> {
    // Not a port of the range of outgoing connections: one of them could take it while this is down.
    const port = this.#port;
    await until(async () => await this.#listen(this.#port = port || await freePort()));
  }

  #listen(port: number): Promise<boolean> {
    return new Promise((resolve) => {
      const failed = () => resolve(false);
      this.#server.once("error", failed).listen(port, this.#address, () => {
        this.#server.off("error", failed);
        resolve(true);
      });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }
}

/** A way to a server that can be cut: what happens to connections in real life. */

import { connect, createServer, type Server, type Socket } from "node:net";

/** Passes connections on to a server, as long as it is told to. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #port = 0;
  /** How many connections were made through it. */
  connections = 0;

  private constructor(host: string, port: number) {
    this.#server = createServer((near) => {
      this.connections++;
      const far = connect(port, host);
      for (const [from, to] of [[near, far], [far, near]] as const) {
        this.#sockets.add(from);
        from.on("data", (data) => to.write(data));
        from.on("error", () => {});
        from.on("close", () => {
          this.#sockets.delete(from);
          to.destroy();
        });
      }
    });
  }

  /** A proxy to the server of the URL. */
  static async to(url: string): Promise<Proxy> {
    const { hostname, port } = new URL(url);
    const proxy = new Proxy(hostname, Number(port));
    await proxy.up();
    return proxy;
  }

  /** Where it listens. */
  get host(): string {
    return `127.0.0.1:${this.#port}`;
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

  /** Cuts all connections and refuses new ones. */
  async down(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
  }

  /** Takes connections again. */
  async up(): Promise<void> {
    await new Promise<void>((resolve) =>
      this.#server.listen(this.#port, "127.0.0.1", () => resolve())
    );
    this.#port = (this.#server.address() as { port: number }).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }
}

/** A way to a server that takes its time, as a network does. */

import { connect, createServer, type Socket } from "node:net";
import { setTimeout } from "node:timers";

export interface DelayingProxy extends AsyncDisposable {
  /** The server's URL by way of the proxy. */
  url: string;
}

/** Passes on to the server of the URL; every round trip takes so many ms more. */
export async function delayingProxy(url: string, delay: number): Promise<DelayingProxy> {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port: Number(target.port), host: target.hostname, noDelay: true });
    for (const [from, to] of [[near, far], [far, near]] as const) {
      sockets.add(from);
      from.on("data", (data) => setTimeout(() => to.write(data), delay / 2));
      from.on("error", () => {});
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const through = new URL(url);
  through.host = `127.0.0.1:${(server.address() as { port: number }).port}`;
  return {
    url: through.href,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Temporary servers from Docker Compose. */

import process from "node:process";
import { fileURLToPath } from "node:url";
import { freePort, ready } from "./launch.ts";
import { run, succeeds, which, within } from "./process.ts";
import type { Recipe, Scope, Server } from "./recipe.ts";

/** Whether Docker Compose is installed and Docker is running. */
export async function hasCompose(scope: Scope): Promise<boolean> {
  const signal = within(scope, 10_000);
  return which("docker") !== undefined &&
    await succeeds("docker", ["compose", "version"], { signal }) &&
    await succeeds("docker", ["info"], { signal });
}

/** Starts the service of `compose.yaml` on a free port, as its own project. */
export async function compose(scope: Scope, recipe: Recipe): Promise<Server> {
  const { backend, name, url } = recipe;
  const port = await freePort();
  const docker = (...args: string[]) =>
    run("docker", [
      ..."compose --project-name".split(" "),
      `telegraf-session-${port}`,
      "--file",
      fileURLToPath(new URL("../../compose.yaml", import.meta.url)),
      ...args,
    ], { env: { ...process.env, [`${backend.toUpperCase()}_PORT`]: String(port) } });
  scope.log(`Starting ${name} with Docker Compose`);
  scope.cleanups.push(() => docker("down", "--volumes"));
  await docker("up", "--detach", backend);
  const [product, version] = await ready(scope, recipe, url(port));
  return {
    url: url(port),
    product,
    version,
    source: "Docker Compose",
    async stop(signal = "SIGTERM") {
      await docker("kill", "--signal", signal, backend);
    },
    async start() {
      await docker("start", backend);
      await ready(scope, recipe, url(port));
    },
  };
}

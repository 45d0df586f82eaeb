/** HAProxy in front of a database, as with Patroni: each server has a health check that knows its role. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../../scripts/servers/launch.ts";
import { which } from "../../scripts/servers/process.ts";
import type { Cleanup } from "./cleanup.ts";
import { scopeOf, unpacked } from "./engines.ts";
import { until } from "./until.ts";

/** A server behind HAProxy. */
export interface Behind {
  readonly url: string;
  /** Whether it is the primary. An error means no. */
  isPrimary(): boolean | Promise<boolean>;
}

/**
 * Starts HAProxy; returns its port. It sends new connections to the primary.
 *
 * @param keeps whether it leaves connections to a former primary open.
 */
export async function startHAProxy(
  cleanup: Cleanup,
  servers: readonly Behind[],
  { keeps = false } = {},
): Promise<number> {
  const program = which("haproxy") ?? join(
    await unpacked(scopeOf(cleanup), "haproxy", {
      packages: ["haproxy"],
      programs: ["usr/sbin/haproxy"],
    }),
    "usr/sbin/haproxy",
  );
  const port = await freePort();
  const lines = await Promise.all(servers.map(async ({ url, isPrimary }, i) => {
    const checks = createServer(async (_request, response) => {
      const primary = await Promise.resolve().then(isPrimary).catch(() => false);
      response.writeHead(primary ? 200 : 503).end();
    }).listen(0, "127.0.0.1");
    await once(checks, "listening");
    cleanup.of(checks, () => {
      checks.close();
      checks.closeAllConnections();
    });
    const check = `check port ${(checks.address() as AddressInfo).port}`;
    return `server s${i} 127.0.0.1:${new URL(url).port} ${check}`;
  }));
  const folder = mkdtempSync(join(tmpdir(), "telegraf-session-haproxy-"));
  cleanup.of(folder, () => rmSync(folder, { recursive: true }));
  const config = join(folder, "haproxy.cfg");
  const down = keeps ? "" : "on-marked-down shutdown-sessions";
  writeFileSync(
    config,
    `
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
listen primary
  bind 127.0.0.1:${port}
  option httpchk
  http-check expect status 200
  default-server inter 200ms fall 1 rise 1 ${down}
  ${lines.join("\n  ")}
`,
  );
  const child = spawn(program, ["-f", config, "-db"], { stdio: ["ignore", "ignore", "pipe"] });
  let output = "";
  child.stderr.on("data", (data) => output += data);
  const exited = once(child, "exit");
  cleanup.of(child, async () => {
    child.kill("SIGKILL");
    await exited;
  });
  await until(() => {
    if (child.exitCode !== null) throw new Error(`haproxy ended: ${output}`);
    return /s0 is UP|is UP, reason/.test(output) || output.includes("is DOWN");
  });
  return port;
}

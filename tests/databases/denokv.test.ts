/** Tests of Deno KV: in a file, in memory, and on a server with the protocol KV Connect. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { Buffer } from "node:buffer";
import { DenoKV } from "../../denokv.ts";
import type { Kv } from "../../src/denokv/driver.ts";
import { backendOf } from "../../src/store/factory.ts";
import { conformance, encryptedConformance, type Harness } from "../suites/conformance/index.ts";
import { underTelegraf } from "../suites/telegraf.ts";
import { dropKv, KvServer, openKv } from "../support/denokv.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-denokv-"));
after(() => rmSync(folder, { recursive: true }));

const path = join(folder, "sessions.kv");

/** Another connection to the file. */
let kv: Kv;
before(async () => {
  kv = await openKv(path);
});
after(() => kv.close());

async function corrupt(kv: Kv, prefix: string, key: string): Promise<void> {
  const atomic = kv.atomic();
  atomic.set([prefix, "session", key], Buffer.from('{"a"'));
  await atomic.commit();
}

const largest = 655_000;

const harness: Harness = {
  name: "Deno KV",
  store: (prefix, options) => DenoKV({ path, prefix, ...options }),
  backend: (prefix, options) => backendOf(DenoKV, { path, prefix, ...options }),
  drop: (prefix) => dropKv(kv, prefix),
  dates: "text",
  prunes: false,
  largest,
  corrupt: (prefix, key) => corrupt(kv, prefix, key),
};

conformance(harness);
encryptedConformance(harness);
underTelegraf(harness);

/** A server with the protocol of Deno Deploy. */
const server = new KvServer();
let remote: Kv;
before(async () => {
  await server.start();
  remote = await openKv(server.url);
});
after(async () => {
  remote.close();
  await server[Symbol.asyncDispose]();
});

const served: Harness = {
  ...harness,
  name: "Deno KV by KV Connect",
  store: (prefix, options) => DenoKV({ url: server.url, prefix, ...options }),
  backend: (prefix, options) => backendOf(DenoKV, { url: server.url, prefix, ...options }),
  drop: (prefix) => dropKv(remote, prefix),
  corrupt: (prefix, key) => corrupt(remote, prefix, key),
};

conformance(served);
underTelegraf(served);

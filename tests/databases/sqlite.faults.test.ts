/** Tests of SQLite under faults. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, it } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import BetterSqlite3 from "better-sqlite3";
import type { StoreOptions } from "../../mod.ts";
import { SQLite, type SQLiteOptions } from "../../sqlite.ts";
import { backendOf } from "../../src/store/factory.ts";
import { processes, type ProcessHarness } from "../suites/faults.ts";
import { leaseModel, realWorld } from "../suites/leaseModel.ts";
import { model } from "../suites/model.ts";
import { place } from "../support/servers.ts";

const folder = mkdtempSync(join(tmpdir(), "telegraf-session-sqlite-"));
after(() => rmSync(folder, { recursive: true }));

const harness: ProcessHarness = {
  name: "SQLite",
  backend: ["sqlite", "SQLite"],
  options: (folder, name) => ({ filename: join(folder, `${name}.sqlite`) }) as object,
  store: (options) => SQLite(options),
  hostClock: true,
};

processes(harness, () => folder);

it("SQLite behaves like a model under leases", () =>
  leaseModel(async () => {
    const options = harness.options(folder, place());
    const stores = [harness.store(options), harness.store(options)] as const;
    await stores[0].update("first", () => ["1"]); // adds the columns
    return await realWorld(stores, backendOf(SQLite, options as SQLiteOptions));
  }, { numRuns: 5 }));

for (const [runs, own] of [[40, {}], [3, { cache: true }]] as [number, StoreOptions][]) {
  const title = "stores the same sessions as a map while other connections lock the file";
  it(`SQLite ${own.cache ? "with cache " : ""}${title}`, () => lockAtRandom(runs, own));
}

function lockAtRandom(runs: number, own: StoreOptions): Promise<void> {
  return model(
    {
      open: (where, options) => harness.store({ ...harness.options(folder, where), ...options }),
      /** Another connection locks the file for a while. */
      async disturb(where) {
        const database = new BetterSqlite3(join(folder, `${where}.sqlite`), { timeout: 0 });
        try {
          database.exec("BEGIN IMMEDIATE");
          await wait(20);
          database.exec("ROLLBACK");
        } catch {
          // The store has the lock.
        } finally {
          database.close();
        }
      },
    },
    runs,
    own,
  );
}

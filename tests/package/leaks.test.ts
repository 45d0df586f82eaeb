import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { type Ending, entry, run } from "../support/process.ts";
import { growth } from "../support/heap.ts";
import { clients, leaveNothing, operate } from "../suites/leaks.ts";
import { place, serverUrl } from "../support/servers.ts";

const urls = {
  redis: serverUrl("redis"),
  mongodb: serverUrl("mongodb"),
  postgres: serverUrl("postgres"),
  mysql: serverUrl("mysql"),
};

describe("leaks", () => {
  for (const [name, client] of Object.entries(clients)) {
    it(`${name} 50 closed stores on one client leave nothing behind`, async () => {
      await using shared = await client(urls);
      await leaveNothing(shared);
    });

    it(`${name} thousands of operations leave nothing behind`, async () => {
      await using shared = await client(urls);
      const heap = await operate(shared, name === "MongoDB" ? 4_000 : 20_000); // FerretDB is slow
      const grown = growth(heap);
      assert.ok(grown < 5e6, `the heap has grown by ${grown} bytes: ${heap}`);
    });
  }
});

describe("a store that is never closed", () => {
  const where = place();
  /** The entry, the factory, the options, and whether the driver lets the process end. */
  const stores: Record<string, [string, string, object, boolean]> = {
    Redis: ["redis", "Redis", { url: urls.redis, prefix: `${where}:` }, false],
    MongoDB: ["mongodb", "Mongo", { url: urls.mongodb, collection: where }, false],
    PostgreSQL: ["pg", "Postgres", { url: urls.postgres, table: where }, true],
    MySQL: ["mysql", "MySQL", { url: urls.mysql, table: where }, false],
    SQLite: ["sqlite", "SQLite", { filename: ":memory:" }, true],
  };
  /** Processes that use such a store. They run at the same time because they are slow. */
  const endings = new Map<string, Promise<Ending>>();
  before(() => {
    for (const [name, [module, factory, options, ends]] of Object.entries(stores)) {
      const ending = run(
        `
        import { ${factory} } from "${entry(module, import.meta.url)}";
        const store = ${factory}(${JSON.stringify(options)});
        await store.set("k", 1);
        console.log(await store.get("k"));
        `,
        ends ? 60_000 : 20_000,
      );
      endings.set(name, ending);
    }
  });

  for (const [name, [, , , ends]] of Object.entries(stores)) {
    it(`${name} ${ends ? "lets" : "does not let"} the process end`, async () => {
      const { code, output } = (await endings.get(name))!;
      assert.equal(output, "1\n");
      assert.equal(code, ends ? 0 : null);
      await using shared = await clients[name]!(urls);
      if (name !== "SQLite") await shared.drop(where);
    });
  }
});

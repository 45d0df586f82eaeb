import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { growth } from "../support/heap.ts";
import { serverUrl } from "../support/servers.ts";
import { soak } from "../suites/soak.ts";

describe("soak", () => {
  it("all stores lose no update, and the heap does not grow, for 20 s", async () => {
    const { updates, heap } = await soak({
      redis: serverUrl("redis"),
      mongodb: serverUrl("mongodb"),
      postgres: serverUrl("postgres"),
      mysql: serverUrl("mysql"),
    }, 20_000);
    for (const [name, { acknowledged }] of Object.entries(updates)) {
      assert.ok(acknowledged > 100, `${name}: only ${acknowledged} updates`);
    }
    const grown = growth(heap);
    assert.ok(grown < 10e6, `the heap has grown by ${grown} bytes: ${heap}`);
  });
});

/** Replacing stored values that are still the ones that were read, on the contract below the store. */

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";
import type { Backend, Entry, Leases, Replacement } from "../backend.ts";
import { heldLeases } from "./leases.ts";
import { type Harness, openBackend, retry, type Test } from "./harness.ts";

const long = 600_000;
const { signal } = new AbortController();

/** A backend, with methods for short tests. Its values are text, or documents with one text. */
class Connection implements AsyncDisposable {
  // deno-lint-ignore no-explicit-any
  readonly backend: Backend<any>;
  readonly #isText: boolean;

  // deno-lint-ignore no-explicit-any
  private constructor(backend: Backend<any>) {
    this.backend = backend;
    this.#isText = typeof backend.codec.encode({}) === "string";
  }

  static async open(
    harness: Harness,
    where: string,
    needs = { expiring: true, leasing: false },
  ): Promise<Connection> {
    return new Connection(await openBackend(harness, where, needs));
  }

  async write(texts: Record<string, string>, expires?: number): Promise<void> {
    const entries = Object.entries(texts).map(([key, text]) => ({
      key,
      value: this.#value(text),
      ...expires !== undefined && { expires },
    }));
    await retry(this.backend, () => this.backend.write(entries, signal));
  }

  /** The stored entries, by key. */
  async entries(...keys: string[]): Promise<Record<string, Entry<unknown>>> {
    const found: Entry<unknown>[] = await retry(
      this.backend,
      () => this.backend.read(keys, signal),
    );
    return Object.fromEntries(found.map((entry) => [entry.key, entry]));
  }

  /** The stored texts, by key. */
  async read(...keys: string[]): Promise<Record<string, string>> {
    const entries = Object.values(await this.entries(...keys));
    return Object.fromEntries(entries.map(({ key, value }) => [key, this.text(value)]));
  }

  async replace(...replacements: [key: string, before: string, after: string][]): Promise<void> {
    await this.replaceValues(replacements.map(([key, before, after]) => ({
      key,
      before: this.#value(before),
      after: this.#value(after),
    })));
  }

  async replaceValues(replacements: Replacement<unknown>[]): Promise<void> {
    await retry(this.backend, () => this.backend.replace(replacements, signal));
  }

  text(value: unknown): string {
    return this.#isText ? String(value) : (value as { text: string }).text;
  }

  #value(text: string): unknown {
    return this.#isText ? text : { text };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend.close();
  }
}

export function replace(define: Test, harness: Harness): void {
  const test: Test = (title, body, { skip } = {}) =>
    define(title, body, { skip: harness.noBackend || skip });
  const open = (where: string) => Connection.open(harness, where);
  const skip = harness.noLeases;

  test("replaces values that are still the ones that were read", async (_store, where) => {
    await using connection = await open(where);
    await connection.write({ a: "A", b: "B", c: "C" });
    await connection.replace(["a", "A", "A2"], ["b", "B", "B2"]);
    await connection.replace(["c", "C", "C2"]);
    const after = { a: "A2", b: "B2", c: "C2" };
    assert.deepEqual(await connection.read("a", "b", "c"), after);
    await connection.replace(["a", "A", "A2"], ["b", "B", "B2"]);
    assert.deepEqual(await connection.read("a", "b", "c"), after);
    await connection.replace(["a", "A2", "A2"]);
    assert.deepEqual(await connection.read("a", "b", "c"), after);
  });

  test("replaces what a store has written, for every store", async (store, where) => {
    const session = { at: new Date(1e12), list: [1, null, { "é": "🔑" }], text: "it's \"\\\n" };
    await store.set("k", session);
    await using connection = await open(where);
    const { codec } = connection.backend;
    const { value: before } = (await connection.entries("k")).k!;
    const after = codec.encode({ ...session, n: 0.5 });
    await connection.replaceValues([{ key: "k", before, after }]);
    await using other = harness.store(where);
    assert.equal((await other.get("k")).n, 0.5);
    await connection.replaceValues([{ key: "k", before: after, after: before }]);
    assert.ok(codec.equal((await connection.entries("k")).k!.value, before));
  });

  test("replace leaves a value that has changed, and a missing one", async (_store, where) => {
    await using connection = await open(where);
    await connection.write({ changed: "2", gone: "1", same: "1" });
    await connection.backend.remove(["gone"], signal);
    const keys = ["changed", "gone", "same", "never"];
    await connection.replace(...keys.map((key) => [key, "1", "new"] as [string, string, string]));
    assert.deepEqual(await connection.read(...keys), { changed: "2", same: "new" });
  });

  test("replace compares every letter and every space", async (_store, where) => {
    await using connection = await open(where);
    const before = "enc1:QmFzZTY0+/9x w==";
    const others: Record<string, string> = {
      lower: before.toLowerCase(),
      upper: before.toUpperCase(),
      letter: before.replace("Q", "q"),
      trailing: `${before} `,
      leading: ` ${before}`,
      inner: before.replace(" ", "  "),
      tab: `${before}\t`,
      shorter: before.slice(0, -1),
      longer: `${before}=`,
      accent: before.replace("e", "é"),
      wide: before.replace("Q", "Ｑ"),
    };
    await connection.write({ ...others, same: before });
    const keys = [...Object.keys(others), "same"];
    await connection.replace(
      ...keys.map((key) => [key, before, "new"] as [string, string, string]),
    );
    assert.deepEqual(await connection.read(...keys), { ...others, same: "new" });
  });

  test("replace keeps the expiry", async (_store, where) => {
    await using connection = await open(where);
    const expires = Date.now() + 3_600_000;
    await connection.write({ ends: "1" }, expires);
    await connection.write({ stays: "1" });
    const before = (await connection.entries("ends")).ends!.expires!;
    await connection.replace(["ends", "1", "2"], ["stays", "1", "2"]);
    const { ends, stays } = await connection.entries("ends", "stays");
    assert.equal(connection.text(ends!.value) + connection.text(stays!.value), "22");
    assert.equal(stays!.expires, undefined);
    // Redis reports how long the session still lives, which a slow machine receives late.
    const difference = Math.abs(ends!.expires! - before);
    assert.ok(difference <= (connection.backend.prune ? 0 : 1_800_000), `${difference} ms`);
  });

  test("replace brings no expired session back", async (store, where) => {
    await using connection = await open(where);
    const isExpired = async () => {
      const { k } = await connection.entries("k");
      return k === undefined || k.expires! <= Date.now();
    };
    await connection.write({ k: "1" }, Date.now() + 1);
    while (!await isExpired()) await wait(1);
    await connection.replace(["k", "1", "2"]);
    assert.ok(await isExpired());
    await using other = harness.store(where, { ttl: long });
    assert.equal(await other.get("k"), undefined);
    await store.delete("k");
  });

  test("replace works while another holds the lease, which stays", async (_store, where) => {
    const needs = { expiring: true, leasing: true };
    await using holder = await Connection.open(harness, where, needs);
    await using connection = await open(where);
    const leases = holder.backend.leases as Leases<unknown>;
    const claim = (token: string) =>
      retry(
        holder.backend,
        () => leases.claim([{ key: "k", token, length: long, noted: true }], signal),
      );
    const settle = (length: number, note?: string) =>
      retry(
        holder.backend,
        () => leases.settle([{ key: "k", token: "t1", length, change: undefined, note }], signal),
      );
    await holder.write({ k: "1" });
    await claim("t1");
    assert.deepEqual(await settle(long, "noted"), []);
    const { left } = (await heldLeases(leases)).get("k")!;
    await connection.replace(["k", "1", "2"], ["other", "1", "2"]);
    const held = (await heldLeases(leases)).get("k")!;
    assert.equal(held.token, "t1");
    assert.ok(held.left <= left && held.left > 0, `${held.left}`);
    assert.deepEqual((await claim("t2")).map(({ token }) => token), ["t1"]);
    assert.deepEqual(await settle(0), []);
    const [claimed] = await claim("t3");
    assert.equal(claimed!.token, "t3");
    assert.equal(holder.text(claimed!.entry!.value), "2");
    assert.equal(claimed!.note, "noted");
    await connection.replace(["k", "2", "3"]);
    assert.deepEqual(await connection.read("k"), { k: "3" });
  }, { skip });

  test("replace stores nothing where there is only a lease", async (_store, where) => {
    await using holder = await Connection.open(harness, where, { expiring: true, leasing: true });
    const leases = holder.backend.leases as Leases<unknown>;
    const claim = [{ key: "k", token: "t1", length: long }];
    await retry(holder.backend, () => leases.claim(claim, signal));
    const { codec } = holder.backend;
    const after = codec.encode({ a: 1 });
    for (const before of [codec.encode(null), codec.encode(""), after]) {
      await holder.replaceValues([{ key: "k", before, after }]);
    }
    assert.deepEqual(await holder.entries("k"), {});
  }, { skip });

  test("replaces sessions of 300 KB", async (_store, where) => {
    await using connection = await open(where);
    const before = "Ab é".repeat(60_000);
    await connection.write({ same: before, changed: `${before} ` });
    const after = "Ba ü".repeat(60_000);
    await connection.replace(["same", before, after], ["changed", before, after]);
    assert.deepEqual(await connection.read("same", "changed"), {
      same: after,
      changed: `${before} `,
    });
  });

  test("replaces many values at the same time", async (_store, where) => {
    await using connection = await open(where);
    const keys = Array.from({ length: 32 }, (_, i) => `key ${i}`);
    const texts = (of: (i: number) => string) =>
      Object.fromEntries(keys.map((key, i) => [key, of(i)]));
    await connection.write(texts((i) => i % 3 === 0 ? "changed" : `${i}`));
    await connection.replace(
      ...keys.map((key, i) => [key, `${i}`, `new ${i}`] as [string, string, string]),
    );
    const expected = texts((i) => i % 3 === 0 ? "changed" : `new ${i}`);
    assert.deepEqual(await connection.read(...keys), expected);
  });

  test("replace loses no write of another process", async (_store, where) => {
    await using writer = await open(where);
    await using rotator = await open(where);
    const lost: string[] = [];
    let isDone = false;
    const pause = () => wait(2 * Math.random());
    /** Writes in a loop. A write is lost if the writer, the only one, does not find it. */
    const write = async () => {
      for (let i = 1; i <= 100; i++) {
        await writer.write({ k: `${i}` });
        // Sometimes it waits until the session has been replaced.
        do await pause(); while (i % 4 === 0 && (await writer.read("k")).k === `${i}`);
        const { k } = await writer.read("k");
        if (k !== `${i}` && k !== `${i} again`) lost.push(`${i}: ${k}`);
      }
      isDone = true;
    };
    const rotate = async () => {
      while (!isDone) {
        const { k } = await rotator.read("k");
        await pause();
        if (k !== undefined) await rotator.replace(["k", k, `${parseInt(k)} again`]);
      }
    };
    await Promise.all([write(), rotate()]);
    assert.deepEqual(lost, []);
    // A server without atomic changes has no leases either.
  }, { skip });
}

/** Values and errors of another realm, which a bot gets under jest or from `node:vm`. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { it } from "node:test";
import { createContext, runInContext } from "node:vm";
import { Mongo } from "../../mongodb.ts";
import { SQLite } from "../../sqlite.ts";
import { reason } from "../../src/errors.ts";
import * as kysely from "../../src/kysely/errors.ts";
import * as mongodb from "../../src/mongodb/errors.ts";
import * as mysql from "../../src/mysql/errors.ts";
import * as pg from "../../src/pg/errors.ts";
import * as redis from "../../src/redis/errors.ts";
import * as sqlite from "../../src/sqlite/errors.ts";
import { place, serverUrl } from "../support/servers.ts";

const realm = createContext({});
const make = (code: string) => runInContext(code, realm);

const session = () =>
  make(`({
    date: new Date(86400000),
    list: [new Date(0), { pattern: /a.b/gi }],
    map: new Map([["a", { b: new Map([["c", 1]]) }]]),
    bytes: new Uint8Array([1, 2, 255]),
    text: "é",
  })`);

it("MongoDB keeps dates, expressions, maps and bytes of another realm", async () => {
  assert.equal(session().date instanceof Date, false);
  await using store = Mongo({ url: serverUrl("mongodb"), collection: place() });
  try {
    await store.set("k", session());
    await using other = Mongo({ url: serverUrl("mongodb"), collection: place() });
    await other.ready();
    const read = await store.get("k");
    assert.deepEqual(read, {
      date: new Date(86_400_000),
      list: [new Date(0), { pattern: /a.b/gi }],
      map: { a: { b: { c: 1 } } },
      bytes: read.bytes,
      text: "é",
    });
    assert.deepEqual(Buffer.from(read.bytes.buffer ?? read.bytes), Buffer.from([1, 2, 255]));
  } finally {
    await store.clear();
  }
});

it("SQLite stores a session of another realm as JSON", async () => {
  await using store = SQLite({ filename: ":memory:" });
  await store.set("k", session());
  const { date, list, text } = await store.get("k");
  assert.deepEqual({ date, first: list[0], text }, {
    date: "1970-01-02T00:00:00.000Z",
    first: "1970-01-01T00:00:00.000Z",
    text: "é",
  });
});

const drivers = { Redis: redis, MongoDB: mongodb, PostgreSQL: pg, MySQL: mysql, Kysely: kysely };
for (const [name, { transient }] of Object.entries(drivers)) {
  it(`${name} retries after a connection error of another realm`, () => {
    const error = make(`Object.assign(new Error("connect"), { code: "ECONNREFUSED" })`);
    assert.equal(error instanceof Error, false);
    assert.equal(transient(error), true);
    assert.equal(transient(make(`new Error("permission denied")`)), false);
    for (const value of ["text", undefined, null, 1]) assert.equal(transient(value), false);
  });
}

it("SQLite retries after a lock error of another realm", () => {
  const error = make(`Object.assign(new Error("database is locked"), { code: "SQLITE_BUSY" })`);
  assert.equal(sqlite.transient(error), true);
  assert.equal(sqlite.transient(undefined), false);
});

it("messages of errors of another realm are kept", () => {
  assert.equal(
    reason(make(`new Error("refused by redis://user:s3cret@host")`)),
    "refused by redis://***@host",
  );
});

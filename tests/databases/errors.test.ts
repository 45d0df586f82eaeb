/** Creates each error of `docs/errors.md` and checks whether it is retried as the document says. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import * as util from "node:util";
import * as denokv from "../../src/denokv/errors.ts";
import * as kysely from "../../src/kysely/errors.ts";
import * as mongodb from "../../src/mongodb/errors.ts";
import * as mysql from "../../src/mysql/errors.ts";
import * as pg from "../../src/pg/errors.ts";
import * as redis from "../../src/redis/errors.ts";
import * as sqlite from "../../src/sqlite/errors.ts";

interface Row {
  error: string;
  retried: boolean;
}

/** The rows of the tables, by section. A section may have several tables. */
const sections: Record<string, Row[]> = {};
/** Rows that the parser could not read. */
const unreadable: string[] = [];
let section = "";
for (
  const line of readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8").split("\n")
) {
  section = /^## (.+)$/.exec(line)?.[1] ?? section;
  const row = /^\| `([^`]+)` +\| .+ \| (yes|no) +\|$/.exec(line);
  if (row !== null) (sections[section] ??= []).push({ error: row[1]!, retried: row[2] === "yes" });
  else if (/^\|(?! error | -)/.test(line)) unreadable.push(line);
}

function withCode(code: string | number, message = `something with ${code}`): Error {
  return Object.assign(new Error(message), { code });
}

/** Creates an error of MongoDB's driver. */
function mongo(error: string): Error {
  const [kind, value] = error.split(" ");
  const it = { name: "MongoServerError", code: undefined as number | undefined };
  if (kind === "label") return Object.assign(new Error("x"), it, { errorLabels: [value] });
  if (kind === "name") return Object.assign(new Error("x"), it, { name: value });
  return Object.assign(new Error("x"), it, { code: Number(kind) });
}

/** Creates an error of a SQL database from a row with a message, or a code and maybe a message. */
function sql(error: string): Error {
  if (error.startsWith("message ")) return new Error(error.slice("message ".length));
  const [code, ...words] = error.split(" ") as [string];
  const errno = Number(code);
  if (code.length === 4 && !Number.isNaN(errno)) {
    return Object.assign(new Error("x"), { code: undefined, errno });
  }
  return withCode(code, words.join(" ") || undefined);
}

const everywhere = [redis, mongodb, pg, mysql, kysely, denokv];
const databases: Record<
  string,
  [(error: string) => Error, { transient(error: unknown): boolean }[]]
> = {
  "Network": [withCode, everywhere],
  "Redis, Valkey": [(error) => new Error(error), [redis]],
  "MongoDB": [mongo, [mongodb]],
  "PostgreSQL": [sql, [pg, kysely]],
  "MySQL, MariaDB": [sql, [mysql, kysely]],
  "SQLite": [sql, [sqlite, kysely]],
  "Kysely": [sql, [kysely]],
  "Deno KV": [(error) => new Error(error), [denokv]],
};

describe("errors", () => {
  it("errors of all databases are in the document", () => {
    assert.deepEqual(Object.keys(sections), Object.keys(databases));
  });

  it("each row of the document can be read", () => {
    assert.deepEqual(unreadable, []);
  });

  for (const [title, [make, modules]] of Object.entries(databases)) {
    it(`${title} errors are retried as the document says`, () => {
      assert.ok(sections[title]!.length > 10);
      for (const { error, retried } of sections[title]!) {
        for (const { transient } of modules) {
          assert.equal(transient(make(error)), retried, `${title}: ${error}`);
        }
      }
    });
  }

  it("errors of the operating system are all in the document", () => {
    const listed = new Set(sections["Network"]!.map(({ error }) => error));
    const names = [...util.getSystemErrorMap().values()].map(([name]) => name);
    assert.deepEqual(names.filter((name) => !listed.has(name)), []);
  });

  it("a missing socket is a temporary error for every database", () => {
    const error = Object.assign(new Error("connect"), { code: "ENOENT", syscall: "connect" });
    for (const { transient } of everywhere) assert.equal(transient(error), true);
  });

  it("an error of several addresses is temporary if one of its errors is temporary", () => {
    const error = new AggregateError([withCode("EACCES"), withCode("ENETDOWN")]);
    for (const { transient } of everywhere) assert.equal(transient(error), true);
    const refused = new AggregateError([withCode("EACCES"), withCode("EPERM")]);
    for (const { transient } of everywhere) assert.equal(transient(refused), false);
  });
});

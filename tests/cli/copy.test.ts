/** `copy` from every database to every database. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import process from "node:process";
import { cli, type Kind, kinds, type Raw } from "../support/commandLine.ts";

/** The number of sessions to copy. With FerretDB in place of MongoDB, 10,000 take a while. */
const many = Number(process.env.TEST_CLI_SESSIONS ?? 300);

const week = 7 * 24 * 60 * 60 * 1000;

/** Three sessions that are hard to copy, and many easy ones. Two thirds of those expire. */
function* sessions(): Generator<[string, unknown, number?]> {
  yield ["a:A", { text: "it's" }];
  yield ["A:a", { text: '\u{1F600}\0\\"\r\n', empty: "", none: null, zero: 0, no: false }];
  yield ["ключ", { list: ["é", { n: 1.5, list: [], object: {} }] }];
  for (let i = 3; i < many; i++) {
    const session = { count: i, name: `Zoë ${i}`, cart: [{ id: i, title: "a\nb" }] };
    yield i % 3 === 0 ? [`${i}:${i}`, session] : [`${i}:${i}`, session, Date.now() + week + i];
  }
}

/** Compares text byte by byte; compares parsed values if only one database stores text. */
function assertSame(actual: Raw, from: Kind, expected: Raw, to: Kind): void {
  assert.deepEqual([...actual.keys()].toSorted(), [...expected.keys()].toSorted());
  for (const [key, { value, expires }] of expected) {
    const copy = actual.get(key)!;
    const same = from.text === to.text
      ? [copy.value, value]
      : [copy.value, value].map((it) => typeof it === "string" ? JSON.parse(it) : it);
    assert.deepEqual(same[0], same[1]);
    assert.equal(copy.expires === undefined, expires === undefined, key);
    // Redis reports the remaining lifetime of a key, so the expiry time is not exact.
    const off = Math.abs((copy.expires ?? 0) - (expires ?? 0));
    assert.ok(from.name === "Redis" || to.name === "Redis" ? off < 1_000 : off === 0, `${off}`);
  }
}

describe("copy", { timeout: 3_600_000 }, () => {
  for (const from of kinds) {
    for (const to of kinds) {
      it(`${to.name} receives all sessions of ${from.name}`, async () => {
        await using source = from.place();
        await using target = to.place();
        await source.fill(sessions());
        const before = await source.raw();
        assert.equal(before.size, many);

        const { code, stdout, stderr } = await cli("copy", source.url, target.url);
        assert.equal(code, 0, stderr);
        assert.match(stdout, new RegExp(`^Copied ${many.toLocaleString("en")} sessions \\(.*B\\)`));
        if (process.env.TEST_CLI_SESSIONS) console.log(`${from.name} → ${to.name}: ${stdout}`);
        assertSame(await target.raw(), from, before, to);
        assertSame(await source.raw(), from, before, from);
      });
    }
  }
});

/** Runs the two programs of docs/observability.md as they are printed, on bots that get updates. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { freePort } from "../../scripts/servers/launch.ts";
import { place as newPlace, serverUrl } from "../support/servers.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const document = readFileSync(join(root, "docs/observability.md"), "utf8");

/** The program of a section. */
function program(section: string): string {
  const [, body] = document.split(`\n## ${section}\n`);
  const [, code] = /^```ts\n([\s\S]*?)^```$/m.exec(body!.split("\n## ")[0]!)!;
  return code!;
}

/** Runs a statement on PostgreSQL. */
async function query(text: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl("postgres") });
  await client.connect();
  await client.query(text).finally(() => client.end());
}

/** Users that no other run has. Another holder takes the lease of the last one during its update. */
const users = Array.from({ length: 11 }, () => randomInt(1e9, 9e9));
const victim = users.at(-1)!;

/**
 * Imports the program. `bot.launch()` gives the bot two updates of each user, all at the same time, and then
 * one of the last user. Telegram's answers are made up.
 *
 * @param prepare runs before the program. Its `steal(user)` takes the lease of a session.
 * @param inspect runs at the end of `launch()`. It returns what to print.
 */
const main = (prepare: string, inspect: string) => `
import { Telegraf, Telegram } from "telegraf";
import process from "node:process";
${prepare}
const users = ${JSON.stringify(users)};
let stealing = false;
Telegram.prototype.callApi = async (method, { chat_id }) => {
  if (stealing && method === "sendMessage") await steal(chat_id);
  return { id: 1, username: "bot" };
};
Telegraf.prototype.launch = async function () {
  this.botInfo = { id: 1, is_bot: true, first_name: "bot", username: "bot" };
  let id = 1;
  const send = (user) => this.handleUpdate({
    update_id: id++,
    message: {
      message_id: id,
      date: 1,
      from: { id: user, is_bot: false, first_name: "user" },
      chat: { id: user, type: "private", first_name: "user" },
      text: "/count",
      entities: [{ type: "bot_command", offset: 0, length: 6 }],
    },
  });
  await Promise.all([...users, ...users].map(send));
  stealing = true;
  await send(${victim});
  console.log(JSON.stringify(await (${inspect})()));
};
await import("./bot.ts");
`;

/** Runs a program and returns what it found. */
async function run(bot: string, code: string, env: Record<string, string>) {
  const folder = mkdtempSync(join(root, ".readme-"));
  try {
    writeFileSync(join(folder, "bot.ts"), bot);
    writeFileSync(join(folder, "main.ts"), code);
    const child = spawn(process.execPath, ["run", "-A", "--quiet", "--no-check", "main.ts"], {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", BOT_TOKEN: "1:token", ...env },
    });
    const closed = once(child, "close");
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
    const [exit] = await closed;
    assert.equal(exit, 0, errors);
    // The program's own \`bot.catch\` prints the error of the update that lost its lease.
    assert.equal(errors.match(/LeaseError/g)?.length! > 0, true, errors);
    return JSON.parse(output);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

interface Span {
  name: string;
  id: string;
  parent?: string;
  trace: string;
  kind: number;
  failed: boolean;
  links: string[];
  attributes: Record<string, string | number>;
}

interface Metric {
  name: string;
  unit: string;
  points: { attributes: Record<string, string>; value: number | { count: number; sum: number } }[];
}

// Other runtimes find the package by its name only if it is installed.
const skip = process.versions.deno === undefined && "only Deno finds this package by its name";

describe("docs/observability.md", { skip, timeout: 300_000 }, () => {
  it("OpenTelemetry gets a trace of each update, and the metrics", async () => {
    const prepare = `
import { context, metrics, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality, InMemoryMetricExporter, MeterProvider, PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import pg from "pg";
const spans = new InMemorySpanExporter();
const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(
  new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter: spans })] }),
);
metrics.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }));
// A span of an instrumentation of the driver, and a deadlock of the first claim.
const { query } = pg.Client.prototype;
let deadlocks = 0;
pg.Client.prototype.query = function (...args) {
  const { text = "", values } = args[0];
  if (typeof args[1] === "function") trace.getTracer("pg").startSpan("query").end();
  if (/AS claim/.test(text) && values !== undefined && typeof args[1] === "function" && deadlocks++ === 0) {
    return args[1](Object.assign(new Error("deadlock detected"), { code: "40P01" }));
  }
  return query.apply(this, args);
};
const own = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 1 });
const steal = (user) =>
  own.query({ text: 'UPDATE "telegraf-sessions" SET lease = $1 WHERE key = $2', values: ["thief", user + ":" + user] });
`;
    const inspect = `async () => {
  await own.end();
  await reader.forceFlush();
  const [{ scopeMetrics }] = exporter.getMetrics().slice(-1);
  return {
    deadlocks,
    spans: spans.getFinishedSpans().map((span) => ({
      name: span.name,
      id: span.spanContext().spanId,
      trace: span.spanContext().traceId,
      parent: span.parentSpanContext?.spanId,
      kind: span.kind,
      failed: span.status.code === 2,
      links: span.links.map((link) => link.context.spanId),
      attributes: span.attributes,
    })),
    metrics: scopeMetrics.flatMap(({ metrics }) => metrics.map((it) => ({
      name: it.descriptor.name,
      unit: it.descriptor.unit,
      points: it.dataPoints,
    }))),
  };
}`;
    // In a schema of its own the table is always new, and no other test uses it.
    const schema = newPlace();
    await query(`CREATE SCHEMA "${schema}"`);
    const url = new URL(serverUrl("postgres"));
    url.searchParams.set("options", `-c search_path=${schema}`);
    const found = await run(program("OpenTelemetry"), main(prepare, inspect), {
      DATABASE_URL: url.href,
    }).finally(() => query(`DROP SCHEMA "${schema}" CASCADE`));
    const { spans, metrics } = found as { spans: Span[]; metrics: Metric[] };
    const byId = new Map(spans.map((span) => [span.id, span]));
    const named = (name: string) => spans.filter((span) => span.name === name);

    // The update is the root. Below it are exclusive(), and below that what session() calls.
    const updates = named("update message");
    assert.equal(updates.length, 2 * users.length + 1);
    assert.equal(new Set(updates.map((span) => span.trace)).size, updates.length);
    const place = "telegraf-sessions";
    for (
      const [name, parent] of [["exclusive", "update message"], ["get", "exclusive"], [
        "set",
        "exclusive",
      ]]
    ) {
      const all = named(`${name} ${place}`);
      assert.equal(all.length, updates.length);
      for (const span of all) {
        assert.match(byId.get(span.parent!)!.name, new RegExp(`^${parent}`));
        assert.equal(span.kind, 0);
        assert.match(`${span.attributes["telegraf_session.key"]}`, /^[\da-f]{16}$/);
      }
    }

    // The leases of several users travel together, below the first update and with links to the others.
    const [claim] = named(`BATCH claim ${place}`);
    const size = Number(claim!.attributes["db.operation.batch.size"]);
    assert.ok(size > 1 && size <= users.length);
    assert.equal(claim!.kind, 2);
    assert.equal(claim!.attributes["db.system.name"], "postgresql");
    assert.equal(claim!.attributes["db.collection.name"], place);
    const claimed = [claim!.parent!, ...claim!.links].map((id) => byId.get(id)!);
    assert.deepEqual(claimed.map(({ name }) => name), Array(size).fill(`exclusive ${place}`));
    assert.equal(new Set(claimed.map(({ trace }) => trace)).size, size);

    // Queries are below their batch. (Deno loses the asynchronous context in callbacks of sockets.)
    const above = named("query").map(({ parent }) => byId.get(parent ?? "")?.name);
    assert.ok(above.includes(`open ${place}`), above.join());
    assert.ok(found.deadlocks > 1);

    // One update has lost its lease.
    const failed = spans.filter((span) => span.failed);
    assert.deepEqual(failed.map(({ name }) => name), [`exclusive ${place}`]);
    assert.equal(failed[0]!.attributes["error.type"], "LeaseError");

    // No ID of a user is in what was exported.
    for (const user of users) assert.equal(JSON.stringify(found).includes(`${user}`), false);

    const metric = (name: string) => {
      const all = metrics.filter((it) => it.name === name);
      assert.equal(all.length, 1, name);
      return all[0]!;
    };
    const total = (name: string, attributes: Record<string, string> = {}) =>
      metric(name).points
        .filter((it) =>
          Object.entries(attributes).every(([key, value]) => it.attributes[key] === value)
        )
        .reduce((sum, { value }) => sum + (typeof value === "number" ? value : value.count), 0);
    const ofGet = { "db.operation.name": "get" };
    assert.equal(total("telegraf_session.operation.duration", ofGet), updates.length);
    assert.equal(total("telegraf_session.operation.duration", { "error.type": "LeaseError" }), 1);
    assert.equal(metric("db.client.operation.duration").unit, "s");
    const batches = spans.filter((span) => span.kind === 2);
    assert.equal(total("db.client.operation.duration"), batches.length);
    assert.equal(total("telegraf_session.batch.size"), batches.length);
    assert.equal(total("telegraf_session.batch.retries"), 1);
    assert.equal(total("telegraf_session.lease.lost"), 1);
    const documented = [...document.matchAll(/^\| `((?:db|telegraf_session)\.[\w.]+)`/gm)];
    assert.deepEqual(
      documented.map(([, name]) => name).toSorted(),
      metrics.map((it) => it.name).toSorted(),
    );
  });

  it("Prometheus gets the metrics that the dashboard shows", async () => {
    const prepare = `
import { createClient } from "redis";
const own = createClient({ url: process.env.REDIS_URL });
await own.connect();
const steal = async (user) => {
  const leases = (await own.keys("*" + user + ":" + user + "*")).filter((key) => /lease/.test(key));
  for (const key of leases) await own.set(key, "thief", { expiration: "KEEPTTL" });
};
`;
    const inspect = `async () => {
  for (const user of users) await own.del(await own.keys("*" + user + "*"));
  await own.close();
  const { register } = await import("prom-client");
  const url = "http://127.0.0.1:" + process.env.METRICS_PORT;
  const response = await fetch(url);
  return { type: response.headers.get("content-type"), metrics: await response.text() };
}`;
    const { type, metrics } = await run(program("Prometheus"), main(prepare, inspect), {
      REDIS_URL: serverUrl("redis"),
      METRICS_PORT: `${await freePort()}`,
    }) as { type: string; metrics: string };
    assert.match(type, /^text\/plain/);
    const sum = (name: string, labels = "") =>
      metrics.split("\n")
        .filter((line) => line.startsWith(`${name}{`) && line.includes(labels))
        .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
    const updates = 2 * users.length + 1;
    const durations = "telegraf_session_operation_duration_seconds_count";
    assert.equal(sum(durations, 'operation="get"'), updates);
    assert.equal(sum(durations, 'operation="exclusive"'), updates);
    assert.equal(sum(durations, 'error="LeaseError"'), 1);
    assert.equal(
      sum("telegraf_session_lease_wait_seconds_count", 'operation="exclusive"'),
      updates,
    );
    assert.equal(sum("telegraf_session_leases_lost_total"), 1);
    assert.ok(metrics.includes("telegraf_session_retries_total{"));
    assert.ok(sum("telegraf_session_batch_keys_sum", 'operation="claim"') >= users.length);
    assert.ok(sum("telegraf_session_batch_duration_seconds_count", 'system="redis"') > 0);
    for (const user of users) assert.equal(metrics.includes(`${user}`), false);

    const dashboard = JSON.parse(readFileSync(join(root, "docs/grafana.json"), "utf8"));
    const queries: string[] = dashboard.panels.flatMap((panel: { targets: { expr: string }[] }) =>
      panel.targets.map(({ expr }) => expr)
    );
    queries.push(...dashboard.templating.list.map(({ query }: { query: string }) => query));
    const shown = new Set(queries.flatMap((query) => query.match(/telegraf_session_\w+/g) ?? []));
    assert.ok(shown.size >= 8);
    const emitted = (name: string) =>
      metrics.split("\n").filter((line) => line.startsWith(`${name}{`));
    for (const name of shown) assert.ok(emitted(name).length > 0, `nothing emits ${name}`);
    const labels = new Set(
      [...metrics.matchAll(/(\w+)="/g)].map(([, label]) => label!),
    );
    for (const query of queries) {
      const used = [...query.matchAll(/by \(([\w, ]+)\)|[{,] ?(\w+)(?:=~|!=)/g)]
        .flatMap(([, names, name]) => names?.split(", ") ?? [name!]);
      for (const label of used) {
        assert.ok(labels.has(label), `${query} has an unknown label ${label}`);
      }
    }
    const made = [...metrics.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name!);
    for (const name of made) {
      assert.ok([...shown].some((it) => it.startsWith(name)), `no panel shows ${name}`);
    }
  });
});

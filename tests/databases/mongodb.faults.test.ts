/** Tests of MongoDB under faults. */

import { Buffer } from "node:buffer";
import process from "node:process";
import { it } from "node:test";
import { BSON, MongoClient } from "mongodb";
import { Mongo } from "../../mongodb.ts";
import { withTLS } from "../support/certificate.ts";
import { type FaultHarness, faults, ownServer, patiently, urlWith } from "../suites/faults.ts";
import { Proxy } from "../support/proxy.ts";
import { serverUrl } from "../support/servers.ts";

const kind = process.env.TEST_MONGODB_KIND;
const ferretdb = kind === "ferretdb";

/** Returns the reply of a former primary to a write, and undefined for other requests. */
function notPrimary(request: Buffer): Buffer | undefined {
  const isMessage = request.length > 21 && request.readInt32LE(12) === 2013 && request[20] === 0;
  if (!isMessage) return undefined;
  const size = request.readInt32LE(21);
  const [command] = Object.keys(BSON.deserialize(request.subarray(21, 21 + size)));
  if (!/^(update|insert|delete)$/.test(command!)) return undefined;
  const answer = { ok: 0, code: 10107, codeName: "NotWritablePrimary", errmsg: "not primary" };
  const body = BSON.serialize(answer);
  const head = Buffer.alloc(21);
  head.writeInt32LE(21 + body.length, 0);
  request.copy(head, 8, 4, 8);
  head.writeInt32LE(2013, 12);
  return Buffer.concat([head, body]);
}

const harness: FaultHarness = {
  name: "MongoDB",
  backend: ["mongodb", "Mongo"],
  start: () => ownServer("mongodb"),
  options: (url, collection) => ({ url, collection }) as object,
  store: (options) => Mongo(options as { url: string }),
  // Without a replica set, MongoDB acknowledges writes before they are in its journal.
  durable: ferretdb || kind === "documentdb",
  noLeases: ferretdb ? "FerretDB 1 cannot change a document atomically" : undefined,
  async peek(url, collection, key) {
    const client = new MongoClient(url);
    try {
      return (await client.db().collection(collection).findOne({ key }))?.session;
    } finally {
      await client.close();
    }
  },
  broken: {
    "a wrong password": {
      options: (url) => ({ url: urlWith(url, { username: "user", password: "s3cret" }) }),
      error: /auth/i,
    },
    "a host that does not exist": {
      options: () => ({ url: "mongodb://user:s3cret@nowhere.invalid" }),
      error: /ENOTFOUND|EAI_AGAIN|timed out/,
    },
    "a server without TLS": {
      options: (url) => ({
        url: urlWith(url, { username: "u", password: "s3cret", search: "tls=true" }),
      }),
      error: /./,
    },
    "a server of another kind": {
      options: () => ({
        url: urlWith(serverUrl("redis"), { username: "u", password: "s3cret" }).replace(
          "redis:",
          "mongodb:",
        ),
      }),
      error: /./,
    },
  },
  refuseWrites(_url, proxy, refuse) {
    proxy.answer = refuse ? notPrimary : undefined;
    return Promise.resolve();
  },
  /** A client with one connection, which is busy with a command of another caller. */
  async exhaust({ url }, { place: collection, timeout }) {
    const proxy = await Proxy.to(url);
    const client = new MongoClient(urlWith(url, { host: proxy.host }), { maxPoolSize: 1 });
    const store = Mongo({ client, collection, timeout });
    await patiently(() => store.set("k", 0));
    proxy.pause();
    const waiting = client.db().command({ ping: 1 });
    return {
      store,
      async release() {
        proxy.resume();
        await waiting;
      },
      async close() {
        await client.close();
        await proxy[Symbol.asyncDispose]();
      },
    };
  },
  async secure({ url }) {
    const secured = await withTLS(url);
    const at = urlWith(url, { host: secured.host, search: "tls=true" });
    return {
      ...secured,
      options: (collection, tls) => ({ url: at, collection, config: tls }),
      [Symbol.asyncDispose]: () => secured[Symbol.asyncDispose](),
    };
  },
};

// On Bun, a command that is sent while its connection ends gets no reply and no error before its
// deadline.
const skip = "on Bun the driver does not notice lost connections";
if ("bun" in process.versions) it(`MongoDB survives faults (${skip})`, { skip }, () => {});
else faults(harness);

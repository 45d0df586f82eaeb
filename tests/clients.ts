/**
 * Not run, only type-checked: the clients of every supported version of the drivers are taken as
 * they are, and so are the drivers' options.
 */

import * as redis4 from "redis4";
import * as redis5 from "redis5";
import * as redis6 from "redis";
import { Redis } from "../redis.ts";

const rootNodes = [{ url: "redis://localhost" }];
const sentinel = { name: "main", sentinelRootNodes: [{ host: "localhost", port: 26379 }] };

Redis({ client: redis4.createClient() });
Redis({ client: redis4.createClient({ url: "redis://localhost" }).on("error", console.error) });
Redis({ client: redis4.createCluster({ rootNodes }) });

Redis({ client: redis5.createClient() });
Redis({ client: redis5.createClient({ RESP: 3 }) });
Redis({ client: redis5.createClientPool() });
Redis({ client: redis5.createCluster({ rootNodes }) });
Redis({ client: redis5.createSentinel(sentinel) });

Redis({ client: redis6.createClient() });
Redis({ client: redis6.createClient({ RESP: 2, database: 1 }).on("error", console.error) });
Redis({ client: redis6.createClientPool() });
Redis({ client: redis6.createCluster({ rootNodes }) });
Redis({ client: redis6.createSentinel(sentinel) });

const options: redis6.RedisClientOptions = { name: "bot", socket: { tls: true } };
Redis({ url: "rediss://localhost", config: options });
Redis({ config: { RESP: 2, socket: { reconnectStrategy: false } } });

// @ts-expect-error: no client
Redis({ client: new Map<string, string>() });
// @ts-expect-error: no option of node-redis
Redis({ config: { nmae: "bot" } });

/** TLS with a self-signed certificate for localhost and 127.0.0.1. */

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { createServer as createTLSServer } from "node:tls";

export const key = `
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEod3ZHTnFQOpgoF8
XwDr3nNtSU7tgweBJbRDAF8JkCKhRANCAARyputQPwL4YCFAPYEJ9gZFy6lrm6pm
NJO+bPMlbhY6ICv+EXMw5d0idi2ZuW2snMTuzdlBDu37AtkGfDhZ1KV1
-----END PRIVATE KEY-----
`.trim();

export const cert = `
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUG5NDAyGlzTfjdArsd5L2zIuY06YwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDA5MjIwOFoYDzIxMjYxMDMx
MDkyMjA4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARyputQPwL4YCFAPYEJ9gZFy6lrm6pmNJO+bPMlbhY6ICv+EXMw5d0i
di2ZuW2snMTuzdlBDu37AtkGfDhZ1KV1o28wbTAdBgNVHQ4EFgQUKQdqDpt6dX0W
jWT2JXiTRl1jCuwwHwYDVR0jBBgwFoAUKQdqDpt6dX0WjWT2JXiTRl1jCuwwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgApCQn+K1QJIdLJFEvQmnN9RaeuqJUlj2++zsiF2VOWMCIEBA
MD0pDFgI9U0VoA6wbTgrC4Fat4bffOMthAxcNrZQ
-----END CERTIFICATE-----
`.trim();

/** A certificate for db.example.com, and the certificate of the authority that signed it. */
export const named = {
  ca: `
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUL/ZpBLX4igtHBmznLKY3HVjpVFAwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPQ0Egb2YgdGhlIHRlc3RzMCAXDTI2MTEyNTIzMzIwM1oYDzIx
MjYxMTAxMjMzMjAzWjAaMRgwFgYDVQQDDA9DQSBvZiB0aGUgdGVzdHMwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAARLadY+PpqpSodGVKj4gaazqc60IQFtWHPXJaQA
7qTutyRA9LBUAtLFswtg2FECAxGazuVutvVG0rnuRX3JxIRho2MwYTAdBgNVHQ4E
FgQUQYX70Kt2YSvXNXB/vkRLd1s4f7swHwYDVR0jBBgwFoAUQYX70Kt2YSvXNXB/
vkRLd1s4f7swDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZI
zj0EAwIDRwAwRAIga8xuCyevNo9ffRfjvj3lQiHernJwGsHm+bEjNXcKx0sCIHNd
i7ZyL6rDIVOWj5eEEP4wED42MTzrZV/JYCgjphQW
-----END CERTIFICATE-----
`.trim(),
  key: `
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJp0HGZGJAHh3IeeW
XgbYs3Fgrs17ep7WlMYWtKTLPCShRANCAAQkBsd9t8TbZfX7Q1PnOyYs57E9i9fK
hkvYtaOV9dBxu8zQPhiKFrCj5vus0JyP5hMZv4hg/fFSuBcD9QrFj1ng
-----END PRIVATE KEY-----
`.trim(),
  cert: `
-----BEGIN CERTIFICATE-----
MIIBtDCCAVqgAwIBAgIUHlXuj7xKHBI+j9Nu1H5PyNwxMpgwCgYIKoZIzj0EAwIw
GjEYMBYGA1UEAwwPQ0Egb2YgdGhlIHRlc3RzMCAXDTI2MTEyNTIzMzIwM1oYDzIx
MjYxMTAxMjMzMjAzWjAZMRcwFQYDVQQDDA5kYi5leGFtcGxlLmNvbTBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABCQGx323xNtl9ftDU+c7JiznsT2L18qGS9i1o5X1
0HG7zNA+GIoWsKPm+6zQnI/mExm/iGD98VK4FwP1CsWPWeCjfTB7MBkGA1UdEQQS
MBCCDmRiLmV4YW1wbGUuY29tMAkGA1UdEwQCMAAwEwYDVR0lBAwwCgYIKwYBBQUH
AwEwHQYDVR0OBBYEFNDql3e8wu66CEKr00B1sA66uVQyMB8GA1UdIwQYMBaAFEGF
+9CrdmEr1zVwf75ES3dbOH+7MAoGCCqGSM49BAMCA0gAMEUCIQC6vPaWzJKi/ipS
2IrTiJuo1t54wyyIig0VWb2rHVQqfAIgcogIHkJf80sQbwaQPez+6U7Aoh2b6t8O
AMWZhbW0N8g=
-----END CERTIFICATE-----
`.trim(),
};

/**
 * Gives a server TLS with a certificate.
 *
 * @param url the server, which does not use TLS itself.
 * @param asked true if clients connect without TLS and then ask for it, as PostgreSQL's do.
 * @param pair the certificate and its key.
 */
export async function withTLS(
  url: string,
  asked = false,
  pair = { key, cert },
): Promise<{ host: string } & AsyncDisposable> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  const join = (near: Socket, far: Socket) => {
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far).pipe(near);
  };
  const secure = createTLSServer(
    pair,
    (near) => join(near, connect(Number(port), hostname)),
  );
  secure.on("tlsClientError", () => {});
  const open = createServer((near) =>
    near.on("error", () => {}).once("data", () => {
      near.write("S"); // yes
      join(near, connect(portOf(secure), "127.0.0.1"));
    })
  );
  const servers = asked ? [secure, open] : [secure];
  for (const server of servers) await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    host: `127.0.0.1:${portOf(servers.at(-1)!)}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}

function portOf(server: Server): number {
  return (server.address() as { port: number }).port;
}

import { Postgres } from "@telegraf/session/pg";

const { hostname, port, pathname, username, password } = new URL(process.env.POSTGRES_URL!);

export const makeStore = <Session>() =>
  Postgres<Session>({
    host: hostname,
    port: Number(port),
    database: pathname.slice(1),
    user: username,
    password,
  });

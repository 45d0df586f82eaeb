import { MySQL } from "@telegraf/session/mysql";

const { hostname, port, pathname, username, password } = new URL(process.env.MYSQL_URL!);

export const makeStore = <Session>() =>
  MySQL<Session>({
    host: hostname,
    port: Number(port),
    database: pathname.slice(1),
    user: username,
    password,
  });

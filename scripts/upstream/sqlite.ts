import { SQLite } from "@telegraf/session/sqlite";

export const makeStore = <Session>() => SQLite<Session>({ filename: "./telegraf-sessions.sqlite" });

import { Mongo } from "@telegraf/session/mongodb";

export const makeStore = <Session>() =>
  Mongo<Session>({ url: process.env.MONGODB_URL!, database: "telegraf-bot" });

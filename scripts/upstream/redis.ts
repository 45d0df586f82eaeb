import { Redis } from "@telegraf/session/redis";

export const makeStore = <Session>() => Redis<Session>({ url: process.env.REDIS_URL! });

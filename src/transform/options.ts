/**
 * The options that change how sessions are stored: `encrypt`, `codec`, `version` and `migrate`.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { types } from "node:util";
import { type EncryptOptions, type Rules, rules, type StoreOptions } from "../options.ts";
import { checkOptions, described } from "../validation.ts";

const encryptRules: Rules<EncryptOptions> = {
  keys: {
    type: "object",
    expected: "an array of keys",
    secret: true,
  },
  required: rules.flag,
};

/**
 * Checks the parts of the options that their rules do not check.
 *
 * @param name the factory's name, for messages.
 * @throws {TypeError} if an option cannot work.
 */
export function checkTransforms(name: string, options: StoreOptions): void {
  const { encrypt, codec, version, migrate, onNewer } = options;
  const refuse = (option: string, why: string) => {
    throw new TypeError(`${name}: option "${option}" ${why}`);
  };
  if (encrypt !== undefined) checkEncrypt(name, encrypt, refuse);
  if (codec !== undefined) checkCodec(codec, refuse);
  if (version !== undefined) checkSteps(version, migrate ?? {}, refuse);
  else if (migrate !== undefined) refuse("migrate", 'needs the option "version"');
  else if (onNewer !== undefined) refuse("onNewer", 'needs the option "version"');
}

type Refuse = (option: string, why: string) => void;

function checkEncrypt(name: string, encrypt: EncryptOptions, refuse: Refuse): void {
  checkOptions(`${name}: encrypt`, encrypt, encryptRules);
  const { keys } = encrypt;
  if (!Array.isArray(keys) || keys.length === 0) {
    refuse("encrypt.keys", "must be an array with at least one key");
  }
  const texts = keys.map((key, i) => {
    const bytes = keyBytes(key);
    const found = bytes !== undefined
      ? `has ${bytes.length} bytes`
      : `is ${described(key)}${typeof key === "string" ? " that is not base64" : ""}`;
    if (bytes?.length !== 32) {
      const expected = "must have keys of 32 random bytes, as base64 or KeyObject";
      refuse("encrypt.keys", `${expected}, but key ${i + 1} ${found}`);
    }
    return bytes!.toString("base64");
  });
  if (new Set(texts).size < texts.length) refuse("encrypt.keys", "has the same key twice");
}

/** The bytes of a key; `undefined` if it is no key. */
export function keyBytes(key: EncryptOptions["keys"][number]): Buffer | undefined {
  if (typeof key === "string") {
    return /^[\w+/-]+={0,2}$/.test(key) ? Buffer.from(key, "base64") : undefined;
  }
  return key?.type === "secret" ? key.export() : undefined;
}

function checkCodec(codec: NonNullable<StoreOptions["codec"]>, refuse: Refuse): void {
  for (const name of ["encode", "decode"] as const) {
    if (typeof codec[name] !== "function") refuse("codec", `must have the function ${name}`);
  }
  const made = attempt(() => codec.encode({}));
  if (made === undefined) return;
  if (typeof made !== "string" && !types.isUint8Array(made)) {
    refuse("codec", `must encode to text or a Uint8Array, but made ${described(made)}`);
  }
  const session = attempt(() => codec.decode(made));
  if (types.isPromise(session)) refuse("codec", "must decode without a promise");
}

/** The result of a function that may need more than an empty session; `undefined` if it throws. */
function attempt(work: () => unknown): unknown {
  try {
    return work();
  } catch {
    return undefined;
  }
}

function checkSteps(
  version: number,
  migrate: NonNullable<StoreOptions["migrate"]>,
  refuse: Refuse,
): void {
  for (let step = 1; step <= version; step++) {
    const change = migrate[step];
    if (change === undefined) refuse("migrate", `has no step ${step}; version is ${version}`);
    if (typeof change !== "function") {
      refuse("migrate", `must have functions, but step ${step} is ${described(change)}`);
    }
    if (change!.constructor.name === "AsyncFunction") {
      refuse("migrate", `must have synchronous functions, but step ${step} is asynchronous`);
    }
  }
  const other = Object.keys(migrate).find((step) =>
    !(Number(step) >= 1 && Number(step) <= version && String(Number(step)) === step)
  );
  if (other !== undefined) refuse("migrate", `has a step ${other}; version is ${version}`);
}

/**
 * Sessions in plain form, and the values that the database stores.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Backend, Entry, Packing } from "../backend.ts";
import { type Header, headerText, parseHeader, type Plain, unreadable } from "../codec/header.ts";
import { encodeError } from "../errors.ts";
import type { StoreOptions } from "../options.ts";
import { Cipher } from "./cipher.ts";
import { textPacking } from "./packing.ts";

/** Converts entries between both forms. */
export class StoredValues<Encoded> {
  readonly #packing: Packing<Encoded>;
  readonly #cipher: Cipher | undefined;
  readonly #required: boolean;
  /** Whether the store has the option `codec`. */
  readonly #ownCodec: boolean;

  constructor({ packing, place }: Backend<Encoded>, { encrypt, codec }: StoreOptions) {
    this.#packing = packing ?? textPacking as unknown as Packing<Encoded>;
    this.#cipher = encrypt && new Cipher(encrypt, place);
    this.#required = encrypt?.required ?? false;
    this.#ownCodec = codec !== undefined;
  }

  /** The plain form of an entry. Never throws, because other entries of the batch may be fine. */
  readonly plain = ({ key, value, expires }: Entry<Encoded>): Entry<Plain<Encoded>> => ({
    key,
    value: this.#open(key, value),
    expires,
  });

  /**
   * The entry as it is stored.
   *
   * @throws {Error} if its content could not be read.
   */
  readonly stored = ({ key, value, expires }: Entry<Plain<Encoded>>): Entry<Encoded> => {
    if (value.problem !== undefined) throw value.problem;
    return { key, value: this.#close(key, value), expires };
  };

  #open(key: string, stored: Encoded): Plain<Encoded> {
    let header: Header = { version: 0 };
    try {
      const { header: text, body } = this.#packing.split(stored);
      if (text !== "") header = parseHeader(text, key);
      const content = header.keyId === undefined
        ? this.#plainContent(header, body)
        : this.#decrypted(header, text, body, key);
      const hasNewestKey = header.keyId === this.#cipher?.keyId;
      const outdated = !hasNewestKey || (header.form !== undefined) !== this.#ownCodec;
      return { ...header, content, stored, hasNewestKey, outdated };
    } catch (problem) {
      return { ...header, content: "", stored, problem: problem as Error };
    }
  }

  #plainContent({ form }: Header, body: Encoded | Uint8Array): Plain<Encoded>["content"] {
    if (this.#required) throw new Error("it is not encrypted");
    if (form === "text") return this.#packing.text(body);
    return form === "bytes" ? this.#packing.bytes(body) : body as Encoded;
  }

  #decrypted(header: Header, text: string, body: Encoded | Uint8Array, key: string) {
    const { form, keyId } = header;
    if (!this.#cipher?.has(keyId!)) {
      const why = `it is encrypted with key ${keyId}, and none of the keys in "encrypt" fits`;
      throw unreadable(why, key);
    }
    const bytes = this.#cipher.decrypt(this.#packing.bytes(body), key, text, keyId!);
    if (form === "bytes") return bytes;
    return form === "text" ? bytes.toString() : this.#packing.deserialize(bytes);
  }

  #close(key: string, { version, form, content }: Plain<Encoded>): Encoded {
    const cipher = this.#cipher;
    const header = headerText({ version, form, keyId: cipher?.keyId });
    if (cipher === undefined) return this.#packing.join(header, content);
    const bytes = form === undefined
      ? this.#serialized(key, content as Encoded)
      : Buffer.from(content as Uint8Array);
    return this.#packing.join(header, cipher.encrypt(bytes, key, header));
  }

  #serialized(key: string, session: Encoded): Uint8Array {
    try {
      return this.#packing.serialize(session);
    } catch (cause) {
      throw encodeError(key, cause);
    }
  }
}

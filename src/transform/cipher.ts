/**
 * AES-256-GCM for sessions. Each session of each table, collection or prefix has its own key, derived with
 * HKDF, so that a stored value fits nowhere else, and the limit of about four billion random nonces per key
 * is one per session.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from "node:crypto";
import type { EncryptOptions } from "../options.ts";
import { keyBytes } from "../validation.ts";

const algorithm = "aes-256-gcm";
const nonceLength = 12;
const tagLength = 16;

/** Encrypts with the newest key, and decrypts with all of them. */
export class Cipher {
  /** The ID of the newest key. */
  readonly keyId: string;
  /** What the keys of sessions are derived from, by ID. */
  readonly #keys: ReadonlyMap<string, Buffer>;
  readonly #place: string;

  /** @param place the name of the table, collection or prefix. */
  constructor({ keys }: EncryptOptions, place: string) {
    const all = keys.map(keyBytes) as Buffer[];
    this.keyId = idOf(all[0]!);
    this.#keys = new Map(all.map((key) => [idOf(key), key] as const).reverse());
    this.#place = place;
  }

  /** Whether one of the keys has the ID. */
  has(keyId: string): boolean {
    return this.#keys.has(keyId);
  }

  /**
   * Encrypts with the newest key. Returns nonce, ciphertext and tag.
   *
   * @param header authenticated, but not encrypted.
   */
  encrypt(plain: Uint8Array, key: string, header: string): Buffer {
    const nonce = randomBytes(nonceLength);
    const cipher = createCipheriv(algorithm, this.#sessionKey(this.keyId, key), nonce);
    cipher.setAAD(Buffer.from(header));
    return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  }

  /** @throws {Error} if the value, its header, its session key or its place is another one. */
  decrypt(stored: Buffer, key: string, header: string, keyId: string): Buffer {
    const end = stored.length - tagLength;
    try {
      const nonce = stored.subarray(0, nonceLength);
      const options = { authTagLength: tagLength };
      const decipher = createDecipheriv(algorithm, this.#sessionKey(keyId, key), nonce, options);
      decipher.setAAD(Buffer.from(header));
      decipher.setAuthTag(stored.subarray(end));
      return Buffer.concat([decipher.update(stored.subarray(nonceLength, end)), decipher.final()]);
    } catch (cause) {
      const why =
        "it is not what was encrypted for this session, or it was encrypted for another " +
        "table, collection or prefix";
      throw new Error(why, { cause });
    }
  }

  #sessionKey(keyId: string, key: string): Uint8Array {
    // A hash because the info of HKDF has at most 1,024 bytes.
    const info = createHash("sha256").update(`telegraf-session\0${this.#place}\0${key}`).digest();
    return new Uint8Array(hkdfSync("sha256", this.#keys.get(keyId)!, "", info, 32));
  }
}

/** An ID that says nothing about the key. */
function idOf(key: Uint8Array): string {
  return createHash("sha256").update("telegraf-session key").update(key).digest("hex").slice(0, 8);
}

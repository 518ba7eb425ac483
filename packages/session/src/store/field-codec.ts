import { createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { type Cipher, open, seal, sizeOfSealed } from './cipher.js'
import type { SessionToken } from './token.js'

/** How one session's fields are stored. */
export interface FieldCodec {
  encode(field: string, text: string): string
  /** @throws if it was not written by `encode` for this session and field */
  decode(field: string, stored: string): string
  /** Bytes of the text that is stored so. */
  sizeOf(stored: string): number
  /** With encryption: the key of the data, sealed under a token's verifier. */
  wrapFor?(token: SessionToken): string
}

const REMEMBERED = 10_000

/**
 * Encryption of sessions. Each has a data key of its own. Redis holds that key sealed under HKDF(secret, verifier). So neither Redis nor the
 * server can read the data without the cookie, and a renewal seals one short text again instead of the whole session.
 */
export class SessionEncryption {
  readonly #wrapping: Cipher
  readonly #keyOf: (token: SessionToken) => string
  readonly #opened = new LRUCache<string, FieldCodec>({ max: REMEMBERED })

  /** @param keyOf the name of the session in Redis, which every sealed text is bound to */
  constructor(wrapping: Cipher, keyOf: (token: SessionToken) => string) {
    this.#wrapping = wrapping
    this.#keyOf = keyOf
  }

  /** For a new session. */
  create(token: SessionToken): FieldCodec {
    return this.#codec(token, randomBytes(32))
  }

  /** @throws if the key was not sealed for this token */
  open(token: SessionToken, wrapped: string): FieldCodec {
    const id = `${token.value} ${wrapped}`
    const known = this.#opened.get(id)
    if (known) return known
    const codec = this.#codec(token, this.#wrapping.open(token.verifier, this.#bound(token), wrapped))
    this.#opened.set(id, codec)
    return codec
  }

  #bound(token: SessionToken): string {
    return `${this.#keyOf(token)}\n@k`
  }

  #codec(token: SessionToken, raw: Buffer): FieldCodec {
    const key: KeyObject = createSecretKey(raw)
    const bound = (field: string): string => `${this.#keyOf(token)}\n${field}`
    return {
      encode: (field, text) => seal(key, bound(field), text).toString('base64'),
      decode: (field, stored) => open(key, bound(field), Buffer.from(stored, 'base64')).toString('utf8'),
      sizeOf: sizeOfSealed,
      wrapFor: (next) => this.#wrapping.seal(next.verifier, this.#bound(next), raw)
    }
  }
}

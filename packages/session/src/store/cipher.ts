import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes
} from 'node:crypto'
import type { Secret } from '@flotilla/core'
import { LRUCache } from 'lru-cache'
import { keyIdOf, listSecrets, type OneSecret } from './secrets.js'

const IV = 12
const TAG = 16
const KEY_ID_BYTES = 3
const CACHED_KEYS = 10_000

/** The text was sealed with a secret that is not listed here: another instance may be able to read it. */
export class UnknownSecret extends Error {}

/**
 * AES-256-GCM: iv, text and tag.
 * @param bound authenticated with the text: a sealed text is worthless anywhere else
 */
export function seal(key: KeyObject, bound: string, text: string | Buffer): Buffer {
  const iv = randomBytes(IV)
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(bound))
  const body = typeof text === 'string' ? cipher.update(text, 'utf8') : cipher.update(text)
  return Buffer.concat([iv, body, cipher.final(), cipher.getAuthTag()])
}

/** @throws if it was sealed otherwise */
export function open(key: KeyObject, bound: string, body: Buffer): Buffer {
  if (body.length < IV + TAG) throw new Error('too short to be sealed text')
  const decipher = createDecipheriv('aes-256-gcm', key, body.subarray(0, IV), { authTagLength: TAG })
    .setAAD(Buffer.from(bound))
    .setAuthTag(body.subarray(body.length - TAG))
  return Buffer.concat([decipher.update(body.subarray(IV, body.length - TAG)), decipher.final()])
}

/** Bytes of the text in it, which need not be opened for that. */
export function sizeOfSealed(base64: string): number {
  return Math.max(0, Buffer.byteLength(base64, 'base64') - IV - TAG)
}

interface Root {
  readonly keyId: string
  readonly secret: OneSecret
  readonly keys: LRUCache<string, KeyObject>
}

/** Seals under keys made from a secret and something that is not stored beside the sealed text. */
export class Cipher {
  readonly #roots: readonly Root[]
  readonly #purpose: string

  /** @param purpose bound into the keys */
  constructor(secret: Secret, purpose: string) {
    this.#purpose = purpose
    this.#roots = listSecrets(secret).map((one) => ({
      keyId: keyIdOf(one),
      secret: one,
      keys: new LRUCache({ max: CACHED_KEYS })
    }))
  }

  /** @param material what the key is made from besides the secret, such as a verifier */
  seal(material: string, bound: string, text: string | Buffer): string {
    const newest = this.#roots[0]!
    const sealed = seal(this.#keyOf(newest, material), bound, text)
    return newest.keyId + sealed.toString('base64')
  }

  /** @throws UnknownSecret, or an error if the text was sealed otherwise */
  open(material: string, bound: string, sealed: string): Buffer {
    const keyId = sealed.slice(0, (KEY_ID_BYTES * 4) / 3)
    const root = this.#roots.find((one) => one.keyId === keyId)
    if (!root) throw new UnknownSecret('sealed with a secret that is not listed')
    return open(
      this.#keyOf(root, material),
      bound,
      Buffer.from(sealed.slice((KEY_ID_BYTES * 4) / 3), 'base64')
    )
  }

  #keyOf(root: Root, material: string): KeyObject {
    const known = root.keys.get(material)
    if (known) return known
    const key = createSecretKey(Buffer.from(hkdfSync('sha256', root.secret, material, this.#purpose, 32)))
    root.keys.set(material, key)
    return key
  }
}

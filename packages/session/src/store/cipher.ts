import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  type KeyObject,
  createSecretKey,
  hkdfSync,
  randomBytes
} from 'node:crypto'
import type { Secret } from '@flotilla/core'
import { listSecrets } from './keys.js'

/** Seals texts with AES-256-GCM under keys made from a secret and something that is not stored beside them. */
export interface Cipher {
  /**
   * @param material what the key is made from besides the secret, such as a session's id
   * @param bound authenticated with the text: a sealed text is worthless anywhere else
   */
  seal(material: string, bound: string, text: string): string
  /** @throws where the text was sealed otherwise, or with a secret that is no longer listed */
  open(material: string, bound: string, sealed: string): string
  /** Bytes of the text in it, which need not be opened for that. */
  sizeOf(sealed: string): number
}

const IV = 12
const TAG = 16
const KEY_ID = 4
const CACHED_KEYS = 10_000

/** @param purpose bound into the keys */
export function createCipher(secret: Secret, purpose: string): Cipher {
  const roots = listSecrets(secret).map((one) => ({
    // Names the secret without telling anything about it, so that rotation finds the one to use.
    id: createHmac('sha256', one).update('flotilla:session-key-id').digest('base64url').slice(0, KEY_ID),
    secret: one,
    keys: new Map<string, KeyObject>()
  }))
  const newest = roots[0]!

  const keyOf = (root: typeof newest, material: string): KeyObject => {
    const known = root.keys.get(material)
    if (known) return known
    const key = createSecretKey(Buffer.from(hkdfSync('sha256', root.secret, material, purpose, 32)))
    if (root.keys.size >= CACHED_KEYS) root.keys.clear()
    root.keys.set(material, key)
    return key
  }

  return {
    seal(material, bound, text) {
      const iv = randomBytes(IV)
      const cipher = createCipheriv('aes-256-gcm', keyOf(newest, material), iv).setAAD(Buffer.from(bound))
      const body = Buffer.concat([iv, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
      return newest.id + body.toString('base64')
    },
    open(material, bound, sealed) {
      const id = sealed.slice(0, KEY_ID)
      const root = roots.find((one) => one.id === id)
      if (!root) throw new Error('sealed with a secret that is not listed')
      const body = Buffer.from(sealed.slice(KEY_ID), 'base64')
      if (body.length < IV + TAG) throw new Error('too short to be sealed text')
      const decipher = createDecipheriv('aes-256-gcm', keyOf(root, material), body.subarray(0, IV), {
        authTagLength: TAG
      })
        .setAAD(Buffer.from(bound))
        .setAuthTag(body.subarray(body.length - TAG))
      return decipher.update(body.subarray(IV, body.length - TAG), undefined, 'utf8') + decipher.final('utf8')
    },
    sizeOf: (sealed) =>
      Math.max(0, Buffer.byteLength(sealed, 'base64') - Buffer.byteLength(newest.id, 'base64') - IV - TAG)
  }
}

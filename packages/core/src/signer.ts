import { createHmac, timingSafeEqual } from 'node:crypto'

/** One secret, or several with the newest first: the first signs, all verify (rotation). */
export type Secret = string | Buffer | readonly (string | Buffer)[]

/** Signs short texts with HMAC-SHA-256 and checks them in constant time. */
export interface Signer {
  /** `value.mac`, the MAC in base64url, 43 characters. */
  sign(value: string): string
  /**
   * The value and whether an older secret signed it (`renew`: sign it again), or `undefined` for anything
   * that no secret of ours signed.
   */
  verify(signed: string): { value: string; renew: boolean } | undefined
}

const MAC_LENGTH = 43

/**
 * Makes a signer from one secret or several.
 *
 * @param purpose bound into each MAC, so that a value signed for one use is worthless for another even
 *   where both share a secret.
 */
export function createSigner(secret: Secret, purpose: string): Signer {
  const keys = (
    Array.isArray(secret) ? (secret as readonly (string | Buffer)[]) : [secret as string | Buffer]
  ).map((one) => createHmac('sha256', one).update(`flotilla:${purpose}`).digest())
  const mac = (key: Buffer, value: string): Buffer => createHmac('sha256', key).update(value).digest()
  return {
    sign(value) {
      return `${value}.${mac(keys[0]!, value).toString('base64url')}`
    },
    verify(signed) {
      const dot = signed.length - MAC_LENGTH - 1
      if (dot < 0 || signed.charCodeAt(dot) !== 46) return undefined
      const given = Buffer.from(signed.slice(dot + 1), 'base64url')
      // The last character carries only 4 bits: reject the spellings that decode to the same bytes.
      if (given.length !== 32 || given.toString('base64url') !== signed.slice(dot + 1)) return undefined
      const value = signed.slice(0, dot)
      for (const [index, key] of keys.entries()) {
        if (timingSafeEqual(mac(key, value), given)) return { value, renew: index > 0 }
      }
      return undefined
    }
  }
}

import { createSigner, type ConsistencyToken, type Secret } from '@flotilla/core'
import type { Lsn } from './lsn.js'

/** A point in one cluster's history: everything committed up to it must be visible. */
export interface Position {
  /** `system_identifier` of the cluster. */
  readonly systemId: bigint
  /** Grows by one at each promotion. */
  readonly timeline: number
  readonly lsn: Lsn
}

/** Turns positions into opaque tokens and back. */
export interface TokenCodec {
  encode(position: Position): ConsistencyToken
  /** `undefined` for anything this codec did not issue: forged, truncated, foreign or empty. */
  decode(token: unknown): Position | undefined
}

/** Whether `a` covers everything that `b` does. Positions of two clusters cover nothing of each other. */
export function covers(a: Position, b: Position): boolean {
  if (a.systemId !== b.systemId) return false
  // A promotion keeps all that survived it below its own first position, so a later timeline covers earlier ones.
  return a.timeline > b.timeline || (a.timeline === b.timeline && a.lsn >= b.lsn)
}

/** The one that covers both; of two clusters the second, which came later. */
export function laterOf(a: Position | undefined, b: Position): Position {
  return a && covers(a, b) ? a : b
}

const BYTES = 20
const LENGTH = 27
const SIGNED_LENGTH = LENGTH + 1 + 43

/**
 * A token is 20 bytes in base64url, with a MAC if there is a secret: a browser may carry it but can not
 * make one up that would send its reads to the primary.
 */
export function createTokenCodec(secret: Secret | undefined): TokenCodec {
  const signer = secret === undefined ? undefined : createSigner(secret, 'db-token')
  // The text of the last position encoded: one position is often handed out many times.
  let last: { position: Position; token: string } | undefined
  return {
    encode(position) {
      if (last?.position === position) return last.token
      const bytes = Buffer.allocUnsafe(BYTES)
      bytes.writeBigUInt64BE(position.systemId, 0)
      bytes.writeUInt32BE(position.timeline, 8)
      bytes.writeBigUInt64BE(position.lsn, 12)
      const text = bytes.toString('base64url')
      const token = signer ? signer.sign(text) : text
      last = { position, token }
      return token
    },
    decode(token) {
      // Most of what others make up costs no hash.
      if (typeof token !== 'string' || token.length !== (signer ? SIGNED_LENGTH : LENGTH)) return undefined
      const text = signer ? signer.verify(token)?.value : token
      if (text === undefined) return undefined
      const bytes = Buffer.from(text, 'base64url')
      if (bytes.length !== BYTES || bytes.toString('base64url') !== text) return undefined
      const timeline = bytes.readUInt32BE(8)
      if (timeline === 0) return undefined
      return { systemId: bytes.readBigUInt64BE(0), timeline, lsn: bytes.readBigUInt64BE(12) }
    }
  }
}

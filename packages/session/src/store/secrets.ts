import { createHmac } from 'node:crypto'
import type { Secret } from '@flotilla/core'

export type OneSecret = string | Buffer

export function listSecrets(secret: Secret): readonly OneSecret[] {
  return Array.isArray(secret) ? (secret as readonly OneSecret[]) : [secret as OneSecret]
}

/** Names a secret without disclosing anything about it, so that rotation finds the one to use. */
export function keyIdOf(secret: OneSecret): string {
  return createHmac('sha256', secret).update('flotilla:session-key-id').digest('base64url').slice(0, 4)
}

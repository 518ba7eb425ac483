import { createHmac } from 'node:crypto'
import type { Secret } from '@flotilla/core'
import { ERR_USER_ID } from '../errors.js'

/** Where a user's sessions live: the same slot for all of them, so that one script can change them together. */
export interface Owner {
  /** Four hex digits of an HMAC of the user id: the hash tag of every key of this user. */
  readonly tag: string
  /** The rest of that HMAC. Redis never sees who it is. */
  readonly userHash: string
}

/** Names of the keys in Redis. */
export interface Keys {
  session(tag: string, hash: string): string
  /** ZSET of a user's session references, scored with their expiry. */
  index(owner: Owner): string
  /** HASH of what a page of "your devices" shows. */
  devices(owner: Owner): string
  /**
   * A user's places, one for each secret with the newest first: sessions opened under a secret that has
   * since been rotated out of first place are found where they were put.
   */
  owners(userId: string): Owner[]
}

export function createKeys(prefix: string, secret: Secret): Keys {
  const secrets = listSecrets(secret).map((one) =>
    createHmac('sha256', one).update('flotilla:session-user').digest()
  )
  return {
    session: (tag, hash) => `${prefix}s:{${tag}}:${hash}`,
    index: ({ tag, userHash }) => `${prefix}u:{${tag}}:${userHash}`,
    devices: ({ tag, userHash }) => `${prefix}d:{${tag}}:${userHash}`,
    owners(userId) {
      if (typeof userId !== 'string' || userId === '') {
        throw new ERR_USER_ID(userId === '' ? 'an empty string' : userId === null ? 'null' : typeof userId)
      }
      return secrets.map((key) => {
        const mac = createHmac('sha256', key).update(userId).digest()
        return { tag: mac.toString('hex', 0, 2), userHash: mac.toString('base64url', 2, 26) }
      })
    }
  }
}

export function listSecrets(secret: Secret): readonly (string | Buffer)[] {
  return Array.isArray(secret) ? (secret as readonly (string | Buffer)[]) : [secret as string | Buffer]
}

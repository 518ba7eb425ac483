import { createHmac } from 'node:crypto'
import type { Secret } from '@flotilla/core'
import { LRUCache } from 'lru-cache'
import { detail, ERR_USER_ID } from '../errors.js'
import { listSecrets } from './secrets.js'

/** Where a user's sessions live: the same slot for all of them, so that one script can change them together. */
export interface Owner {
  /** Four hex digits of an HMAC of the user id: the hash tag of every key of this user. */
  readonly tag: string
  /** The rest of that HMAC. Redis never sees who it is. */
  readonly userHash: string
}

/** Where a session is, for its whole life. */
export interface SessionKey {
  readonly tag: string
  /** SHA-256 of the selector. */
  readonly ref: string
  readonly userHash: string | undefined
}

const LONGEST_USER_ID = 1_024
const REMEMBERED = 10_000

/** Names of the keys in Redis. */
export class Keys {
  readonly #prefix: string
  readonly #secrets: readonly Buffer[]
  readonly #owners = new LRUCache<string, readonly Owner[]>({ max: REMEMBERED })

  constructor(prefix: string, secret: Secret) {
    this.#prefix = prefix
    this.#secrets = listSecrets(secret).map((one) =>
      createHmac('sha256', one).update('flotilla:session-user').digest()
    )
  }

  session({ tag, ref }: Pick<SessionKey, 'tag' | 'ref'>): string {
    return `${this.#prefix}s:{${tag}}:${ref}`
  }

  /** ZSET of a user's session references, scored with their expiry. */
  index({ tag, userHash }: Owner): string {
    return `${this.#prefix}u2:{${tag}}:${userHash}`
  }

  /** HASH of what a page of "your devices" shows. */
  devices({ tag, userHash }: Owner): string {
    return `${this.#prefix}d2:{${tag}}:${userHash}`
  }

  /** The session's key, and with a user those of the user's index and devices. */
  all({ tag, ref, userHash }: SessionKey): string[] {
    const session = this.session({ tag, ref })
    if (userHash === undefined) return [session]
    return [session, this.index({ tag, userHash }), this.devices({ tag, userHash })]
  }

  /**
   * A user's places, one for each secret with the newest first: sessions opened under a secret that has
   * since been rotated out of first place are found where they were put.
   *
   * @throws FLOTILLA_SESSION_ERR_USER_ID
   */
  owners(userId: string): readonly Owner[] {
    assertUserId(userId)
    const known = this.#owners.get(userId)
    if (known) return known
    const owners = this.#secrets.map((key) => {
      const mac = createHmac('sha256', key).update(userId).digest()
      return { tag: mac.toString('hex', 0, 2), userHash: mac.toString('base64url', 2, 26) }
    })
    this.#owners.set(userId, owners)
    return owners
  }

  /** Whether a session that says to be this user's is where one of that user's sessions can be. */
  belongsTo(userId: string, { tag, userHash }: SessionKey): boolean {
    return this.owners(userId).some((owner) => owner.tag === tag && owner.userHash === userHash)
  }
}

function assertUserId(userId: unknown): void {
  let got: string
  if (typeof userId !== 'string') got = userId === null ? 'null' : typeof userId
  else if (userId === '') got = 'an empty string'
  else if (userId.length <= LONGEST_USER_ID && Buffer.byteLength(userId) <= LONGEST_USER_ID) return
  else got = `one of ${Buffer.byteLength(userId)} bytes`
  throw new ERR_USER_ID(
    detail(
      `a user id must be a non-empty string of at most ${LONGEST_USER_ID} bytes, got ${got}; convert numeric ids with String(id)`
    )
  )
}

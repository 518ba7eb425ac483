import { createHash, randomBytes } from 'node:crypto'
import { createSigner, type Secret } from '@flotilla/core'
import { LRUCache } from 'lru-cache'

/** What a cookie says: which slot, which id. Holding one is being logged in; it never leaves the process but as a cookie. */
export interface Ticket {
  /** Four hex digits: random before login, the user's after it. */
  readonly tag: string
  /** 192 random bits in base64url. */
  readonly id: string
  /** SHA-256 of the id, in base64url: what Redis knows it by. */
  readonly hash: string
  /** The cookie's value. */
  readonly value: string
  /** Signed by an older secret: to be signed again. */
  readonly renew: boolean
}

export interface Ticketing {
  /** @param tag the user's, or none for a random one */
  issue(tag?: string): Ticket
  /** The ticket of an id of ours, signed anew. */
  restore(tag: string, id: string): Ticket
  /** A ticket for a value that one of the secrets signed; `undefined` for anything else. */
  verify(value: string): Ticket | undefined
}

const ID_BYTES = 24
// tag, dot, id, dot, MAC
const VALUE_LENGTH = 4 + 1 + 32 + 1 + 43
const BODY = /^[\da-f]{4}\.[\w-]{32}$/
const REMEMBERED = 10_000

/** @param name the cookie's base name, bound into the MAC: a value is worthless under another name */
export function createTicketing(secret: Secret, name: string): Ticketing {
  const signer = createSigner(secret, `session:${name}`)
  // Verified values only, so that a busy browser's cookie is hashed once and garbage never displaces it.
  const verified = new LRUCache<string, Ticket>({ max: REMEMBERED })

  const restore = (tag: string, id: string): Ticket => ({
    tag,
    id,
    hash: createHash('sha256').update(id).digest('base64url'),
    value: signer.sign(`${tag}.${id}`),
    renew: false
  })

  return {
    restore,
    issue: (tag = randomBytes(2).toString('hex')) =>
      restore(tag, randomBytes(ID_BYTES).toString('base64url')),
    verify(value) {
      if (value.length !== VALUE_LENGTH) return undefined
      const known = verified.get(value)
      if (known) return known
      const signed = signer.verify(value)
      if (!signed || !BODY.test(signed.value)) return undefined
      const [tag = '', id = ''] = signed.value.split('.')
      const ticket: Ticket = {
        tag,
        id,
        hash: createHash('sha256').update(id).digest('base64url'),
        value,
        renew: signed.renew
      }
      verified.set(value, ticket)
      return ticket
    }
  }
}

import { createHash, randomBytes } from 'node:crypto'
import { createSigner, type Secret, type Signer } from '@flotilla/core'
import { LRUCache } from 'lru-cache'
import { keyIdOf, listSecrets } from './secrets.js'

/** What a cookie says. Holding one is being logged in; it leaves the process only as a cookie. */
export interface SessionToken {
  /** Four hex digits: random before login, the user's after it. */
  readonly tag: string
  /** 144 random bits in base64url: names the session for its whole life. */
  readonly selector: string
  /** 144 random bits in base64url: opens the session until it is renewed. */
  readonly verifier: string
  /** Which of the session's verifiers it is, counted from 1. */
  readonly generation: number
  /** SHA-256 of the selector in base64url: what Redis knows the session by, and its public reference. */
  readonly ref: string
  /** SHA-256 of the verifier in base64url. */
  readonly verifierHash: string
  /** The cookie's value. */
  readonly value: string
  /** Signed by an older secret: to be signed again. */
  readonly outdated: boolean
}

const RANDOM_BYTES = 18
const MAC_LENGTH = 43
// tag.selector.verifier.generation.key id.MAC
const LAYOUT = /^([\da-f]{4})\.([\w-]{24})\.([\w-]{24})\.([1-9]\d{0,14})\.([\w-]{4})\.[\w-]{43}$/
const SHORTEST = 4 + 24 + 24 + 1 + 4 + MAC_LENGTH + 5
const LONGEST = SHORTEST + 14
const REMEMBERED = 10_000

const sha256 = (text: string): string => createHash('sha256').update(text).digest('base64url')
const random = (): string => randomBytes(RANDOM_BYTES).toString('base64url')

interface KeyedSigner {
  readonly keyId: string
  readonly signer: Signer
}

/** Issues and verifies the tokens of one cookie. */
export class SessionTokens {
  readonly #signers: readonly KeyedSigner[]
  // Verified values only, so that a busy browser's cookie is hashed once and garbage never displaces it.
  readonly #verified = new LRUCache<string, SessionToken>({ max: REMEMBERED })

  /** @param name the cookie's base name, bound into the MAC: a value is worthless under another name */
  constructor(secret: Secret, name: string) {
    this.#signers = listSecrets(secret).map((one) => ({
      keyId: keyIdOf(one),
      signer: createSigner(one, `session:${name}`)
    }))
  }

  /** The first token of a new session. */
  issue(tag = randomBytes(2).toString('hex')): SessionToken {
    return this.#make({ tag, selector: random(), verifier: random(), generation: 1 })
  }

  /** A token for the next generation of the same session. */
  next({ tag, selector, generation }: SessionToken): SessionToken {
    return this.#make({ tag, selector, verifier: random(), generation: generation + 1 })
  }

  /** The next token, when its verifier is known. */
  successor({ tag, selector, generation }: SessionToken, verifier: string): SessionToken {
    return this.#make({ tag, selector, verifier, generation: generation + 1 })
  }

  /** The same token, signed by the newest secret. */
  resign(token: SessionToken): SessionToken {
    return this.#make(token)
  }

  /** The token of a value that one of the secrets signed; `undefined` for anything else. */
  verify(value: string): SessionToken | undefined {
    const known = this.#verified.get(value)
    if (known) return known
    if (value.length < SHORTEST || value.length > LONGEST) return undefined
    const match = LAYOUT.exec(value)
    if (!match) return undefined
    const [, tag = '', selector = '', verifier = '', generation = '', keyId = ''] = match
    for (const [index, one] of this.#signers.entries()) {
      if (one.keyId !== keyId || !one.signer.verify(value)) continue
      const token: SessionToken = {
        tag,
        selector,
        verifier,
        generation: Number(generation),
        ref: sha256(selector),
        verifierHash: sha256(verifier),
        value,
        outdated: index > 0
      }
      this.#verified.set(value, token)
      return token
    }
    return undefined
  }

  /** The id of the secret that a value names, if it is none of ours: signed by another secret, or made up. */
  foreignKeyId(value: string): string | undefined {
    if (value.length > LONGEST) return undefined
    const keyId = LAYOUT.exec(value)?.[5]
    return keyId === undefined || this.#signers.some((one) => one.keyId === keyId) ? undefined : keyId
  }

  #make(of: Pick<SessionToken, 'tag' | 'selector' | 'verifier' | 'generation'>): SessionToken {
    const { tag, selector, verifier, generation } = of
    const { keyId, signer } = this.#signers[0]!
    return {
      tag,
      selector,
      verifier,
      generation,
      ref: sha256(selector),
      verifierHash: sha256(verifier),
      value: signer.sign([tag, selector, verifier, generation, keyId].join('.')),
      outdated: false
    }
  }
}

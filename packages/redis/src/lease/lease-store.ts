import { withTimeout } from '@flotilla/core'
import { waitForReplicas } from '../durability.js'
import { commandTimeoutOf, type RedisClient } from '../redis-client.js'
import { defineScript } from '../script.js'
import { hashTag } from '../slots.js'
import { acquireLua } from './lua/acquire.js'
import { releaseLua } from './lua/release.js'
import { renewLua } from './lua/renew.js'

const acquireScript = defineScript<[token: string, leftMs: number, holder: string]>({
  name: 'lease-acquire',
  keys: 2,
  lua: acquireLua
})
const renewScript = defineScript<number>({ name: 'lease-renew', keys: 2, lua: renewLua })
const releaseScript = defineScript<number>({ name: 'lease-release', keys: 1, lua: releaseLua })

/** The last token of a lease that no instance takes is forgotten after this; the server's time keeps tokens growing from then on. */
const TOKEN_MEMORY_MS = 7 * 86_400_000

export interface HeldElsewhere {
  /** Its holder. */
  readonly heldBy: string
  readonly leftMs: number
}

export interface LeaseStoreOptions {
  /** Differs for each try to take the lease. */
  readonly holder: string
  readonly ttlMs: number
  /** How many of them must confirm each change. */
  readonly replicas: number
}

/** One lease in Redis, as one holder sees it. */
export class LeaseStore {
  readonly #client: RedisClient
  readonly #keys: readonly [lease: string, token: string]
  readonly #holder: string
  readonly #ttlMs: number
  readonly #replicas: number

  constructor(client: RedisClient, name: string, { holder, ttlMs, replicas }: LeaseStoreOptions) {
    this.#client = client
    this.#keys = [hashTag(`flotilla:lease:${name}`, 'holder'), hashTag(`flotilla:lease:${name}`, 'token')]
    this.#holder = holder
    this.#ttlMs = ttlMs
    this.#replicas = replicas
  }

  async acquire(): Promise<{ readonly token: number } | HeldElsewhere> {
    const args = [this.#holder, this.#ttlMs, this.#ttlMs + TOKEN_MEMORY_MS]
    const [token, leftMs, heldBy] = await this.#bounded(acquireScript.run(this.#client, this.#keys, args))
    if (token === '') return { heldBy, leftMs }
    await this.#confirm()
    return { token: Number(token) }
  }

  /** False if the lease is no longer this holder's. */
  async renew(): Promise<boolean> {
    const args = [this.#holder, this.#ttlMs, this.#ttlMs + TOKEN_MEMORY_MS]
    const renewed = await this.#bounded(renewScript.run(this.#client, this.#keys, args))
    if (renewed !== 1) return false
    await this.#confirm()
    return true
  }

  async release(stayMs: number): Promise<void> {
    const [lease] = this.#keys
    await this.#bounded(releaseScript.run(this.#client, [lease], [this.#holder, Math.ceil(stayMs)]))
  }

  async #confirm(): Promise<void> {
    if (this.#replicas === 0) return
    const timeout = commandTimeoutOf(this.#client)
    await waitForReplicas(this.#client, { key: this.#keys[0], replicas: this.#replicas, timeout })
  }

  /** A client of the app's own may have no limit. */
  #bounded<T>(reply: Promise<T>): Promise<T> {
    const timeout = commandTimeoutOf(this.#client)
    return withTimeout(reply, timeout)
  }
}

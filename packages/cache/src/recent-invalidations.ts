import type { Unsent } from './outbox.js'
import type { Address } from './remote.js'

/** How long an invalidation is kept after Redis has taken it, in milliseconds. */
const KEPT_MS = 30_000
const MAX_ITEMS = 50_000

/**
 * The invalidations that this instance made in the last 30 seconds and Redis has acknowledged. Redis replicates
 * asynchronously: a replica that is promoted may lack the last of them. They are sent again after each reconnect, failover
 * and gap. Sent twice, an invalidation costs a miss.
 *
 * Two generations of 30 seconds each: the older one is dropped as a whole. More than 50,000 items become one
 * invalidation of everything, which is more than was asked for and never less.
 */
export class RecentInvalidations {
  #young = new Batch()
  #old = new Batch()
  #turnedAt = performance.now()

  add(what: {
    keys?: readonly Address[]
    tags?: readonly string[]
    after?: string | undefined
    ns?: string
  }): void {
    this.#turn()
    for (const address of what.keys ?? []) this.#young.keys.set(address.id, address)
    for (const tag of what.tags ?? []) this.#young.tags.set(tag, what.after)
    if (what.ns !== undefined) this.#young.namespaces.add(what.ns)
    this.#young.bound()
  }

  /** All that is younger than 30 seconds, and perhaps what is younger than 60. */
  all(): Unsent {
    this.#turn()
    return {
      keys: [...new Map([...this.#old.keys, ...this.#young.keys]).values()],
      tags: new Map([...this.#old.tags, ...this.#young.tags]),
      namespaces: new Set([...this.#old.namespaces, ...this.#young.namespaces])
    }
  }

  #turn(): void {
    const now = performance.now()
    const age = now - this.#turnedAt
    if (age < KEPT_MS) return
    this.#old = age < 2 * KEPT_MS ? this.#young : new Batch()
    this.#young = new Batch()
    this.#turnedAt = now
  }
}

class Batch {
  readonly keys = new Map<string, Address>()
  readonly tags = new Map<string, string | undefined>()
  readonly namespaces = new Set<string>()

  bound(): void {
    if (this.keys.size + this.tags.size + this.namespaces.size <= MAX_ITEMS) return
    this.keys.clear()
    this.tags.clear()
    this.namespaces.clear()
    this.namespaces.add('')
  }
}

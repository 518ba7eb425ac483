import type { Address } from './remote.js'

/** Invalidations that Redis or the bus did not take. */
export interface Unsent {
  readonly keys: readonly Address[]
  /** Tags with the consistency token they were invalidated with. */
  readonly tags: ReadonlyMap<string, string | undefined>
  /** Namespaces to clear. */
  readonly namespaces: ReadonlySet<string>
}

const MAX_ITEMS = 10_000

/**
 * Keeps invalidations that could not be sent and sends them again until they are taken. An outage
 * that outgrows it ends in clearing everything: more than was asked for, never less.
 */
export class Outbox {
  #keys = new Map<string, Address>()
  #tags = new Map<string, string | undefined>()
  #namespaces = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #sending: Promise<number> | undefined
  #closed = false
  readonly #send: (unsent: Unsent) => Promise<void>
  readonly #retryMs: number

  constructor(send: (unsent: Unsent) => Promise<void>, retryMs: number) {
    this.#send = send
    this.#retryMs = retryMs
  }

  get size(): number {
    return this.#keys.size + this.#tags.size + this.#namespaces.size
  }

  addKeys(addresses: readonly Address[]): void {
    for (const address of addresses) this.#keys.set(address.id, address)
    this.#added()
  }

  addTags(tags: readonly string[], after: string | undefined): void {
    for (const tag of tags) this.#tags.set(tag, after)
    this.#added()
  }

  addNamespace(ns: string): void {
    this.#namespaces.add(ns)
    this.#added()
  }

  /** Sends what is kept; the number of items sent. Rejects, keeping them, where it fails again. */
  flush(): Promise<number> {
    this.#sending ??= this.#flush().finally(() => (this.#sending = undefined))
    return this.#sending
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  async #flush(): Promise<number> {
    const count = this.size
    if (count === 0) return 0
    const unsent = { keys: [...this.#keys.values()], tags: this.#tags, namespaces: this.#namespaces }
    this.#keys = new Map()
    this.#tags = new Map()
    this.#namespaces = new Set()
    try {
      await this.#send(unsent)
      return count
    } catch (error) {
      for (const address of unsent.keys) this.#keys.set(address.id, address)
      for (const [tag, after] of unsent.tags) if (!this.#tags.has(tag)) this.#tags.set(tag, after)
      for (const ns of unsent.namespaces) this.#namespaces.add(ns)
      throw error
    }
  }

  #added(): void {
    if (this.size > MAX_ITEMS) {
      this.#keys.clear()
      this.#tags.clear()
      this.#namespaces = new Set([''])
    }
    if (this.#timer !== undefined || this.#closed) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.flush().then(
        () => undefined,
        () => (this.size > 0 ? this.#added() : undefined)
      )
    }, this.#retryMs)
    this.#timer.unref()
  }
}

import { leaseEvent } from '../channels.js'
import { RedisLeaseLostError } from '../errors.js'
import { withoutArguments } from '../reply-error.js'
import type { LeaseStore } from './lease-store.js'

/** What the work under a lease gets. */
export interface Lease {
  /** The name that `withLease` was given. */
  readonly name: string
  /**
   * Greater than that of every holder before. **Only a resource that refuses a token smaller than the greatest it has seen is
   * safe from two holders**: a process that was paused does not notice at once that its lease has passed to another.
   */
  readonly token: number
  /** Aborted when the lease is lost, and when the instance drains or closes: end the work, or stop changing anything. */
  readonly signal: AbortSignal
  /** For how long the lease is certain to last even if it is not renewed; 0 once it is lost. */
  readonly remainingMs: number
  /**
   * Call it right before each effect: unlike the signal, it needs no turn of the event loop to notice that time is over.
   *
   * @throws FLOTILLA_REDIS_ERR_LEASE_LOST
   */
  assertHeld(): void
}

export interface HeldLeaseOptions {
  readonly name: string
  readonly token: number
  readonly ttlMs: number
  /** `performance.now()` before the lease was asked for. */
  readonly askedAt: number
}

/** The longest pause between two tries to renew while Redis does not answer, in milliseconds. */
const MAX_RETRY_MS = 1_000
/** Of the time to live: how much faster the server's clock may run than this process's. */
const CLOCK_DRIFT = 0.01

/**
 * A lease that was acquired.
 *
 * ```
 * held ── deadline passed, or Redis says that it is another's ──► lost
 *   └──── end(): the work is over, or left behind at close ─────► ended
 * ```
 *
 * Invariants: the deadline is monotonic time. It counts from before the command that took or renewed the lease was *sent*, so
 * Redis keeps the key for longer than this process relies on it. What is lost stays lost. In state `held` exactly one of a
 * renewal and the timer before it is under way. A renewal that is answered after `lost` or `ended` changes nothing.
 */
export class HeldLease implements Lease {
  readonly name: string
  readonly token: number
  readonly #store: LeaseStore
  readonly #ttlMs: number
  readonly #askedAt: number
  readonly #controller = new AbortController()
  #state: 'held' | 'lost' | 'ended' = 'held'
  #deadline = 0
  #expiry: NodeJS.Timeout | undefined
  #renewal: NodeJS.Timeout | undefined
  #retryMs = 0
  #lastError: unknown
  #loss: Error | undefined

  constructor(store: LeaseStore, { name, token, ttlMs, askedAt }: HeldLeaseOptions) {
    this.name = name
    this.token = token
    this.#store = store
    this.#ttlMs = ttlMs
    this.#askedAt = askedAt
    leaseEvent.publish({ name, token, event: 'acquired' })
    this.#extend(askedAt)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get remainingMs(): number {
    return this.#state === 'lost' ? 0 : Math.max(0, this.#deadline - performance.now())
  }

  /** Why it is lost, once it is. */
  get loss(): Error | undefined {
    return this.#loss
  }

  /** Milliseconds since the lease was asked for. */
  get heldMs(): number {
    return performance.now() - this.#askedAt
  }

  // Works too if it was taken out of the object.
  readonly assertHeld = (): void => {
    if (this.#state === 'held' && performance.now() >= this.#deadline) this.#lose(this.#expired())
    if (this.#loss) throw this.#loss
  }

  /** Asks the work to end; the lease is renewed until it has. */
  stop(reason: unknown): void {
    this.#controller.abort(reason)
  }

  /** Renews no more, and gives the lease back unless it is lost. */
  async end(stayMs: number): Promise<void> {
    this.leave()
    if (!this.#loss)
      leaseEvent.publish({ name: this.name, token: this.token, event: 'released', heldMs: this.heldMs })
    // Also one that is lost: perhaps only its renewals failed, and the next holder need not wait for its end.
    await this.#store.release(stayMs)
  }

  /** Renews no more. The lease lapses by itself: work that goes on must not overlap with that of the next holder. */
  leave(): void {
    clearTimeout(this.#expiry)
    clearTimeout(this.#renewal)
    if (this.#state === 'held') this.#state = 'ended'
  }

  #extend(since: number): void {
    this.#deadline = since + this.#ttlMs * (1 - CLOCK_DRIFT)
    this.#retryMs = 0
    this.#lastError = undefined
    clearTimeout(this.#expiry)
    const left = this.#deadline - performance.now()
    if (left <= 0) return this.#lose(this.#expired())
    this.#expiry = setTimeout(() => this.#lose(this.#expired()), left).unref()
    this.#renewIn(this.#ttlMs / 3)
  }

  #renewIn(delay: number): void {
    this.#renewal = setTimeout(() => void this.#renew(), delay).unref()
  }

  async #renew(): Promise<void> {
    const sentAt = performance.now()
    try {
      const renewed = await this.#store.renew()
      if (this.#state !== 'held') return
      if (renewed) this.#extend(sentAt)
      else this.#lose(new Error('Redis no longer has it, or has given it to another instance'))
    } catch (error) {
      if (this.#state !== 'held') return
      this.#lastError = withoutArguments(error)
      this.#retryMs = Math.min(MAX_RETRY_MS, this.#ttlMs / 10, Math.max(50, this.#retryMs * 2))
      this.#renewIn(this.#retryMs)
    }
  }

  #expired(): Error {
    return new Error('it was not renewed in time', { cause: this.#lastError })
  }

  #lose(cause: Error): void {
    if (this.#state !== 'held') return
    this.#state = 'lost'
    clearTimeout(this.#expiry)
    clearTimeout(this.#renewal)
    const message = `@flotilla/redis: the lease '${this.name}' is lost: ${cause.message}`
    this.#loss = new RedisLeaseLostError(message, { cause })
    leaseEvent.publish({
      name: this.name,
      token: this.token,
      event: 'lost',
      heldMs: this.heldMs,
      error: cause
    })
    this.#controller.abort(this.#loss)
  }
}

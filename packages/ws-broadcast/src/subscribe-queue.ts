interface Waiting {
  readonly begin: () => void
  readonly refuse: (error: Error) => void
  /** In `performance.now()`. */
  readonly since: number
}

/** Subscribes of one instance that may be under way in Redis at once. */
const MAX_RUNNING = 256
/** In milliseconds. If Redis fails, subscribes that have waited longer are refused: they would fail too, and later. */
const PATIENCE_MS = 5000
/** `retryAfter` of a refused subscribe in milliseconds: `first`, and `each` for every subscribe that waits, at most `most`. */
const RETRY_AFTER = { first: 1000, each: 1, most: 30_000 }

/** Redis failed while this subscribe waited for its turn. */
class OverloadedError extends Error {}

/**
 * Bounds the subscribes that are under way in Redis at once. When an instance dies, its clients come to the others and
 * subscribe to all their channels in the same second. Without a bound Redis could not answer all of them within a command's
 * deadline, and they would fail and be tried again.
 *
 * Connections take turns: each begins one subscribe, then the next connection does. So a client beside a storm waits for one
 * subscribe of each other client, not for all of them. The subscribes of one connection begin in the order of their requests.
 */
export class SubscribeQueue {
  #running = 0
  #waiting = 0
  /** The connections with waiting subscribes, in the order of their turns. */
  readonly #connections = new Map<object, Waiting[]>()

  /** How many milliseconds a client that is refused now should wait. */
  get retryAfterMs(): number {
    const { first, each, most } = RETRY_AFTER
    return Math.min(most, first + each * this.#waiting)
  }

  /** Runs `work` in its turn. Rejects as `work` does, or with {@link OverloadedError} if Redis fails before its turn. */
  async run(connection: object, work: () => Promise<void>): Promise<void> {
    if (this.#running < MAX_RUNNING) this.#running += 1
    else await this.#turn(connection)
    try {
      await work()
    } finally {
      this.#next()
    }
  }

  /** Redis failed: refuses the subscribes that have waited for long. */
  failed(): void {
    const before = performance.now() - PATIENCE_MS
    for (const [connection, queue] of this.#connections) {
      const late = queue.findIndex(({ since }) => since > before)
      const refused = queue.splice(0, late === -1 ? queue.length : late)
      this.#waiting -= refused.length
      if (queue.length === 0) this.#connections.delete(connection)
      for (const { refuse } of refused) refuse(new OverloadedError('Redis failed while this waited'))
    }
  }

  #turn(connection: object): Promise<void> {
    return new Promise((begin, refuse) => {
      const waiting = { begin, refuse, since: performance.now() }
      const queue = this.#connections.get(connection)
      if (queue) queue.push(waiting)
      else this.#connections.set(connection, [waiting])
      this.#waiting += 1
    })
  }

  /** Hands the place of a subscribe that has ended to the next connection. */
  #next(): void {
    const [first] = this.#connections
    if (!first) {
      this.#running -= 1
      return
    }
    const [connection, queue] = first
    const { begin } = queue.shift()!
    this.#waiting -= 1
    this.#connections.delete(connection)
    if (queue.length > 0) this.#connections.set(connection, queue)
    begin()
  }
}

/** How far two clocks may drift apart: NTP slews each by up to 500 millionths (RFC 5905), perhaps in opposite directions. */
const DRIFT = 0.001
/** Redis gives whole milliseconds. */
const RESOLUTION_MS = 1

/**
 * The clock of Redis, as known here: its offset to this process's monotonic clock, `performance.now()`. Deadlines that Redis
 * keeps are compared with this clock, so that instances whose own clocks disagree agree on them.
 *
 * A reply that carries the time was made between sending the command and receiving the reply: the offset lies within
 * these bounds, and never outside. The bounds of further replies narrow it, drift widens it. A reply whose bounds do not
 * touch those known says that the clock of Redis was set, or that another server answers: it alone counts then (after
 * F. Cristian, "Probabilistic clock synchronization", 1989).
 */
export class RedisClock {
  #low = Number.NEGATIVE_INFINITY
  #high = Number.POSITIVE_INFINITY
  /** By `performance.now()`. */
  #observedAt = Number.NEGATIVE_INFINITY
  /** The middle of the bounds; until the first reply, that of this machine's own clock. */
  #offset = Date.now() - performance.now()

  /** Milliseconds since the last reply that carried the time; `Infinity` if there was none. */
  get ageMs(): number {
    return performance.now() - this.#observedAt
  }

  /** By how much {@link now} may be wrong, in milliseconds; `Infinity` until the first reply. */
  get uncertaintyMs(): number {
    return (this.#high - this.#low) / 2 + this.#driftMs(performance.now())
  }

  /**
   * Learns from a reply that carries the time. Call it when the reply has arrived.
   *
   * @param redisMs milliseconds since 1970
   * @param sentAt when its command was sent, by `performance.now()`
   */
  observe(redisMs: number, sentAt: number): void {
    if (!Number.isFinite(redisMs) || !Number.isFinite(sentAt)) return
    const now = performance.now()
    const [low, high] = [redisMs - now, redisMs + RESOLUTION_MS - sentAt]
    const drift = this.#driftMs(now)
    this.#low = Math.max(low, this.#low - drift)
    this.#high = Math.min(high, this.#high + drift)
    if (this.#low > this.#high) {
      this.#low = low
      this.#high = high
    }
    this.#offset = (this.#low + this.#high) / 2
    this.#observedAt = now
  }

  /** Milliseconds since 1970. */
  now(): number {
    return performance.now() + this.#offset
  }

  /** A time of Redis as one of `performance.now()`. */
  toLocal(redisMs: number): number {
    return redisMs - this.#offset
  }

  /** A time of `performance.now()` as one of Redis. */
  toRedis(localMs: number): number {
    return localMs + this.#offset
  }

  #driftMs(now: number): number {
    return this.#observedAt === Number.NEGATIVE_INFINITY ? 0 : (now - this.#observedAt) * DRIFT
  }
}

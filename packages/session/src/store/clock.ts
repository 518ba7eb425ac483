/**
 * Redis's clock, as far as it is known here: the last time that a script reported, plus what a monotonic clock has
 * counted since. It decides only whether a deadline is worth moving; deadlines themselves are kept by Redis.
 */
export class RedisClock {
  #offset = Date.now() - performance.now()

  /** Milliseconds since 1970. */
  now(): number {
    return this.#offset + performance.now()
  }

  observe(now: number): void {
    this.#offset = now - performance.now()
  }
}

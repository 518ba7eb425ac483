/**
 * Redis's clock, as far as it is known here: the last time a script told, plus what a monotonic clock has
 * counted since. It decides only whether a deadline is worth moving; deadlines themselves are kept by Redis.
 */
export interface RedisClock {
  /** Milliseconds since 1970. */
  now(): number
  observe(now: number): void
}

export function createClock(): RedisClock {
  let offset = Date.now() - performance.now()
  return {
    now: () => offset + performance.now(),
    observe(now) {
      offset = now - performance.now()
    }
  }
}

/** Commands per second with a burst, refilled when asked rather than by a timer. */
export class TokenBucket {
  #tokens: number
  #at = 0

  constructor(
    private readonly perSecond: number,
    private readonly burst: number
  ) {
    this.#tokens = burst
  }

  /** @param now milliseconds of a monotonic clock */
  take(now: number): boolean {
    if (this.#at !== 0) {
      this.#tokens = Math.min(this.burst, this.#tokens + ((now - this.#at) / 1000) * this.perSecond)
    }
    this.#at = now
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }
}

/** Something per second with a burst, refilled when asked rather than by a timer. Times are milliseconds of a monotonic clock. */
export class TokenBucket {
  readonly #perSecond: number
  readonly #burst: number
  #tokens: number
  #at = 0

  constructor(perSecond: number, burst: number) {
    this.#perSecond = perSecond
    this.#burst = burst
    this.#tokens = burst
  }

  /** Takes one token, if there is one. */
  take(now: number): boolean {
    this.#refill(now)
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }

  /** Takes tokens, whether they are there or not. */
  spend(tokens: number, now: number): void {
    this.#refill(now)
    this.#tokens -= tokens
  }

  /** Until what was spent beyond the burst is made up for. */
  waitMs(now: number): number {
    this.#refill(now)
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens / this.#perSecond) * 1000)
  }

  #refill(now: number): void {
    if (this.#at !== 0) {
      this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) / 1000) * this.#perSecond)
    }
    this.#at = now
  }
}

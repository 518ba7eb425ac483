const FIRST_WAIT = 250
const LONGEST_WAIT = 10_000

export type BreakerState = 'closed' | 'open' | 'half-open'

/**
 * Keeps traffic off a server whose connections fail: open after `threshold` failures in a row; after a growing wait,
 * or when the monitor reaches the server again, one caller tries (half-open), and its outcome decides.
 */
export class Breaker {
  readonly #threshold: number
  #failures = 0
  #wait = FIRST_WAIT
  #openUntil = 0
  #state: BreakerState = 'closed'
  #trial = false

  constructor(threshold: number) {
    this.#threshold = threshold
  }

  get state(): BreakerState {
    return this.#state
  }

  /** Whether a caller may use the server now. */
  allows(now: number): boolean {
    if (this.#state === 'closed') return true
    if (this.#state === 'open' && now >= this.#openUntil) this.#halfOpen()
    return this.#state === 'half-open' && !this.#trial
  }

  /** The caller allowed in half-open goes now. */
  begin(): void {
    if (this.#state === 'half-open') this.#trial = true
  }

  succeeded(): void {
    this.#state = 'closed'
    this.#failures = 0
    this.#wait = FIRST_WAIT
    this.#trial = false
  }

  failed(now: number): void {
    this.#failures++
    if (this.#state === 'closed' && this.#failures < this.#threshold) return
    if (this.#state === 'half-open') this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT)
    this.#state = 'open'
    this.#trial = false
    this.#openUntil = now + this.#wait
  }

  /** The trial ended without telling anything, as when its caller gave up. */
  undecided(): void {
    this.#trial = false
  }

  /** The monitor reached the server: let one caller try at once. */
  reachable(): void {
    if (this.#state === 'open') this.#halfOpen()
  }

  #halfOpen(): void {
    this.#state = 'half-open'
    this.#trial = false
  }
}

/** The wait after the first failure, and the longest one, in milliseconds. */
const FIRST_WAIT = 50
const LONGEST_WAIT = 1_000

/**
 * Spaces out attempts to connect to a server that refuses them. After a failure one caller at a time may try, and only after
 * a wait that doubles, with jitter, so that the instances of an app do not try together.
 *
 *     open --failed--> waiting --(wait over)--> trying --succeeded--> open
 *                         ^---------failed---------|
 */
export class ConnectBackoff {
  #failures = 0
  #retryAt = 0
  /** What the last attempt failed with; `undefined` once one has succeeded. */
  error: Error | undefined

  /** Whether another attempt may begin at `now`, with `pending` under way. */
  allows(now: number, pending: number): boolean {
    return this.#failures === 0 || (pending === 0 && now >= this.#retryAt)
  }

  /** Milliseconds until the next attempt. */
  waitAt(now: number): number {
    return Math.max(0, this.#retryAt - now)
  }

  succeeded(): void {
    this.#failures = 0
    this.error = undefined
  }

  /** Attempts that began together and failed together count once. */
  failed(now: number, error: Error): void {
    this.error = error
    if (now < this.#retryAt) return
    const wait = Math.min(FIRST_WAIT * 2 ** this.#failures, LONGEST_WAIT)
    this.#failures++
    this.#retryAt = now + wait * (0.5 + Math.random() / 2)
  }

  /** Something else reached the server: the next attempt may begin at once. */
  reachable(): void {
    this.#retryAt = 0
  }
}

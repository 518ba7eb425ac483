import { setTimeout as sleep } from 'node:timers/promises'

/** How pauses grow. */
export interface BackoffOptions {
  /** Upper bound of the first pause, in milliseconds. */
  firstMs: number
  /** Upper bound of any pause, in milliseconds. */
  maxMs: number
  /** By what the bound grows with each attempt. Default 2. */
  factor?: number
  /**
   * `full`: anywhere between nothing and the bound, which spreads many clients best. `equal`: at least half of the bound, for
   * those that must not come back at once. Default `equal`.
   */
  jitter?: 'full' | 'equal'
  /** Between 0 and 1, as `Math.random`, which is the default. */
  random?: () => number
}

/**
 * Growing pauses between attempts, with jitter: instances that lost a server at the same moment must not come back to it at
 * the same moment (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
 */
export class Backoff {
  readonly #options: Required<BackoffOptions>
  #bound: number
  #attempts = 0

  constructor(options: BackoffOptions) {
    this.#options = { factor: 2, jitter: 'equal', random: Math.random, ...options }
    this.#bound = options.firstMs
  }

  /** Pauses taken since the start, or since the last reset. */
  get attempts(): number {
    return this.#attempts
  }

  /** The next pause, in milliseconds; the one after it is longer. */
  next(): number {
    const { maxMs, factor, jitter, random } = this.#options
    const bound = Math.min(this.#bound, maxMs)
    this.#bound = Math.min(bound * factor, maxMs)
    this.#attempts++
    return jitter === 'full' ? bound * random() : (bound / 2) * (1 + random())
  }

  /** After a success: the next pause is the first one again. */
  reset(): void {
    this.#bound = this.#options.firstMs
    this.#attempts = 0
  }

  /**
   * Waits for the next pause. Does not keep the process alive.
   *
   * @throws the reason of the signal, at once when it is aborted
   */
  async wait(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    try {
      await sleep(this.next(), undefined, { ref: false, ...(signal && { signal }) })
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }
}

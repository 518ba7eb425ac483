import { untilAborted, type Caller } from './abortable.js'
import { OverBudgetError, retryAfter } from './errors.js'

export interface BudgetSettings {
  /** Reads at a time. */
  concurrency: number
  /** Reads that may wait for their turn. */
  maxWaiting: number
  /** How long, in milliseconds. */
  wait: number
}

/**
 * The primary's share for reads that a replica should have answered. Without it, losing the replicas would send all
 * reads to the primary at once and take the writes down too.
 */
export class PrimaryBudget {
  readonly #settings: BudgetSettings
  readonly #waiting: (() => void)[] = []
  #running = 0

  constructor(settings: BudgetSettings) {
    this.#settings = settings
  }

  get running(): number {
    return this.#running
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** Takes a place if one is free; `release` must follow. */
  tryEnter(): boolean {
    if (this.#running >= this.#settings.concurrency) return false
    this.#running++
    return true
  }

  /** Takes a place, waiting for one in turn; rejects with a 503 where that would take too long. */
  async enter(caller: Caller): Promise<void> {
    if (this.tryEnter()) return
    if (this.#waiting.length >= this.#settings.maxWaiting) throw this.#over()
    await untilAborted<void>(
      caller,
      (turn) => {
        this.#waiting.push(turn)
        return () => {
          const at = this.#waiting.indexOf(turn)
          if (at !== -1) this.#waiting.splice(at, 1)
        }
      },
      { ms: this.#settings.wait, late: () => this.#over() }
    )
  }

  release(): void {
    const next = this.#waiting.shift()
    // The place passes on, so `running` stays.
    if (next) next()
    else this.#running--
  }

  #over(): Error {
    return retryAfter(new OverBudgetError(), Math.max(1_000, this.#settings.wait))
  }
}

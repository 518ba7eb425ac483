import { Backoff, type BackoffOptions } from './backoff.js'
import { detached } from './detached.js'

/** `closed`: calls go through. `open`: none does. `half-open`: one tries, and its outcome decides. */
export type CircuitState = 'closed' | 'open' | 'half-open'

/** When a circuit opens, and how it is tried again. */
export interface CircuitBreakerOptions {
  /** Failures in a row that open it. */
  failures: number
  /** How long it stays open; the pause grows with each trial that fails. */
  backoff: BackoffOptions
  /**
   * Tries in the background, and resolves when the server works again; must settle in bounded time. While it is given, no call
   * is ever the trial: calls fail at once until the probe has succeeded. The first call tries otherwise.
   */
  probe?: (() => PromiseLike<unknown>) | undefined
  /** Called after each change, with what caused it if that was a failure; must not throw. */
  onChange?: ((state: CircuitState, cause: unknown) => void) | undefined
  /** Milliseconds that never go backwards. Default `performance.now`. */
  now?: () => number
}

/** Stands for one call, and is handed back with its outcome. */
export type CircuitPermit = number

/**
 * Keeps calls off a server that does not work, and finds out when it works again.
 *
 * ```
 *              `failures` in a row                    the pause is over, or reachable()
 *   closed ───────────────────────────► open ─────────────────────────────────────────► half-open
 *     ▲                                   ▲                                               │   │
 *     │                                   └────────── the trial fails: longer pause ──────┘   │
 *     └──────────────────────────────────────────────── the trial succeeds ───────────────────┘
 * ```
 *
 * Invariants: at most one trial at a time. A call that began before the last change of the state says nothing about the
 * state after it: its outcome is ignored. A trial whose outcome never comes is replaced after another pause.
 */
export class CircuitBreaker {
  readonly #options: CircuitBreakerOptions
  readonly #backoff: Backoff
  readonly #now: () => number
  #state: CircuitState = 'closed'
  /** Counts changes of the state, and trials. */
  #epoch: CircuitPermit = 1
  #failures = 0
  /** How long the circuit is open this time. */
  #pauseMs = 0
  #openUntil = 0
  /** While a trial is under way: when another call may take its place. */
  #trialUntil: number | undefined
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(options: CircuitBreakerOptions) {
    this.#options = options
    this.#backoff = new Backoff(options.backoff)
    this.#now = options.now ?? (() => performance.now())
  }

  /** Where it is now. */
  get state(): CircuitState {
    return this.#state
  }

  /** Whether {@link enter} would give a permit now. */
  get allows(): boolean {
    if (this.#stopped) return false
    if (this.#state === 'closed') return true
    if (this.#options.probe) return false
    if (this.#state === 'open') return this.#now() >= this.#openUntil
    return this.#trialUntil === undefined || this.#now() >= this.#trialUntil
  }

  /** A permit for one call, to be handed to one of the three methods that follow; `undefined` while no call may go. */
  enter(): CircuitPermit | undefined {
    if (this.#state === 'closed' && !this.#stopped) return this.#epoch
    if (!this.allows) return undefined
    if (this.#state === 'open') this.#change('half-open', undefined)
    // Of the trial that it replaces, if there is one, nothing counts any more.
    this.#epoch++
    this.#trialUntil = this.#now() + this.#pauseMs
    return this.#epoch
  }

  /** The call worked. */
  succeeded(permit: CircuitPermit): void {
    if (permit !== this.#epoch) return
    this.#failures = 0
    if (this.#state !== 'half-open') return
    this.#backoff.reset()
    this.#change('closed', undefined)
  }

  /** The call failed, and that speaks against the server. */
  failed(permit: CircuitPermit, cause: unknown): void {
    if (permit !== this.#epoch || this.#state === 'open') return
    if (this.#state === 'closed' && ++this.#failures < this.#options.failures) return
    this.#open(cause)
  }

  /** The call ended without saying anything about the server, as when its caller gave up: the next call tries. */
  undecided(permit: CircuitPermit): void {
    if (permit === this.#epoch) this.#trialUntil = undefined
  }

  /** Someone else has reached the server: try at once. */
  reachable(): void {
    if (this.#state !== 'open' || this.#stopped) return
    if (this.#options.probe) this.#probe()
    else this.#change('half-open', undefined)
  }

  /** Ends it: no call may go any more, nothing is tried, and the process is not kept alive. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }

  #open(cause: unknown): void {
    this.#pauseMs = this.#backoff.next()
    this.#openUntil = this.#now() + this.#pauseMs
    if (this.#options.probe && !this.#stopped) {
      this.#timer = detached(() => setTimeout(() => this.#probe(), this.#pauseMs).unref())
    }
    this.#change('open', cause)
  }

  #probe(): void {
    clearTimeout(this.#timer)
    const { probe } = this.#options
    if (!probe || this.#stopped) return
    this.#change('half-open', undefined)
    const permit = this.#epoch
    void (async () => {
      try {
        await probe()
      } catch (error) {
        return this.failed(permit, error)
      }
      this.succeeded(permit)
    })()
  }

  #change(state: CircuitState, cause: unknown): void {
    this.#state = state
    this.#epoch++
    this.#failures = 0
    this.#trialUntil = undefined
    this.#options.onChange?.(state, cause)
  }
}

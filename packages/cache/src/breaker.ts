import { withoutArguments } from '@flotilla/redis'
import { Deadlines } from './deadlines.js'
import { UnavailableError } from './errors.js'
import { channels } from './telemetry.js'

export interface BreakerSettings {
  failures: number
  /** Milliseconds between probes while open. */
  cooldown: number
  /** Milliseconds after which one operation counts as failed. */
  timeout: number
}

/** Replies that mean "not this server, not now" rather than "wrong question". */
const AWAY = /^(LOADING|CLUSTERDOWN|READONLY|MASTERDOWN|TRYAGAIN|BUSY |NOREPLICAS|MISCONF|OOM)/

/**
 * Stands between the cache and Redis: every operation ends in bounded time, and after some failures in a row
 * nobody waits any more until a probe in the background has succeeded.
 */
export class Breaker {
  #open = false
  #failures = 0
  /** Why it opened. */
  #cause: unknown
  #timer: NodeJS.Timeout | undefined
  #closed = false
  readonly #settings: BreakerSettings
  readonly #deadlines: Deadlines
  readonly #recover: () => Promise<void>
  readonly #changed: (open: boolean, cause: unknown) => void

  /**
   * @param recover asks Redis whether it is back and does what must come before all else; rejects while it is away
   */
  constructor(
    settings: BreakerSettings,
    recover: () => Promise<void>,
    changed: (open: boolean, cause: unknown) => void
  ) {
    this.#settings = settings
    this.#deadlines = new Deadlines(settings.timeout)
    this.#recover = recover
    this.#changed = changed
  }

  get open(): boolean {
    return this.#open
  }

  /** @throws FLOTILLA_CACHE_ERR_REDIS_AWAY at once while open, or with the failure as its cause */
  run<T>(operation: string, work: () => Promise<T>): Promise<T> {
    if (this.#open || this.#closed) {
      return Promise.reject(
        Object.assign(new UnavailableError('left alone after failures'), { cause: this.#cause })
      )
    }
    return this.attempt(operation, work)
  }

  /** As `run`, also while open: for the probe itself. */
  async attempt<T>(operation: string, work: () => Promise<T>): Promise<T> {
    try {
      const result = await this.#deadlines.within(work())
      this.#failures = 0
      return result
    } catch (error) {
      channels.error.publish({ operation, error: withoutArguments(error) })
      if (!isReply(error) || AWAY.test(error.message)) this.#fail(error)
      throw Object.assign(new UnavailableError(operation), { cause: error })
    }
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  #fail(cause: unknown): void {
    if (this.#open || this.#closed || ++this.#failures < this.#settings.failures) return
    this.#open = true
    this.#cause = cause
    channels.breaker.publish({ state: 'open', cause })
    this.#changed(true, cause)
    this.#schedule()
  }

  #schedule(): void {
    if (this.#closed) return
    this.#timer = setTimeout(() => void this.#probe(), this.#settings.cooldown)
    this.#timer.unref()
  }

  async #probe(): Promise<void> {
    try {
      await this.#recover()
    } catch {
      this.#schedule()
      return
    }
    this.#open = false
    this.#failures = 0
    this.#changed(false, undefined)
  }
}

/** Whether Redis answered that it will not, which differs from not answering. */
export function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === 'ReplyError'
}

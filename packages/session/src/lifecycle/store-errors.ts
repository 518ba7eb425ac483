import { withoutArguments } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import { ERR_READ_ONLY, ERR_UNAVAILABLE } from '../errors.js'
import { CorruptSession } from '../store/session-records.js'

/** How long a cause that has been logged is not logged again. */
const LOG_EVERY_MS = 60_000
// Messages of Redis may name what was asked for.
const REMEMBERED = 100

/** Turns what the store or its client throws into coded errors, and logs an outage once a minute. */
export class StoreErrors {
  readonly #log: FastifyBaseLogger
  readonly #retryAfter: string
  readonly #logged = new Map<string, number>()
  #suppressed = 0

  /** @param retryAfter whole seconds */
  constructor(log: FastifyBaseLogger, retryAfter: number) {
    this.#log = log
    this.#retryAfter = String(retryAfter)
  }

  /**
   * Runs something that asks the store.
   * @throws FLOTILLA_SESSION_ERR_UNAVAILABLE (503 with Retry-After) in place of what the store or its client threw
   */
  async ask<T>(operation: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run()
    } catch (cause) {
      throw this.explain(operation, cause)
    }
  }

  /** What {@link ask} throws in place of `cause`. */
  explain(operation: string, cause: unknown): unknown {
    if (cause instanceof CorruptSession || isOurs(cause)) return cause
    // A key of ours that holds another type is a broken session, not a broken store.
    if (cause instanceof Error && cause.message.includes('WRONGTYPE')) {
      withoutArguments(cause)
      return new CorruptSession('its key holds another type', { cause })
    }
    withoutArguments(cause)
    this.#report(operation, cause as Error)
    channels.outage.publish({ operation, error: cause as Error })
    const error = this.withRetryAfter(new ERR_UNAVAILABLE())
    error.cause = cause
    return error
  }

  /** The error for a write to a session that could not be loaded. */
  readOnly(): Error {
    return this.withRetryAfter(new ERR_READ_ONLY())
  }

  /** Fastify's default error handler sends an error's `headers`; see `hooks.ts` for other handlers. */
  withRetryAfter<E extends Error>(error: E): E {
    return Object.assign(error, { headers: { 'retry-after': this.#retryAfter } })
  }

  /** Fastify logs each request that fails, with its cause: here an outage is logged as such. */
  #report(operation: string, err: Error): void {
    // Numbers are those of attempts and times.
    const cause = err.message.replaceAll(/\d+/g, '')
    const now = performance.now()
    if (now - (this.#logged.get(cause) ?? -Infinity) < LOG_EVERY_MS) {
      this.#suppressed++
      return
    }
    if (this.#logged.size >= REMEMBERED) this.#logged.clear()
    this.#logged.set(cause, now)
    this.#log.warn(
      { err, operation, suppressed: this.#suppressed },
      'the session store cannot be asked; this is logged once a minute, `suppressed` counts what was not'
    )
    this.#suppressed = 0
  }
}

function isOurs(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && code.startsWith('FLOTILLA_SESSION_')
}

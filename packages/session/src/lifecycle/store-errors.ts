import { withoutArguments } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { channels } from '../diagnostics.js'
import { ERR_READ_ONLY, ERR_UNAVAILABLE } from '../errors.js'
import { CorruptSession } from '../store/store.js'

/** What happens while Redis cannot be asked. */
export interface Outage {
  /**
   * Runs something that asks Redis.
   * @throws FLOTILLA_SESSION_ERR_UNAVAILABLE (503 with Retry-After) in place of what Redis or its client threw
   */
  ask<T>(operation: string, run: () => Promise<T>): Promise<T>
  /** What {@link ask} throws in place of `cause`. */
  explain(operation: string, cause: unknown): unknown
  /** The error for a write to a session that could not be loaded. */
  readOnly(): Error
  withRetryAfter<E extends Error>(error: E): E
}

/** How long a cause that has been told is not told again. */
const TELL_EVERY = 60_000
// Messages of Redis may name what was asked for.
const REMEMBERED = 100

/** @param retryAfter whole seconds */
export function createOutage(log: FastifyBaseLogger, retryAfter: number): Outage {
  // Fastify's default error handler sends an error's `headers`; see `hooks.ts` for other handlers.
  const withRetryAfter = <E extends Error>(error: E): E =>
    Object.assign(error, { headers: { 'retry-after': String(retryAfter) } })

  // Each request that fails is logged by Fastify, with its cause: here an outage is told as such.
  const told = new Map<string, number>()
  let untold = 0
  const tell = (operation: string, err: Error): void => {
    // Numbers are those of attempts and times.
    const cause = err.message.replaceAll(/\d+/g, '')
    const now = performance.now()
    if (now - (told.get(cause) ?? -Infinity) < TELL_EVERY) {
      untold++
      return
    }
    if (told.size >= REMEMBERED) told.clear()
    told.set(cause, now)
    log.warn(
      { err, operation, untold },
      'the session store cannot be asked; this is told once a minute, `untold` counts what was not'
    )
    untold = 0
  }

  const explain = (operation: string, cause: unknown): unknown => {
    if (cause instanceof CorruptSession || isOurs(cause)) return cause
    // A key of ours that holds another type is a broken session, not a broken store.
    if (cause instanceof Error && cause.message.includes('WRONGTYPE')) {
      withoutArguments(cause)
      return new CorruptSession('its key holds another type', { cause })
    }
    withoutArguments(cause)
    tell(operation, cause as Error)
    channels.outage.publish({ operation, error: cause as Error })
    const error = withRetryAfter(new ERR_UNAVAILABLE())
    error.cause = cause
    return error
  }

  return {
    withRetryAfter,
    readOnly: () => withRetryAfter(new ERR_READ_ONLY()),
    explain,
    async ask(operation, run) {
      try {
        return await run()
      } catch (cause) {
        throw explain(operation, cause)
      }
    }
  }
}

function isOurs(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && code.startsWith('FLOTILLA_SESSION_')
}

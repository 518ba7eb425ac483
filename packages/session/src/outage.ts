import { withoutArguments } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { channels } from './channels.js'
import { ERR_READ_ONLY, ERR_UNAVAILABLE } from './errors.js'
import { CorruptSession } from './store.js'

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

/** @param retryAfter whole seconds */
export function createOutage(log: FastifyBaseLogger, retryAfter: number): Outage {
  // Fastify's default error handler sends an error's `headers`; see `hooks.ts` for other handlers.
  const withRetryAfter = <E extends Error>(error: E): E =>
    Object.assign(error, { headers: { 'retry-after': String(retryAfter) } })

  const explain = (operation: string, cause: unknown): unknown => {
    if (cause instanceof CorruptSession || isOurs(cause)) return cause
    // A key of ours that holds another type is a broken session, not a broken store.
    if (cause instanceof Error && cause.message.includes('WRONGTYPE')) {
      withoutArguments(cause)
      return new CorruptSession('its key holds another type', { cause })
    }
    withoutArguments(cause)
    log.warn({ err: cause, operation }, 'the session store cannot be asked')
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

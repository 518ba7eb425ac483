import { createError, type FastifyError } from '@fastify/error'

/** What an {@link UnavailableErrorConstructor} is given besides its text. */
export interface UnavailableDetails {
  /** When it is worth trying again, in milliseconds. */
  retryAfterMs: number
  /** What failed. */
  cause?: unknown
}

/** An error of a request that fails now and may succeed later. */
export interface UnavailableError extends FastifyError {
  /** Service Unavailable. */
  readonly statusCode: 503
  /** `Retry-After`; Fastify's own error handler sends the headers of an error. */
  readonly headers: Readonly<Record<string, string>>
}

/** A class of coded errors with status 503 and `Retry-After`. */
export type UnavailableErrorConstructor = new (
  message: string,
  details: UnavailableDetails
) => UnavailableError

/**
 * Defines the error of a package for "what it stands on cannot be reached now". It has no stack: one would cost more than all the
 * rest during an outage, and shows no caller.
 *
 * @param code `FLOTILLA_<PKG>_ERR_UNAVAILABLE`
 */
export function defineUnavailableError(code: string): UnavailableErrorConstructor {
  const Coded = createError<[message: string]>(code, '%s', 503, Error, false)
  return class UnavailableError extends Coded {
    declare readonly statusCode: 503
    readonly headers: Readonly<Record<string, string>>

    constructor(message: string, { retryAfterMs, cause }: UnavailableDetails) {
      super(message)
      this.headers = retryAfterHeaders(retryAfterMs)
      if (cause !== undefined) this.cause = cause
    }
  }
}

/**
 * Adds `Retry-After` to an error that a client may try again after (RFC 9110 §10.2.3).
 *
 * @returns the same error
 */
export function withRetryAfter<E extends Error>(
  error: E,
  retryAfterMs: number
): E & { headers: Record<string, string> } {
  return Object.assign(error, { headers: retryAfterHeaders(retryAfterMs) })
}

/** Whole seconds, rounded up, and never 0: a client that comes back at once makes an outage worse. */
function retryAfterHeaders(ms: number): Record<string, string> {
  return { 'retry-after': String(Math.max(1, Math.ceil(ms / 1_000))) }
}

import { createError } from '@fastify/error'

// Every error of this package. Those a client may retry carry 503 and `Retry-After` (RFC 9110 §10.2.3).

export const OptionError = createError<[string]>('FLOTILLA_DB_ERR_OPTION', '%s', 500)
export const AlreadyRegisteredError = createError(
  'FLOTILLA_DB_ERR_ALREADY_REGISTERED',
  '@flotilla/db-router is registered twice in this scope; register it once, in the parent scope of both',
  500
)
export const StartError = createError<[string, string]>(
  'FLOTILLA_DB_ERR_START',
  'The primary %s could not be connected to: %s. Check its URL: user, password, database, sslmode, and the authority that signed its certificate',
  500
)
export const NoPrimaryError = createError<[string]>(
  'FLOTILLA_DB_ERR_NO_PRIMARY',
  'No primary is known to take writes (%s). Writes resume by themselves once one is; see db.status()',
  503
)
export const FencedError = createError<[string]>(
  'FLOTILLA_DB_ERR_FENCED',
  'The write was refused because %s is no longer the primary; it did not happen and may be repeated',
  503
)
export const OverBudgetError = createError(
  'FLOTILLA_DB_ERR_OVER_BUDGET',
  "No replica can answer this read and the primary's share for such reads is used up; see option 'fallback'",
  503
)
export const PoolExhaustedError = createError<[string, number, number]>(
  'FLOTILLA_DB_ERR_POOL_EXHAUSTED',
  "No connection to %s came free: all %s are in use and %s wait; raise 'pool.max', or what the server allows, or look for transactions left open",
  503
)
export const UnavailableError = createError<[string]>(
  'FLOTILLA_DB_ERR_UNAVAILABLE',
  'The connection to %s failed before it answered',
  503
)
export const OutcomeUnknownError = createError<[string]>(
  'FLOTILLA_DB_ERR_OUTCOME_UNKNOWN',
  'The connection to %s failed while it was writing: whether the write happened is unknown, look before repeating it',
  503
)
export const TimeoutError = createError<[number]>(
  'FLOTILLA_DB_ERR_TIMEOUT',
  "The statement was cancelled after its %s ms; see 'timeout'",
  504
)
export const AbortedError = createError(
  'FLOTILLA_DB_ERR_ABORTED',
  'The statement was cancelled because its request or signal was aborted',
  499
)
export const NotAReadError = createError(
  'FLOTILLA_DB_ERR_NOT_A_READ',
  'The statement sent through db.read writes (or locks); send it through db.write',
  500
)
export const TransactionEndedError = createError(
  'FLOTILLA_DB_ERR_TRANSACTION_ENDED',
  'The transaction has ended; a statement of it was not awaited inside the callback, or tx was kept for later',
  500
)
export const RolledBackError = createError(
  'FLOTILLA_DB_ERR_ROLLED_BACK',
  'The transaction was rolled back at COMMIT because a statement in it had failed and the callback went on',
  500
)
export const TransactionTimeoutError = createError<[number]>(
  'FLOTILLA_DB_ERR_TRANSACTION_TIMEOUT',
  "The transaction was rolled back after its %s ms; see 'transaction.timeout'",
  504
)
export const ReleasedError = createError(
  'FLOTILLA_DB_ERR_RELEASED',
  'This client has already been released to the pool; release it once and do not use it afterwards',
  500
)
export const ClosedError = createError(
  'FLOTILLA_DB_ERR_CLOSED',
  'The database handle is closed because the app is closing',
  503
)

/** Sets the header Fastify sends with the error: whole seconds, at least one. */
export function retryAfter<E extends Error>(error: E, ms: number): E & { headers: Record<string, string> } {
  return Object.assign(error, { headers: { 'retry-after': String(Math.max(1, Math.ceil(ms / 1000))) } })
}

/** Has the stack lead back to the caller that awaits the promise, instead of to the socket. */
export function fromCaller(error: unknown): unknown {
  if (error instanceof Error) Error.captureStackTrace(error)
  return error
}

/** Keeps what went wrong below as `cause`. */
export function because<E extends Error>(error: E, cause: unknown): E {
  error.cause = cause
  return error
}

// SQLSTATEs of PostgreSQL's appendix A, by what the router does about them.

/** The SQLSTATE of a server's error, or Node's code of a socket's error. */
export function codeOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { code?: unknown }
  return typeof code === 'string' ? code : undefined
}

const isSqlState = (code: string): boolean => /^[0-9A-Z]{5}$/.test(code)

/** The server sent an error and the connection goes on, unless it is one of class FATAL. */
export function isServerError(error: unknown): boolean {
  const code = codeOf(error)
  return code !== undefined && isSqlState(code) && 'severity' in (error as object)
}

/** The connection is gone or was never made: socket errors, 08xxx, and shutdowns. */
export function isConnectionError(error: unknown): boolean {
  const code = codeOf(error)
  if (!isServerError(error)) return true
  return (
    code!.startsWith('08') || code === '57P01' || code === '57P02' || code === '57P03' || code === '57P05'
  )
}

/**
 * A read that the server answered so may run again on another: this one has no slot (53300), or a standby cancelled it
 * in favour of replay (40001 and 40P01 on a hot standby; "Handling Query Conflicts").
 */
export function isRetryableRead(error: unknown): boolean {
  const code = codeOf(error)
  return isServerError(error) && (code === '40001' || code === '40P01' || code === '53300')
}

/** serialization_failure and deadlock_detected: the whole transaction may run again. */
export function isRetryableTransaction(error: unknown): boolean {
  const code = codeOf(error)
  return isServerError(error) && (code === '40001' || code === '40P01')
}

/** read_only_sql_transaction: a write reached a server in recovery. */
export function isReadOnly(error: unknown): boolean {
  return isServerError(error) && codeOf(error) === '25006'
}

/** feature_not_supported: what a server in recovery can not do, such as reading an unlogged table. */
export function isUnsupported(error: unknown): boolean {
  return isServerError(error) && codeOf(error) === '0A000'
}

/** query_canceled. */
export function isCancelled(error: unknown): boolean {
  return isServerError(error) && codeOf(error) === '57014'
}

/** What the driver says, without a code, of a password that it lacks or can not use, and of TLS that the server lacks. */
const DRIVER_REFUSED = /^SASL: |^Password must be a string$|^The server does not support SSL connections$/

/** Authentication failed, TLS is not to be had, or there is no such database: no retry will help. */
export function isMisconfigured(error: unknown): boolean {
  const code = codeOf(error)
  if (code === undefined) return error instanceof Error && DRIVER_REFUSED.test(error.message)
  return isServerError(error) && (code.startsWith('28') || code === '3D000')
}

/**
 * The server is there but takes no further connection: those it has given go on. PgBouncer tells that it is full by
 * its text alone, with the code of everything it has to say.
 */
export function isRefusal(error: unknown): boolean {
  if (isMisconfigured(error)) return true
  if (!isServerError(error)) return false
  return codeOf(error) === '53300' || (error as Error).message.startsWith('no more connections allowed')
}

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

/** Such as a statement raises, too: `dblink` and foreign tables pass on what became of connections of their own. */
const OF_CONNECTIONS = /^(?:08...|57P0[1-5])$/

/**
 * Whether the server's error is its last word on the connection; `undefined` if only the connection's state shows it. The
 * severity decides, and it comes in the server's language ("Error and Notice Message Fields", `S`).
 */
export function endsConnection(error: unknown): boolean | undefined {
  if (!isServerError(error)) return undefined
  const { severity } = error as { severity?: string }
  if (severity === 'ERROR') return false
  if (severity === 'FATAL' || severity === 'PANIC') return true
  return OF_CONNECTIONS.test(codeOf(error)!) ? undefined : false
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

/** What the driver says, without a code, of a password that it lacks or can not use. */
const DRIVER_REFUSED = /^SASL: |^Password must be a string$/
const NO_TLS = 'The server does not support SSL connections'

/** Node's codes of a certificate that is not trusted ("X509 certificate error codes" of `node:tls`). */
const UNTRUSTED =
  /^(?:CERT_|CRL_|UNABLE_TO_|DEPTH_ZERO_SELF_SIGNED_CERT$|SELF_SIGNED_CERT_IN_CHAIN$|ERR_TLS_CERT_ALTNAME_INVALID$|HOSTNAME_MISMATCH$|INVALID_CA$|INVALID_PURPOSE$|PATH_LENGTH_EXCEEDED$)/

/** The user, its password or the database does not count. */
function isRefusedLogin(error: unknown): boolean {
  const code = codeOf(error)
  if (code === undefined) return error instanceof Error && DRIVER_REFUSED.test(error.message)
  return isServerError(error) && (code.startsWith('28') || code === '3D000')
}

/** Why a server can not be used, as it may be shown: what the server says of credentials names the user. */
export function reasonOf(error: Error | undefined): string {
  if (error === undefined) return 'not reachable'
  if (!isRefusedLogin(error)) return error.message
  return `it refuses the user, the password or the database (${codeOf(error) ?? 'SASL'})`
}

/** No retry will help: a login that does not count, no TLS although it is asked for, or a certificate that is not trusted. */
export function isMisconfigured(error: unknown): boolean {
  if (isRefusedLogin(error)) return true
  const code = codeOf(error)
  if (code === undefined) return error instanceof Error && error.message === NO_TLS
  return UNTRUSTED.test(code)
}

/**
 * The server is there but takes no further connection: those it has given go on. PgBouncer shows that it is full by
 * its text alone, with the code of everything it has to say.
 */
export function isRefusal(error: unknown): boolean {
  if (isMisconfigured(error)) return true
  if (!isServerError(error)) return false
  return codeOf(error) === '53300' || (error as Error).message.startsWith('no more connections allowed')
}

import { parseDuration, type ConsistencyToken } from '@flotilla/core'
import type pg from 'pg'
import { CausalSession } from './causal-session.js'
import { NotAReadError, OptionError } from './errors.js'
import { RoutedPool } from './routed-pool.js'
import type { Router, StatementOptions } from './router.js'
import { isUnsupported } from './sqlstate.js'
import { toStatement, type QueryFunction, type QueryOptions } from './statement.js'
import type { Settings } from './options.js'
import { describe, type DatabaseStatus } from './status.js'
import type { TokenCodec } from './token.js'
import { runTransaction, type IsolationLevel, type Transaction } from './transaction.js'

/** Statements that only read. */
export interface Reader {
  /** Runs on a replica that has this author's writes, or on the primary. */
  query: QueryFunction
  /** A reader that also sees everything up to `token`, from wherever it came. Never waits beyond `maxWait`. */
  after(token: ConsistencyToken | undefined): Reader
  /** The same as a `pg.Pool`. */
  readonly pool: pg.Pool
}

/** Statements for the primary. */
export interface Writer {
  /** Runs on the primary. */
  query: QueryFunction
  /** The same as a `pg.Pool`; what is committed through its connections is followed too. */
  readonly pool: pg.Pool
}

/** How a transaction runs. */
export interface TransactionOptions {
  /** Default what the server is set to. */
  isolation?: IsolationLevel
  /** Runs on a replica where one is fresh enough. */
  readOnly?: boolean
  /**
   * How often it runs again after a serialization failure or a deadlock. Default the option
   * `transaction.retries`.
   */
  retries?: number
  /** Rolled back after this. Default the option `transaction.timeout`. */
  timeout?: QueryOptions['timeout']
  /** Cancels what runs and rolls back. */
  signal?: AbortSignal
}

/** A database as one author sees it: what was written through it is visible to reads through it. */
export interface Database {
  /** Replicas, as far as they have this author's writes. */
  readonly read: Reader
  /** The primary. */
  readonly write: Writer
  /** Runs on the primary, or with `route: 'auto'` where the statement allows. */
  query: QueryFunction
  /**
   * Runs `work` in a transaction. The callback may run again after a serialization failure or a deadlock, so it
   * should have no other effects.
   */
  transaction<T>(work: (tx: Transaction) => Promise<T>, options?: TransactionOptions): Promise<T>
  /** The newest write this author, or for `app.db` this instance, knows of: for a broadcast, a job, a cache. */
  token(): ConsistencyToken | undefined
  /** A database of its own for another author, such as a job, that starts from `token`. */
  session(options?: { token?: ConsistencyToken | undefined; signal?: AbortSignal }): Database
  /** The servers as they were last seen; asks nobody. */
  status(): DatabaseStatus
}

export interface DatabaseParts {
  readonly router: Router
  readonly codec: TokenCodec
  readonly settings: Settings
  /** Of a statement that has none of its own. */
  readonly limits: StatementOptions
  /** Whether a statement provably only reads. */
  readonly isPureRead: (text: string) => boolean
  readonly remember: (text: string) => void
}

export function createDatabase(
  parts: DatabaseParts,
  session: CausalSession,
  ownToken: () => ConsistencyToken | undefined = () =>
    session.position && parts.codec.encode(session.position)
): Database {
  const { router, settings } = parts
  const { limits } = parts
  let reader: Reader | undefined
  let writer: Writer | undefined
  const query = ((input: string | object, values?: unknown[], options?: QueryOptions) => {
    const statement = toStatement(input, values)
    const bounds = limitsOf(input, options, limits)
    if (settings.route === 'explicit' || !parts.isPureRead(statement.text)) {
      return router.write(session, statement, bounds)
    }
    return router.read(session, statement, bounds).catch((error: unknown) => {
      // A view or an overloaded operator that writes after all, or a table that replicas do not have: refused, so it did
      // not happen.
      if (!(error instanceof NotAReadError) && !isUnsupported(error)) throw error
      parts.remember(statement.text)
      return router.write(session, statement, bounds)
    })
  }) as QueryFunction

  return {
    get read() {
      return (reader ??= createReader(parts, session))
    },
    get write() {
      return (writer ??= createWriter(parts, session))
    },
    query,
    transaction(work, options = {}) {
      return runTransaction(
        router,
        session,
        {
          isolation: isolationOf(options.isolation),
          readOnly: options.readOnly === true,
          retries: options.retries ?? settings.transaction.retries,
          timeout: durationOf(options.timeout, settings.transaction.timeout),
          statementTimeout: settings.timeout,
          signal: options.signal
        },
        work
      )
    },
    token: ownToken,
    session(options = {}) {
      const other = new CausalSession(settings.tokenTtl)
      requireToken(parts, other, options.token)
      const { signal } = options
      if (signal?.aborted) other.abort()
      else signal?.addEventListener('abort', () => other.abort(), { once: true })
      return createDatabase(parts, other)
    },
    status: () => describe(router)
  }
}

function createReader(parts: DatabaseParts, session: CausalSession): Reader {
  const { router, limits } = parts
  let pool: pg.Pool | undefined
  return {
    query: ((input: string | object, values?: unknown[], options?: QueryOptions) =>
      router.read(session, toStatement(input, values), limitsOf(input, options, limits))) as QueryFunction,
    after(token) {
      const later = session.derive()
      requireToken(parts, later, token)
      return createReader(parts, later)
    },
    get pool() {
      return (pool ??= new RoutedPool('read', router, session, limits))
    }
  }
}

function createWriter(parts: DatabaseParts, session: CausalSession): Writer {
  const { router, limits } = parts
  let pool: pg.Pool | undefined
  return {
    query: ((input: string | object, values?: unknown[], options?: QueryOptions) =>
      router.write(session, toStatement(input, values), limitsOf(input, options, limits))) as QueryFunction,
    get pool() {
      return (pool ??= new RoutedPool('write', router, session, limits))
    }
  }
}

/** A token that can not be read tells nothing about what must be visible; the primary shows it in any case. */
function requireToken(
  parts: DatabaseParts,
  session: CausalSession,
  token: ConsistencyToken | undefined
): void {
  if (token === undefined) return
  const position = parts.codec.decode(token)
  if (position) session.require(position)
  else session.pin()
}

function limitsOf(
  input: string | object,
  options: QueryOptions | undefined,
  limits: StatementOptions
): StatementOptions {
  const { timeout, signal } =
    typeof input === 'object' ? { ...(input as QueryOptions), ...options } : (options ?? {})
  if (timeout === undefined && signal === undefined) return limits
  return { timeout: durationOf(timeout, limits.timeout), signal }
}

function durationOf(value: QueryOptions['timeout'], fallback: number): number {
  if (value === undefined) return fallback
  const ms = parseDuration(value)
  if (ms === undefined || ms > 2_147_483_647) {
    throw new OptionError(
      `@flotilla/db-router: 'timeout' must be a duration such as '2s', got ${String(value)}`
    )
  }
  return ms
}

const LEVELS: readonly (IsolationLevel | undefined)[] = [
  undefined,
  'read committed',
  'repeatable read',
  'serializable'
]

// It becomes part of a statement.
function isolationOf(level: IsolationLevel | undefined): IsolationLevel | undefined {
  if (LEVELS.includes(level)) return level
  throw new OptionError(
    `@flotilla/db-router: 'isolation' must be one of ${LEVELS.slice(1).join(', ')}, got ${String(level)}`
  )
}

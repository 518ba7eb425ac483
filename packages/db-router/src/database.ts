import type { ConsistencyToken } from '@flotilla/core'
import type pg from 'pg'
import { CausalSession } from './causal-session.js'
import { NotAReadError, OptionError } from './errors.js'
import { RoutedPool } from './routed-pool.js'
import type { Router, StatementOptions } from './router.js'
import { isUnsupported } from './sqlstate.js'
import {
  durationOf,
  isNoQuery,
  limitsOf,
  noQuery,
  toStatement,
  type QueryFunction,
  type QueryOptions
} from './statement.js'
import type { Settings } from './options.js'
import { describe, type DatabaseStatus } from './status.js'
import type { TokenCodec } from './token.js'
import { runTransaction, type IsolationLevel, type Transaction } from './transaction.js'

/** Statements that only read. */
export interface Reader {
  /**
   * Runs on a replica that has this author's writes, or on the primary, and can not write on either.
   *
   * @throws FLOTILLA_DB_ERR_NOT_A_READ where the statement writes or locks
   */
  query: QueryFunction
  /**
   * A reader that also sees everything up to `token`, from wherever it came. Waits up to `maxWait` for a replica to catch
   * up; if the token is of a promotion that this instance has not seen, up to `primaryWait` for that, and then fails
   * with FLOTILLA_DB_ERR_NO_PRIMARY.
   */
  after(token: ConsistencyToken | undefined): Reader
  /**
   * The same as a `pg.Pool`. Its connections refuse writes too, but for those to the primary behind a transaction
   * pooler, whose writes are followed.
   */
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
  /** Runs on the primary, or with `route: autoRoute()` where the statement allows. */
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
  /** The servers as they were last seen; sends nothing. */
  status(): DatabaseStatus
}

export interface DatabaseParts {
  readonly router: Router
  readonly codec: TokenCodec
  readonly settings: Settings
  /** Of a statement that has none of its own. */
  readonly limits: StatementOptions
}

export function createDatabase(
  parts: DatabaseParts,
  session: CausalSession,
  token?: () => ConsistencyToken | undefined
): Database {
  return new AuthorDatabase(parts, session, token)
}

// One is made for each request: what can wait until it is asked for waits, and what may be taken off the object is bound.
class AuthorDatabase implements Database {
  readonly #parts: DatabaseParts
  readonly #session: CausalSession
  readonly token: () => ConsistencyToken | undefined
  #reader: Reader | undefined
  #writer: Writer | undefined

  constructor(
    parts: DatabaseParts,
    session: CausalSession,
    token = (): ConsistencyToken | undefined => session.position && parts.codec.encode(session.position)
  ) {
    this.#parts = parts
    this.#session = session
    this.token = token
  }

  get read(): Reader {
    return (this.#reader ??= new AuthorReader(this.#parts, this.#session))
  }

  get write(): Writer {
    return (this.#writer ??= new AuthorSide('write', this.#parts, this.#session))
  }

  readonly query = ((input: string | object, values?: unknown[], options?: QueryOptions) => {
    if (isNoQuery(input)) return noQuery()
    const { router, limits, settings } = this.#parts
    const { route } = settings
    const statement = toStatement(input, values)
    const bounds = limitsOf(input, options, limits)
    if (!route?.isPureRead(statement.text)) {
      return router.write(this.#session, statement, bounds)
    }
    return router.read(this.#session, statement, bounds).catch((error: unknown) => {
      // A view or an overloaded operator that writes after all, or a table that replicas do not have: refused, so it did
      // not happen.
      if (!(error instanceof NotAReadError) && !isUnsupported(error)) throw error
      route.remember(statement.text)
      return router.write(this.#session, statement, bounds)
    })
  }) as QueryFunction

  readonly transaction: Database['transaction'] = (work, options = {}) => {
    const { router, settings } = this.#parts
    const bounds = {
      isolation: isolationOf(options.isolation),
      readOnly: options.readOnly === true,
      retries: options.retries ?? settings.transaction.retries,
      timeout: durationOf(options.timeout, settings.transaction.timeout),
      statementTimeout: settings.timeout,
      signal: options.signal
    }
    return runTransaction(router, this.#session, bounds, work)
  }

  readonly session: Database['session'] = ({ token, signal } = {}) => {
    const other = new CausalSession(this.#parts.settings.tokenTtl, { signal })
    requireToken(this.#parts, other, token)
    return createDatabase(this.#parts, other)
  }

  readonly status = (): DatabaseStatus => describe(this.#parts.router)
}

/** One way into the servers. */
class AuthorSide implements Writer {
  protected readonly parts: DatabaseParts
  protected readonly session: CausalSession
  readonly #kind: 'read' | 'write'
  #pool: pg.Pool | undefined

  constructor(kind: 'read' | 'write', parts: DatabaseParts, session: CausalSession) {
    this.parts = parts
    this.session = session
    this.#kind = kind
  }

  readonly query = ((input: string | object, values?: unknown[], options?: QueryOptions) => {
    if (isNoQuery(input)) return noQuery()
    const { router, limits } = this.parts
    return router[this.#kind](this.session, toStatement(input, values), limitsOf(input, options, limits))
  }) as QueryFunction

  get pool(): pg.Pool {
    const { router, limits } = this.parts
    // A library that ends its pool does not end this one.
    if (!this.#pool || this.#pool.ending) {
      this.#pool = new RoutedPool(this.#kind, router, this.session, limits)
    }
    return this.#pool
  }
}

class AuthorReader extends AuthorSide implements Reader {
  constructor(parts: DatabaseParts, session: CausalSession) {
    super('read', parts, session)
  }

  readonly after = (token: ConsistencyToken | undefined): Reader => {
    const later = this.session.derive()
    requireToken(this.parts, later, token)
    return new AuthorReader(this.parts, later)
  }
}

/** A token that can not be read does not show what must be visible; the primary shows it in any case. */
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

import { Client, Query, type ClientConfig, type QueryConfig, type QueryResult } from 'pg'
import { parseLsn, type Lsn } from './lsn.js'
import type { PositionStatement } from './position-query.js'
import { endsConnection, isServerError } from './sqlstate.js'

/** `SET LOCAL` counts until the commit: what is asked behind it no longer sees it. */
const ASYNCHRONOUS = /synchronous_commit/i

/** A statement as `pg` takes it. */
export type Statement = QueryConfig & { rowMode?: 'array'; queryMode?: 'extended' }

interface ParameterStatus {
  readonly parameterName: string
  readonly parameterValue: string
}

export type StatementCallback = (error: Error | undefined, result: QueryResult) => void

/**
 * A connection that knows which server process answers it. It pipelines: several statements go out at once and
 * are answered in order, which is what lets a write carry the question for its own position with it.
 */
export class RouterClient extends Client {
  declare pipeline: boolean
  declare release: (error?: Error | boolean) => void
  /** The pool's own `release`, whatever a borrower has in its place. */
  giveBack: (error?: Error | true) => void = () => {}
  /** When the answering server was started, as text: a restart or another server shows another. */
  identity = ''
  /** Whether a transaction pooler stands between: no session state, and another server at any time. */
  pooled = false
  /** How far a replica had replayed when it was made. */
  replayed: Lsn | undefined
  /** Called when nothing is under way any more, and for a connection that has ended: for its borrower's queue. */
  onIdle: (() => void) | undefined
  /** How often it was lent since the driver's pool last had it. */
  loans = 0
  /** When it was made, as `performance.now()` has it. */
  connectedAt = 0
  /** What it knows of the prepared question for the position in the log. */
  positionStatement: PositionStatement = 'none'
  /** The `statement_timeout` set on this session, in milliseconds. */
  statementTimeout = 0
  /** Whether this session was set to refuse writes; `undefined` where that is not known. */
  readOnly: boolean | undefined = false
  /** Whether what ran since it was lent may have turned `synchronous_commit` off for a transaction. */
  asynchronous = false
  /** Whether a statement took away what the session was set up with: it is good for its borrower alone. */
  wasReset = false

  constructor(config: ClientConfig) {
    // The driver's pool hides the password from what copies its options, and its URL's missing one hides one beside it.
    const { password } = config
    super({ ...config, ...(password !== undefined && { password }), pipeline: true })
    if (password !== undefined && !this.password) this.password = password as string
    // Without a listener, an error between two statements ends the process.
    this.on('error', () => {})
    const idle = (): void => this.onIdle?.()
    this.on('drain', idle)
    this.on('end', idle)
    // PostgreSQL reports each change, also of one that a borrower's statement made, before it is ready for the next.
    this.connection.on('parameterStatus', ({ parameterName, parameterValue }: ParameterStatus) => {
      if (parameterName === 'default_transaction_read_only') this.readOnly = parameterValue === 'on'
    })
  }

  override connect(): Promise<Client>
  override connect(callback: ((err: Error) => void) | ((err: null, c: Client) => void)): void
  override connect(callback?: ((err: Error) => void) | ((err: null, c: Client) => void)): unknown {
    if (!callback) {
      return new Promise<Client>((resolve, reject) => {
        this.connect((error: Error | null) => (error ? reject(error) : resolve(this)))
      })
    }
    super.connect((error: Error | null) => {
      // The driver leaves the socket open where the failure is its own, such as that of a password function.
      if (error) this.connection.stream.destroy()
      ;(callback as (err: Error | null, c: Client) => void)(error, this)
    })
    return undefined
  }

  /** The backend's process id and key as sent at connect; a pooler makes up its own. */
  get backend(): { processId: number; secretKey: number } {
    const { processID, secretKey } = this as unknown as { processID: number; secretKey: number }
    return { processId: processID, secretKey }
  }

  /** Whether it can not take another statement. */
  get broken(): boolean {
    const { _queryable, _ending } = this as unknown as { _queryable: boolean; _ending: boolean }
    return !_queryable || _ending || this.connection.stream.destroyed
  }

  /** Sends a caller's statement without a promise of its own; calls back once. */
  send(input: Statement, callback: StatementCallback, oneStatement = false): void {
    // As it is by now: tracing replaces it.
    this.#send(driver.query, input, callback, oneStatement)
  }

  /** {@link send} for what the router itself asks: it is no span of the caller's trace. */
  ask(statement: Statement, callback: StatementCallback): void {
    this.#send(untracedQuery(), statement, callback, false)
  }

  #send(sender: DriverQuery, input: Statement, callback: StatementCallback, oneStatement: boolean): void {
    // The extended protocol takes one statement, and refuses a text of several.
    const statement: Statement = oneStatement && !isPlain(input) ? { ...input, queryMode: 'extended' } : input
    if (!this.asynchronous && ASYNCHRONOUS.test(statement.text)) this.asynchronous = true
    let sending = true
    let unsendable: Error | undefined
    const done: StatementCallback = (error, result) => {
      // Of values that can not be sent the driver reports at once, and calls again when the server has answered the rest.
      if (sending) unsendable = error
      else if (error && isServerError(error) && endsConnection(error) === undefined && !this.broken) {
        // Either the server is ready after it, or the connection ends.
        this.onceReady(() => callback(error, result))
      } else {
        if (!error && resetsSession(result, statement)) this.wasReset = true
        callback(unsendable ?? error, result)
      }
    }
    try {
      if (isPlain(statement)) {
        // The driver clones objects, property by property; a query object of its own it takes as it is.
        const query = new Query(statement.text, statement.values as unknown[], done as never) as Query & {
          name?: string
          queryMode?: 'extended'
        }
        if (statement.name !== undefined) query.name = statement.name
        if (oneStatement) query.queryMode = 'extended'
        sender.call(this, query)
      } else {
        sender.call(this, statement, done)
      }
    } catch (error) {
      process.nextTick(callback, error, undefined)
    }
    sending = false
  }

  /** Sends a query object of our own, whatever a borrower has in place of `query`. */
  submit(query: Query): void {
    untracedQuery().call(this, query)
  }

  /** Whether nothing is under way: an error comes before the state of its transaction does. */
  get ready(): boolean {
    return (this as unknown as { readyForQuery: boolean }).readyForQuery
  }

  /** Calls back when the server has said that it is ready, or the connection has ended. */
  onceReady(callback: () => void): void {
    const over = (): void => {
      this.connection.removeListener('readyForQuery', over)
      this.removeListener('end', over)
      callback()
    }
    this.connection.on('readyForQuery', over)
    this.on('end', over)
  }

  /** What `work` sends goes out as one packet. */
  together(work: () => void): void {
    const { stream } = this.connection
    stream.cork()
    try {
      work()
    } finally {
      stream.uncork()
    }
  }

  /** Has the server itself give up after this many milliseconds; sent along with what comes next. */
  limit(timeout: number): void {
    const wanted = serverTimeout(timeout)
    // A pooled session is not ours to set; there the router's own timer has to do.
    if (this.pooled || wanted === this.statementTimeout) return
    this.statementTimeout = wanted
    this.ask({ text: `set statement_timeout = ${wanted}` }, () => {})
  }

  /** Has the server refuse writes, or no longer; sent along with what comes next. */
  restrict(readOnly: boolean): void {
    // Set once for all reads in a row, it costs less than a transaction around each. A pooled session is not ours to set.
    if (this.pooled || readOnly === this.readOnly) return
    this.readOnly = readOnly
    // Back to what the role or the server is set to, which may be to refuse.
    const text = readOnly ? 'set default_transaction_read_only = on' : 'reset default_transaction_read_only'
    this.ask({ text }, (error) => {
      // As when a cancel meant for the statement behind it hit this one.
      if (error) this.readOnly = undefined
    })
  }

  /** Drops the connection at once; whatever it was doing fails with `error`. */
  destroy(error: Error): void {
    this.connection.stream.destroy(error)
  }
}

type DriverQuery = ((this: Client, ...args: unknown[]) => unknown) & { readonly __original?: DriverQuery }

const driver = Client.prototype as unknown as { readonly query: DriverQuery }

/** The driver's `query` beneath what tracing put in its place: each wrapper keeps what it wraps as `__original`. */
function untracedQuery(): DriverQuery {
  let { query } = driver
  while (query.__original) query = query.__original
  return query
}

/** Whether it was DISCARD ALL or RESET ALL. */
function resetsSession({ command }: QueryResult, { text }: Statement): boolean {
  // Of several statements at once there is a list of results, without a command of its own.
  const mayBe = command === 'DISCARD' || command === 'RESET' || command === undefined
  return mayBe && /\b(?:discard|reset)\s+all\b/i.test(text)
}

/** The server's limit is the second line, for when this process can not cancel: a little later than its own. */
export const serverTimeout = (timeout: number): number => (timeout > 0 ? Math.ceil(timeout) + 1_000 : 0)

/** What a new session is set up with, where sessions are ours to set up. */
export interface SessionSettings {
  statementTimeout: number
  idleInTransaction: number
}

/**
 * Learns who answers, in one round trip. A pooler gives clients process ids of its own, so a backend that does
 * not know itself by ours shows one; then nothing may be set that outlives a transaction.
 */
export async function greet(client: RouterClient, settings: SessionSettings, timeout: number): Promise<void> {
  const timer = setTimeout(() => client.destroy(new Error('The server did not answer')), timeout)
  timer.unref()
  try {
    await ask(client, settings, [
      'extract(epoch from pg_postmaster_start_time())::text',
      'case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end::text'
    ]).catch((error: unknown) => {
      if (!isServerError(error) || client.broken || endsConnection(error) === true) throw error
      // The server refuses to say, as managed ones do; the monitor reports what works no longer then.
      return ask(client, settings, ["''", 'null'])
    })
  } finally {
    clearTimeout(timer)
  }
}

function ask(client: RouterClient, settings: SessionSettings, about: readonly string[]): Promise<void> {
  const own = `pg_backend_pid() = ${client.backend.processId}`
  const statementTimeout = serverTimeout(settings.statementTimeout)
  const text =
    `select ${own}, ${about.join(', ')}, case when ${own} then ` +
    `set_config('statement_timeout', '${statementTimeout}', false) || ` +
    `set_config('idle_in_transaction_session_timeout', '${Math.ceil(settings.idleInTransaction)}', false) end`
  return new Promise((resolve, reject) => {
    client.ask({ text, rowMode: 'array' }, (error, result) => {
      if (error) return reject(error)
      const [direct, identity, replayed] = result.rows[0] as unknown as [boolean, string, string | null]
      client.identity = identity
      client.replayed = parseLsn(replayed)
      client.pooled = !direct
      client.statementTimeout = direct ? statementTimeout : 0
      resolve()
    })
  })
}

/** Whether a statement failed with its connection. A mistake found before anything was sent leaves that sound. */
export function isLost(client: RouterClient, error: unknown): boolean {
  return isServerError(error) ? (endsConnection(error) ?? client.broken) : client.broken
}

/** A pooler may hand a named statement to a session that never prepared it. */
export function withoutName(statement: Statement, client: RouterClient): Statement {
  if (!client.pooled || statement.name === undefined) return statement
  const { name: _, ...unnamed } = statement
  return unnamed
}

/** Whether a statement asks for nothing but text, values and a name. */
function isPlain(
  statement: Statement & { rows?: unknown; binary?: unknown; portal?: unknown; query_timeout?: unknown }
): boolean {
  return (
    statement.rowMode === undefined &&
    statement.types === undefined &&
    statement.queryMode === undefined &&
    statement.rows === undefined &&
    statement.binary === undefined &&
    statement.portal === undefined &&
    statement.query_timeout === undefined
  )
}

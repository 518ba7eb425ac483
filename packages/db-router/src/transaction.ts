import type { QueryResult } from 'pg'
import { untilAborted } from './abortable.js'
import { cancelAndQuarantine } from './cancel.js'
import { capturePosition } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { retryChannel } from './channels.js'
import {
  AbortedError,
  because,
  OutcomeUnknownError,
  RolledBackError,
  TimeoutError,
  TransactionEndedError,
  TransactionTimeoutError,
  UnavailableError
} from './errors.js'
import { isLost, serverTimeout, withoutName, type RouterClient, type Statement } from './router-client.js'
import type { Place, Router, StatementOptions } from './router.js'
import type { Server } from './server.js'
import { codeOf, isRetryableTransaction, isServerError } from './sqlstate.js'
import { limitsOf, toStatement, type QueryFunction, type QueryOptions } from './statement.js'

/** As in SQL; PostgreSQL has no weaker one. */
export type IsolationLevel = 'read committed' | 'repeatable read' | 'serializable'

/** How a transaction runs. */
export interface TransactionSettings {
  isolation?: IsolationLevel | undefined
  /** Runs on a replica that has this author's writes, and can not write. */
  readOnly: boolean
  /** How often the callback runs again after a serialization failure or a deadlock. */
  retries: number
  /** Milliseconds until it is rolled back; 0 for never. */
  timeout: number
  /** Milliseconds a statement of it may take; 0 for any. */
  statementTimeout: number
  signal?: AbortSignal | undefined
}

/** What the callback of a transaction works with. */
export interface Transaction {
  /**
   * Runs within the transaction, on its connection. One that is cancelled by a `timeout` or `signal` of its own ends the
   * transaction with it: what ran is rolled back, and the transaction rejects with the same error.
   *
   * @throws FLOTILLA_DB_ERR_TIMEOUT, FLOTILLA_DB_ERR_ABORTED, FLOTILLA_DB_ERR_TRANSACTION_ENDED, FLOTILLA_DB_ERR_UNAVAILABLE,
   * and what the server says
   */
  query: QueryFunction
}

/** Runs `work` between BEGIN and COMMIT, and again where the server asks for it. */
export async function runTransaction<T>(
  router: Router,
  session: CausalSession,
  settings: TransactionSettings,
  work: (tx: Transaction) => Promise<T>
): Promise<T> {
  const started = performance.now()
  for (let attempt = 0; ; attempt++) {
    let server = ''
    const chosen = (place: Place): void => void (server = place.server.name)
    try {
      return await runOnce(router, session, settings, work, started, chosen)
    } catch (error) {
      // One that can not write may run again wherever its server was lost.
      const lost = settings.readOnly && error instanceof UnavailableError
      if (attempt >= settings.retries || !(lost || isRetryableTransaction(rootOf(error)))) throw error
      retryChannel.publish({ server, kind: 'transaction', code: codeOf(rootOf(error)) })
      // Full jitter: those that collided must not collide again.
      const wait = Math.random() * Math.min(10 * 2 ** attempt, 500)
      await new Promise<void>((resolve) => setTimeout(resolve, wait))
    }
  }
}

// The callback may have wrapped what the server said.
function rootOf(error: unknown): unknown {
  let root = error
  for (let depth = 0; depth < 5 && !isServerError(root) && root instanceof Error && root.cause; depth++)
    root = root.cause
  return root
}

async function runOnce<T>(
  router: Router,
  session: CausalSession,
  settings: TransactionSettings,
  work: (tx: Transaction) => Promise<T>,
  started: number,
  chosen: (place: Place) => void
): Promise<T> {
  const caller = { session, signal: settings.signal }
  const place = await (settings.readOnly ? router.acquireForRead(caller) : router.acquireForWrite(caller))
  chosen(place)
  try {
    return await new Run(router, session, settings, place).run(work, started)
  } finally {
    place.release()
  }
}

/** One attempt. */
class Run {
  readonly #router: Router
  readonly #session: CausalSession
  readonly #settings: TransactionSettings
  readonly #server: Server
  readonly #client: RouterClient
  #begun = false
  #beginFailed: Error | undefined
  #pending = 0
  #idle: (() => void) | undefined
  #committing = false
  #ended = false
  /** Why it ended, where that was before its callback did. */
  #reason: unknown
  #interrupt: (error: Error) => void = () => {}

  constructor(
    router: Router,
    session: CausalSession,
    settings: TransactionSettings,
    { server, client }: { server: Server; client: RouterClient }
  ) {
    this.#router = router
    this.#session = session
    this.#settings = settings
    this.#server = server
    this.#client = client
  }

  async run<T>(work: (tx: Transaction) => Promise<T>, started: number): Promise<T> {
    const { timeout, signal } = this.#settings
    const abort = (): void => this.#interrupt(because(new AbortedError(), signal?.reason))
    const began = performance.now()
    const left = Math.max(1, timeout - (began - started))
    const timer =
      timeout > 0
        ? setTimeout(() => this.#interrupt(new TransactionTimeoutError(timeout)), left).unref()
        : undefined
    this.#server.began()
    try {
      const result = await new Promise<T>((resolve, reject) => {
        this.#interrupt = reject
        this.#session.onAbort(abort)
        signal?.addEventListener('abort', abort)
        if (this.#session.aborted || signal?.aborted) abort()
        else this.#work(work).then(resolve, reject)
      })
      const now = performance.now()
      this.#server.ended(now, now - began)
      return result
    } catch (error) {
      this.#server.gaveUp()
      this.#end(error)
      throw this.#settings.readOnly ? error : this.#router.refused(this.#server, error)
    } finally {
      clearTimeout(timer)
      this.#session.offAbort(abort)
      signal?.removeEventListener('abort', abort)
    }
  }

  async #work<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    const { statementTimeout } = this.#settings
    const defaults = { timeout: statementTimeout }
    const query = ((input: string | object, values?: unknown[], options?: QueryOptions) => {
      const statement = toStatement(input, values)
      const limits = limitsOf(input, options, defaults)
      return limits === defaults
        ? this.#send(statement, statementTimeout)
        : this.#sendWithin(limits, statement)
    }) as QueryFunction
    const result = await work({ query })
    if (this.#ended) throw this.#endedError()
    if (this.#begun) await this.#commit()
    else this.#release()
    return result
  }

  /** A statement with limits of its own. Cancelling it ends the transaction, which could not go on after it anyway. */
  #sendWithin({ timeout, signal }: StatementOptions, statement: Statement): Promise<QueryResult> {
    const answer = untilAborted<QueryResult>(
      { session: this.#session, signal },
      (resolve, reject) => {
        this.#send(statement, timeout).then(resolve, reject)
        return nothing
      },
      timeout > 0 ? { ms: timeout, late: () => new TimeoutError(timeout) } : undefined
    )
    return answer.catch((error: unknown) => {
      if (error instanceof TimeoutError || error instanceof AbortedError) this.#interrupt(error)
      throw error
    })
  }

  /** Sends a statement; the first one takes BEGIN along in the same flight. */
  #send(statement: Statement, timeout: number): Promise<QueryResult> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#endedError())
      const own = withoutName(statement, this.#client)
      const limited = timeout !== this.#settings.statementTimeout
      if (this.#begun && !limited) return this.#ask(own, resolve, reject)
      this.#client.together(() => {
        if (!this.#begun) this.#begin()
        if (limited) this.#limit(timeout)
        // Where BEGIN failed, what came after ran outside a transaction, if at all: BEGIN's error is the one to tell.
        this.#ask(
          own,
          (result) => (this.#beginFailed ? reject(this.#beginFailed) : resolve(result)),
          (error) => reject(this.#beginFailed ?? error)
        )
        if (limited) this.#limit(this.#settings.statementTimeout)
      })
    })
  }

  #begin(): void {
    const { statementTimeout, readOnly } = this.#settings
    this.#begun = true
    this.#client.limit(statementTimeout)
    if (!readOnly) this.#client.restrict(false)
    this.#ask({ text: this.#beginText() }, nothing, (error) => (this.#beginFailed = error))
  }

  #beginText(): string {
    const { isolation, readOnly, timeout, statementTimeout } = this.#settings
    const level = isolation ? ` isolation level ${isolation}` : ''
    const parts = [`begin${level}${readOnly ? ' read only' : ''}`]
    // Should this process stall or die, the server gives up by itself. A session of our own is set up so already;
    // one that a pooler shares out may only be set for the transaction.
    if (this.#client.pooled) {
      if (timeout > 0) parts.push(setLocal('idle_in_transaction_session_timeout', timeout))
      if (statementTimeout > 0) parts.push(setLocal('statement_timeout', statementTimeout))
    }
    return parts.join('; ')
  }

  /** What the server itself allows the statements to come. */
  #limit(timeout: number): void {
    this.#ask({ text: setLocal('statement_timeout', timeout) }, nothing, nothing)
  }

  #ask(
    statement: Statement,
    answered: (result: QueryResult) => void,
    failed: (error: Error) => void,
    Lost: typeof UnavailableError = UnavailableError
  ): void {
    this.#pending++
    this.#client.send(statement, (error, result) => {
      if (--this.#pending === 0) this.#idle?.()
      if (!error) answered(result)
      else if (isLost(this.#client, error)) failed(because(new Lost(this.#server.name), error))
      else failed(error)
    })
  }

  async #commit(): Promise<void> {
    const { captures, topology } = this.#router
    const { readOnly } = this.#settings
    this.#committing = true
    // One that can not write has no outcome to wonder about.
    const Lost = readOnly ? UnavailableError : OutcomeUnknownError
    const command = await new Promise<string>((resolve, reject) => {
      if (!captures || readOnly) {
        return this.#ask(COMMIT, (result) => resolve(result.command), reject, Lost)
      }
      let settle = nothing
      this.#client.together(() => {
        this.#ask(
          COMMIT,
          (result) => (settle = () => resolve(result.command)),
          (error) => (settle = () => reject(error)),
          Lost
        )
        capturePosition(this.#client, this.#session, topology, () => settle())
      })
    })
    if (this.#ended) return
    this.#release()
    if (this.#beginFailed) throw this.#beginFailed
    // The server answers COMMIT of a failed transaction with ROLLBACK, not with an error.
    if (command === 'ROLLBACK') throw new RolledBackError()
  }

  #release(): void {
    this.#ended = true
    this.#server.pool.release(this.#client)
  }

  #endedError(): Error {
    const error = new TransactionEndedError()
    return this.#reason === undefined ? error : because(error, this.#reason)
  }

  /** Rolls back and gives the connection back, however far it came. */
  #end(reason: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#reason = reason
    const { pool } = this.#server
    if (this.#client.broken) return pool.release(this.#client)
    if (this.#pending === 0) return pool.release(this.#client)
    // It may commit all the same; until its position is known, only the primary surely shows it.
    if (this.#committing && this.#router.captures && !this.#settings.readOnly) this.#session.lost()
    const answered = new Promise<void>((resolve) => (this.#idle = resolve))
    void cancelAndQuarantine(this.#client, pool, answered)
  }
}

const setLocal = (name: string, timeout: number): string => `set local ${name} = ${serverTimeout(timeout)}`

const COMMIT: Statement = { text: 'commit' }

const nothing = (): void => {}

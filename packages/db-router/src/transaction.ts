import type { QueryResult } from 'pg'
import { cancelAndQuarantine } from './cancel.js'
import { capturePosition } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { retryChannel } from './channels.js'
import {
  AbortedError,
  because,
  OutcomeUnknownError,
  RolledBackError,
  TransactionEndedError,
  TransactionTimeoutError,
  UnavailableError
} from './errors.js'
import { withoutName, type RouterClient, type Statement } from './router-client.js'
import type { Router } from './router.js'
import type { Server } from './server.js'
import { codeOf, isConnectionError, isRetryableTransaction, isServerError } from './sqlstate.js'
import { toStatement, type QueryFunction } from './statement.js'

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
  /** Runs within the transaction, on its connection. */
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
    try {
      return await runOnce(router, session, settings, work, started)
    } catch (error) {
      // One that can not write may run again wherever its server was lost.
      const lost = settings.readOnly && error instanceof UnavailableError
      if (attempt >= settings.retries || !(lost || isRetryableTransaction(rootOf(error)))) throw error
      retryChannel.publish({ server: '', kind: 'transaction', code: codeOf(rootOf(error)) })
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
  started: number
): Promise<T> {
  const place = await (settings.readOnly ? router.acquireForRead(session) : router.acquireForWrite())
  try {
    return await new Run(router, session, settings, place.server, place.client).run(work, started)
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
  #begun: Promise<QueryResult> | undefined
  #pending = 0
  #idle: (() => void) | undefined
  #committing = false
  /** Why it is over, once it is. */
  #ended: Error | undefined
  #interrupt: (error: Error) => void = () => {}

  constructor(
    router: Router,
    session: CausalSession,
    settings: TransactionSettings,
    server: Server,
    client: RouterClient
  ) {
    this.#router = router
    this.#session = session
    this.#settings = settings
    this.#server = server
    this.#client = client
  }

  async run<T>(work: (tx: Transaction) => Promise<T>, started: number): Promise<T> {
    const { timeout, signal } = this.#settings
    const interrupted = new Promise<never>((_, reject) => (this.#interrupt = reject))
    interrupted.catch(() => {})
    const abort = (): void => this.#interrupt(because(new AbortedError(), signal?.reason))
    const left = Math.max(1, timeout - (performance.now() - started))
    const timer =
      timeout > 0 ? setTimeout(() => this.#interrupt(new TransactionTimeoutError(timeout)), left) : undefined
    timer?.unref()
    this.#session.onAbort(abort)
    signal?.addEventListener('abort', abort)
    if (this.#session.aborted || signal?.aborted) abort()
    this.#server.began()
    const began = performance.now()
    try {
      const result = await Promise.race([this.#work(work), interrupted])
      this.#server.ended(performance.now(), performance.now() - began, undefined)
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
    const query = ((text: string | Statement, values?: unknown[]) =>
      this.#send(toStatement(text, values))) as QueryFunction
    const result = await work({ query })
    if (this.#ended) throw this.#ended
    if (this.#begun) {
      await this.#begun
      await this.#commit()
    } else {
      this.#release()
    }
    return result
  }

  /** Sends a statement; the first one takes BEGIN along in the same flight. */
  async #send(statement: Statement): Promise<QueryResult> {
    if (this.#ended) throw because(new TransactionEndedError(), this.#ended)
    if (this.#begun) return this.#ask(withoutName(statement, this.#client))
    const sent: Promise<QueryResult>[] = []
    this.#client.together(() => {
      this.#client.limit(this.#settings.statementTimeout)
      sent.push(this.#ask({ text: this.#beginText() }), this.#ask(withoutName(statement, this.#client)))
    })
    this.#begun = sent[0]!
    // Where BEGIN failed, what came after ran outside a transaction, if at all: BEGIN's error is the one to tell.
    sent[1]!.catch(() => {})
    await this.#begun
    return sent[1]!
  }

  #beginText(): string {
    const { isolation, readOnly, timeout } = this.#settings
    const level = isolation ? ` isolation level ${isolation}` : ''
    // Should this process stall or die, the server gives up by itself. A session of our own is set up so already;
    // one that a pooler shares out may only be set for the transaction.
    const guarded = timeout > 0 && this.#client.pooled
    const guard = guarded
      ? `; set local idle_in_transaction_session_timeout = ${Math.ceil(timeout) + 1000}`
      : ''
    return `begin${level}${readOnly ? ' read only' : ''}${guard}`
  }

  #ask(statement: Statement): Promise<QueryResult> {
    this.#pending++
    return new Promise((resolve, reject) => {
      this.#client.send(statement, (error, result) => {
        if (--this.#pending === 0) this.#idle?.()
        if (error) reject(this.#explain(error))
        else resolve(result)
      })
    })
  }

  async #commit(): Promise<void> {
    const { captures, topology } = this.#router
    const captured =
      captures && !this.#settings.readOnly
        ? (done: () => void) => capturePosition(this.#client, this.#session, topology, () => done())
        : undefined
    const result = await new Promise<QueryResult>((resolve, reject) => {
      let settle = (): void => {}
      this.#committing = true
      this.#pending++
      this.#client.together(() => {
        this.#client.send({ text: 'commit' }, (error, answer) => {
          if (--this.#pending === 0) this.#idle?.()
          settle = () => (error ? reject(this.#explainCommit(error)) : resolve(answer))
          if (!captured) settle()
        })
        captured?.(() => settle())
      })
    })
    if (this.#ended) return
    this.#release()
    // The server answers COMMIT of a failed transaction with ROLLBACK, not with an error.
    if (result.command === 'ROLLBACK') throw new RolledBackError()
  }

  #release(error?: Error): void {
    this.#ended = new TransactionEndedError()
    this.#server.pool.release(this.#client, error)
  }

  /** Rolls back and gives the connection back, however far it came. */
  #end(reason: unknown): void {
    if (this.#ended) return
    this.#ended = reason instanceof Error ? reason : new TransactionEndedError()
    if (this.#client.broken) return this.#server.pool.release(this.#client, this.#ended)
    if (this.#pending === 0) return this.#server.pool.release(this.#client)
    // It may commit all the same; until its position is known, only the primary surely shows it.
    if (this.#committing && this.#router.captures && !this.#settings.readOnly) this.#session.lost()
    const answered = new Promise<void>((resolve) => (this.#idle = resolve))
    void cancelAndQuarantine(this.#client, this.#server.pool, answered)
  }

  #explain(error: Error): Error {
    return this.#client.broken || isConnectionError(error)
      ? because(new UnavailableError(this.#server.name), error)
      : error
  }

  #explainCommit(error: Error): Error {
    return this.#client.broken || isConnectionError(error)
      ? because(new OutcomeUnknownError(this.#server.name), error)
      : error
  }
}

import type pg from 'pg'
import { cancelAndQuarantine } from './cancel.js'
import { capturePosition, type PositionSink } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { queryChannel } from './channels.js'
import {
  AbortedError,
  because,
  NotAReadError,
  OutcomeUnknownError,
  TimeoutError,
  UnavailableError
} from './errors.js'
import type { Lsn } from './lsn.js'
import { isLost, withoutName, type RouterClient, type Statement } from './router-client.js'
import type { Server } from './server.js'
import { isReadOnly, isServerError } from './sqlstate.js'
import type { Requirement } from './requirement.js'
import type { Topology } from './topology.js'
import { BEGIN_READ_ONLY, sendReadOnly, sendVerified } from './verified-read.js'

/** One statement on one server. */
export interface Task {
  readonly server: Server
  readonly statement: Statement
  readonly session: CausalSession
  readonly kind: 'read' | 'write'
  /** Milliseconds until it is cancelled; 0 for never. */
  readonly timeout: number
  readonly signal: AbortSignal | undefined
  /** Where the write's position goes; none is asked for without. */
  readonly sink: PositionSink | undefined
  /** What a read must have seen, and what learns how far the server that answered was. */
  readonly requirement: Requirement
  readonly topology: Topology
}

/** Called once, with an error or with what the server answered. */
type Settled = (error: Error | undefined, result: pg.QueryResult | undefined) => void

/** Marks errors from before anything was sent: then even a write may go elsewhere. */
export const kUnsent = Symbol('flotilla.db.unsent')

/** Runs a statement on a connection of the server's pool, bounded by its timeout and its session's abort. */
export function execute(task: Task): Promise<pg.QueryResult> {
  return new Promise((resolve, reject) => {
    new Execution(task, (error, result) => (error ? reject(error) : resolve(result!))).start()
  })
}

class Execution {
  readonly #task: Task
  readonly #settled: Settled
  readonly #started = performance.now()
  #client: RouterClient | undefined
  #over = false
  #timer: NodeJS.Timeout | undefined
  #leaveLine: (() => void) | undefined
  /** Set once it is cancelled: called with the server's own answer. */
  #answered: (() => void) | undefined
  readonly #abort = (): void => this.#cancel(because(new AbortedError(), this.#task.signal?.reason))

  constructor(task: Task, settled: Settled) {
    this.#task = task
    this.#settled = settled
  }

  start(): void {
    const { server, session, signal, timeout } = this.#task
    server.began()
    if (session.aborted || signal?.aborted) return this.#abort()
    session.onAbort(this.#abort)
    signal?.addEventListener('abort', this.#abort)
    if (timeout > 0) this.#timer = setTimeout(() => this.#cancel(new TimeoutError(timeout)), timeout)
    this.#leaveLine = server.pool.acquire((failed, client) => {
      if (!failed) return this.#send(client)
      if (this.#over) return
      // A pool that is used up, or an `onConnect` that fails, is this side's doing.
      const seen = failed instanceof UnavailableError ? 'failed' : 'nothing'
      this.#finish(Object.assign(failed, { [kUnsent]: true }), undefined, seen)
    })
  }

  #send(client: RouterClient): void {
    const { server, session, statement, kind, timeout, sink } = this.#task
    if (this.#over) return server.pool.release(client)
    this.#client = client
    client.limit(timeout)
    client.restrict(kind === 'read')
    if (!sink) return this.#sendStatement(client, (error, result) => this.#done(client, error, result))
    let failed: Error | undefined
    let answer: pg.QueryResult | undefined
    client.together(() => {
      client.send(withoutName(statement, client), (error, result) => {
        failed = error
        answer = result
      })
      capturePosition(client, session, sink, () => this.#done(client, failed, answer))
    })
  }

  #sendStatement(client: RouterClient, answered: Settled): void {
    const { server, kind, requirement, topology } = this.#task
    const statement = withoutName(this.#task.statement, client)
    // Meanwhile, in line for the connection, the server may have turned out to be further back.
    const proven = !requirement || (server.identifies(client) && server.hasReached(requirement))
    if (!proven && requirement !== 'primary') {
      const replayed = (lsn: Lsn): void => topology.replayedAtLeast(server, lsn)
      sendVerified(client, server, statement, requirement, replayed, answered)
    } else if (kind === 'read' && client.pooled && !server.observed?.recovery) {
      sendReadOnly(client, BEGIN_READ_ONLY, nothing, statement, answered)
    } else {
      client.send(statement, answered, kind === 'read')
    }
  }

  #done(client: RouterClient, error: Error | undefined, result: pg.QueryResult | undefined): void {
    if (this.#answered) return this.#answered()
    const { pool } = this.#task.server
    if (!error) {
      pool.release(client)
      return this.#finish(undefined, result, 'answered')
    }
    if (isLost(client, error)) {
      pool.release(client, error)
      return this.#finish(explainLoss(this.#task, error), undefined, 'failed')
    }
    pool.release(client)
    // A read that is refused as read-only is the statement's fault: that says nothing about the server's role.
    const refused = this.#task.kind === 'read' && isReadOnly(error)
    const own = refused ? because(new NotAReadError(), error) : error
    this.#finish(own, undefined, isServerError(error) ? 'answered' : 'nothing')
  }

  /** @param seen what it shows of the server */
  #finish(
    error: Error | undefined,
    result: pg.QueryResult | undefined,
    seen: 'answered' | 'failed' | 'nothing'
  ): void {
    const { server, session, signal } = this.#task
    this.#over = true
    clearTimeout(this.#timer)
    session.offAbort(this.#abort)
    signal?.removeEventListener('abort', this.#abort)
    const now = performance.now()
    if (seen === 'answered') server.ended(now, now - this.#started)
    else if (seen === 'failed') server.failed(now)
    else server.gaveUp()
    if (queryChannel.active) publish(this.#task, now - this.#started, error)
    this.#settled(error, result)
  }

  #cancel(error: Error): void {
    if (this.#over) return
    this.#finish(error, undefined, 'nothing')
    const client = this.#client
    if (!client) return this.#leaveLine?.()
    const { server, session, sink } = this.#task
    // It may have committed all the same; until its position is known, only the primary surely shows it.
    if (sink) session.lost()
    const answer = new Promise<void>((settle) => (this.#answered = settle))
    void cancelAndQuarantine(client, server.pool, answer)
  }
}

const nothing = (): undefined => undefined

function explainLoss(task: Task, error: Error): Error {
  const Lost = task.kind === 'write' ? OutcomeUnknownError : UnavailableError
  return because(new Lost(task.server.name), error)
}

function publish({ server, kind }: Task, durationMs: number, error: Error | undefined): void {
  const role = server.observed?.recovery ? 'replica' : 'primary'
  queryChannel.publish({ server: server.name, role, kind, durationMs, ...(error && { error }) })
}

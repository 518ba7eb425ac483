import type pg from 'pg'
import { cancelAndQuarantine } from './cancel.js'
import { capturePosition, type PositionSink } from './capture.js'
import type { CausalSession } from './causal-session.js'
import { queryChannel } from './channels.js'
import { AbortedError, because, OutcomeUnknownError, TimeoutError, UnavailableError } from './errors.js'
import { withoutName, type RouterClient, type Statement, type StatementCallback } from './router-client.js'
import type { Server } from './server.js'
import { isConnectionError, isServerError } from './sqlstate.js'
import type { Requirement, Topology } from './topology.js'
import { sendVerified } from './verified-read.js'

/** One statement on one server. */
export interface Task {
  readonly server: Server
  readonly statement: Statement
  readonly session: CausalSession
  readonly kind: 'read' | 'write'
  /** Milliseconds until it is cancelled; 0 for never. */
  readonly timeout: number
  readonly signal?: AbortSignal | undefined
  /** Where the write's position goes; none is asked for without. */
  readonly sink?: PositionSink | undefined
  /** What a read must have seen, and who is told how far the server that answered was. */
  readonly requirement?: Requirement
  readonly topology?: Topology | undefined
}

/** Marks errors from before anything was sent: then even a write may go elsewhere. */
export const kUnsent = Symbol('flotilla.db.unsent')

/** Runs a statement on a connection of the server's pool, bounded by its timeout and its session's abort. */
export function execute(task: Task): Promise<pg.QueryResult> {
  return new Promise((resolve, reject) => {
    const { server, statement, session, signal, sink } = task
    const started = performance.now()
    let client: RouterClient | undefined
    let over = false
    let timer: NodeJS.Timeout | undefined

    const finish = (error: Error | undefined, raw: Error | undefined, result?: pg.QueryResult): void => {
      over = true
      clearTimeout(timer)
      session.offAbort(aborted)
      signal?.removeEventListener('abort', aborted)
      const now = performance.now()
      if (error && !raw) server.gaveUp()
      else server.ended(now, now - started, raw)
      if (queryChannel.active) publish(task, now - started, error)
      if (error) reject(error)
      else resolve(result!)
    }
    let answered: (() => void) | undefined
    const cancel = (error: Error): void => {
      if (over) return
      finish(error, undefined)
      if (!client) return
      // It may have committed all the same; until its position is known, only the primary surely shows it.
      if (sink) session.lost()
      const answer = new Promise<void>((settle) => (answered = settle))
      void cancelAndQuarantine(client, server.pool, answer)
    }
    const aborted = (): void => cancel(because(new AbortedError(), signal?.reason))

    server.began()
    if (session.aborted || signal?.aborted) return aborted()
    session.onAbort(aborted)
    signal?.addEventListener('abort', aborted)
    if (task.timeout > 0) {
      timer = setTimeout(() => cancel(new TimeoutError(task.timeout)), task.timeout)
    }

    server.pool.acquire((failed, acquired) => {
      if (failed) {
        if (!over) finish(Object.assign(failed, { [kUnsent]: true }), failed)
        return
      }
      if (over) return server.pool.release(acquired)
      client = acquired
      let outcome: { error: Error | undefined; result: pg.QueryResult } | undefined
      const done = (): void => {
        const { error, result } = outcome!
        if (answered) return answered()
        if (!error) {
          server.pool.release(acquired)
          finish(undefined, undefined, result)
          return
        }
        // A mistake found before anything was sent, such as values that are not a list, leaves the connection sound.
        const lost = isConnectionError(error) && (acquired.broken || isServerError(error))
        server.pool.release(acquired, lost ? error : undefined)
        finish(lost ? explainLoss(task, error) : error, lost || isServerError(error) ? error : undefined)
      }
      acquired.limit(task.timeout)
      const answer: StatementCallback = (error, result) => {
        outcome = { error, result }
        if (!sink) done()
      }
      const send = (): void => {
        const sent = withoutName(statement, acquired)
        const { requirement, topology } = task
        if (requirement && requirement !== 'primary' && topology && !server.identifies(acquired)) {
          sendVerified(acquired, server, sent, requirement, (lsn) => topology.replayed(server, lsn), answer)
        } else {
          acquired.send(sent, answer)
        }
        if (sink) capturePosition(acquired, session, sink, done)
      }
      if (sink) acquired.together(send)
      else send()
    })
  })
}

function explainLoss(task: Task, error: Error): Error {
  const Lost = task.kind === 'write' ? OutcomeUnknownError : UnavailableError
  return because(new Lost(task.server.name), error)
}

function publish({ server, kind }: Task, duration: number, error: Error | undefined): void {
  const role = server.observed?.recovery ? 'replica' : 'primary'
  queryChannel.publish({ server: server.name, role, kind, duration, ...(error && { error }) })
}

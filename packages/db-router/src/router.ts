import type pg from 'pg'
import { untilAborted, type Caller } from './abortable.js'
import type { PrimaryBudget } from './budget.js'
import type { CausalSession } from './causal-session.js'
import { gateChannel, retryChannel } from './channels.js'
import { because, FencedError, fromCaller, OverBudgetError, retryAfter, UnavailableError } from './errors.js'
import { execute, kUnsent, type Task } from './execute.js'
import type { Gate } from './gate.js'
import type { RouterClient, Statement } from './router-client.js'
import type { Server } from './server.js'
import { codeOf, isReadOnly, isRetryableRead } from './sqlstate.js'
import type { Requirement } from './requirement.js'
import type { Topology } from './topology.js'
import { NotFreshError } from './verified-read.js'

export interface StatementOptions {
  readonly timeout: number
  readonly signal?: AbortSignal | undefined
}

/** A connection and the server it leads to. */
export interface Place {
  readonly server: Server
  readonly client: RouterClient
  /** Gives back the place, not the connection. */
  readonly release: () => void
}

/** Between two attempts to reach the primary, in milliseconds. */
const RETRY_PAUSE = 25

const NONE: ReadonlySet<Server> = new Set()

/** Sends reads to replicas that are fresh enough and writes to the primary. */
export class Router {
  readonly topology: Topology
  readonly gate: Gate
  readonly budget: PrimaryBudget
  /** Whether writes ask for their position. */
  readonly captures: boolean
  readonly hasReplicas: boolean

  constructor(
    topology: Topology,
    gate: Gate,
    budget: PrimaryBudget,
    captures: boolean,
    hasReplicas: boolean
  ) {
    this.topology = topology
    this.gate = gate
    this.budget = budget
    this.captures = captures
    this.hasReplicas = hasReplicas
  }

  write(session: CausalSession, statement: Statement, options: StatementOptions): Promise<pg.QueryResult> {
    const caller = { session, signal: options.signal }
    const attempt = (server: Server): Promise<pg.QueryResult> =>
      execute(this.#task(server, 'write', session, statement, options, undefined))
    const { primary } = this.topology
    if (!primary || this.gate.aheadOfPrimary(session)) return this.#atPrimary(caller, attempt)
    // Nearly every write ends here, so it is spared what only failures need.
    return attempt(primary).catch((error: unknown) =>
      this.#atPrimary(caller, attempt, { server: primary, error })
    )
  }

  read(session: CausalSession, statement: Statement, options: StatementOptions): Promise<pg.QueryResult> {
    if (!session.ready) return this.#readSomewhere(session, statement, options)
    const requirement = this.gate.requirementOf(session)
    const server = this.gate.chooseNow(requirement)
    if (!server) return this.#readSomewhere(session, statement, options)
    if (requirement && gateChannel.active) gateChannel.publish({ outcome: 'fresh', durationMs: 0 })
    return execute(this.#task(server, 'read', session, statement, options, requirement)).catch(
      (error: unknown) => this.#readSomewhere(session, statement, options, { server, error })
    )
  }

  /** A connection to read from, for callers that keep one for several statements; `release` must follow. */
  async acquireForRead(caller: Caller): Promise<Place> {
    const { session } = caller
    if (!this.gate.isReady(session)) await this.gate.prepare(caller)
    const requirement = this.gate.requirementOf(session)
    const started = performance.now()
    const fresh = this.gate.chooseNow(requirement)
    const server = fresh ?? (await this.gate.waitForReplica(requirement, NONE, caller))
    if (server) {
      const client = await acquire(server, caller).catch((error: unknown) => {
        if (session.aborted || caller.signal?.aborted) throw error
      })
      if (client && (!requirement || (server.identifies(client) && server.hasReached(requirement)))) {
        tellReplica(requirement, fresh !== undefined, started)
        return { server, client, release: () => {} }
      }
      // Several statements can not each bring their proof along: without knowing who answers, only the primary is safe.
      if (client) server.pool.release(client)
    }
    await this.#enterPrimary(requirement, caller, started)
    try {
      const place = await this.acquireForWrite(caller)
      return { ...place, release: () => this.#leavePrimary() }
    } catch (error) {
      this.#leavePrimary()
      throw error
    }
  }

  /** A connection to the primary. */
  acquireForWrite(caller: Caller): Promise<Place> {
    return this.#atPrimary(caller, async (server) => ({
      server,
      client: await acquire(server, caller),
      release: () => {}
    }))
  }

  /** What a failed write means for the topology, as the error its caller gets. */
  refused(server: Server, error: unknown): unknown {
    if (!isReadOnly(error)) return error
    this.topology.fence(server, 'it refused a write as read-only (25006)')
    if (this.topology.primary === server) return error
    return retryAfter(because(new FencedError(server.name), error), 1_000)
  }

  #task(
    server: Server,
    kind: Task['kind'],
    session: CausalSession,
    statement: Statement,
    { timeout, signal }: StatementOptions,
    requirement: Requirement
  ): Task {
    const { topology } = this
    const sink = kind === 'write' && this.captures ? topology : undefined
    return { server, statement, session, kind, timeout, signal, sink, requirement, topology }
  }

  /** Tries replicas that may answer, one after the other, and the primary in the end. */
  async #readSomewhere(
    session: CausalSession,
    statement: Statement,
    options: StatementOptions,
    failed?: Failure
  ): Promise<pg.QueryResult> {
    const caller = { session, signal: options.signal }
    if (!this.gate.isReady(session)) await this.gate.prepare(caller)
    const requirement = this.gate.requirementOf(session)
    const excluded = new Set<Server>()
    if (failed) this.#mayReadElsewhere(failed, excluded)
    for (;;) {
      const started = performance.now()
      const fresh = this.gate.chooseNow(requirement, excluded)
      const server = fresh ?? (await this.gate.waitForReplica(requirement, excluded, caller))
      if (!server) return this.#readFromPrimary(session, statement, options, requirement, started)
      tellReplica(requirement, fresh !== undefined, started)
      try {
        return await execute(this.#task(server, 'read', session, statement, options, requirement))
      } catch (error) {
        this.#mayReadElsewhere({ server, error }, excluded)
      }
    }
  }

  /** @throws the failure, where another server would not do better */
  #mayReadElsewhere({ server, error }: Failure, excluded: Set<Server>): void {
    const unsent = (error as { [kUnsent]?: boolean })[kUnsent] === true
    const lost = error instanceof UnavailableError || error instanceof NotFreshError
    if (!unsent && !lost && !isRetryableRead(error)) throw fromCaller(error)
    retryChannel.publish({ server: server.name, kind: 'read', code: codeOf((error as Error).cause ?? error) })
    excluded.add(server)
  }

  async #readFromPrimary(
    session: CausalSession,
    statement: Statement,
    options: StatementOptions,
    requirement: Requirement,
    started: number
  ): Promise<pg.QueryResult> {
    const caller = { session, signal: options.signal }
    await this.#enterPrimary(requirement, caller, started)
    let last: Server | undefined
    const readAt = (server: Server): Promise<pg.QueryResult> => {
      last = server
      return execute(this.#task(server, 'read', session, statement, options, undefined))
    }
    try {
      return await this.#atPrimary(caller, readAt)
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw fromCaller(error)
      // Lost under way, as when its server was fenced: once more, wherever the primary is now.
      retryChannel.publish({ server: last?.name ?? '', kind: 'read', code: codeOf(error.cause) })
      return await this.#atPrimary(caller, readAt)
    } finally {
      this.#leavePrimary()
    }
  }

  /** Runs at the primary, waiting for one; again only if no statement had been sent, as in the middle of a failover. */
  async #atPrimary<T>(caller: Caller, attempt: (server: Server) => Promise<T>, first?: Failure): Promise<T> {
    const started = performance.now()
    let failed = first
    for (;;) {
      if (failed) {
        const { server, error } = failed
        const unsent =
          (error as { [kUnsent]?: boolean })[kUnsent] === true && error instanceof UnavailableError
        if (!unsent || performance.now() - started > this.topology.primaryWait)
          throw fromCaller(this.refused(server, error))
        await pause(RETRY_PAUSE, caller)
      }
      // A later timeline has a primary of its own: what is written to the earlier one would be lost.
      const ahead = this.gate.aheadOfPrimary(caller.session)
      if (ahead) await this.topology.waitForTimelineOf(ahead, caller)
      const server = this.topology.primary ?? (await this.topology.waitForPrimary(caller))
      try {
        return await attempt(server)
      } catch (error) {
        failed = { server, error }
      }
    }
  }

  /** @param started when the read began to look for a place */
  async #enterPrimary(requirement: Requirement, caller: Caller, started: number): Promise<void> {
    // Without replicas reads at the primary are not a fallback but the order of the day.
    if (this.hasReplicas && !this.budget.tryEnter()) {
      try {
        await this.budget.enter(caller)
      } catch (error) {
        if (requirement && error instanceof OverBudgetError)
          gateChannel.publish({ outcome: 'refused', durationMs: performance.now() - started })
        throw error
      }
    }
    if (requirement) gateChannel.publish({ outcome: 'primary', durationMs: performance.now() - started })
  }

  #leavePrimary(): void {
    if (this.hasReplicas) this.budget.release()
  }
}

function tellReplica(requirement: Requirement, fresh: boolean, started: number): void {
  if (!requirement || !gateChannel.active) return
  gateChannel.publish(
    fresh
      ? { outcome: 'fresh', durationMs: 0 }
      : { outcome: 'waited', durationMs: performance.now() - started }
  )
}

/** What an attempt ended with, and where. */
interface Failure {
  readonly server: Server
  readonly error: unknown
}

function pause(ms: number, caller: Caller): Promise<void> {
  return untilAborted<void>(caller, () => () => {}, { ms, late: () => undefined })
}

function acquire(server: Server, caller: Caller): Promise<RouterClient> {
  return untilAborted(caller, (resolve, reject) => {
    let gone = false
    const leaveLine = server.pool.acquire((error, client) => {
      if (gone) {
        if (!error) server.pool.release(client)
      } else if (error) {
        reject(Object.assign(error, { [kUnsent]: true }))
      } else {
        resolve(client)
      }
    })
    return () => {
      gone = true
      leaveLine()
    }
  })
}

import type pg from 'pg'
import type { PrimaryBudget } from './budget.js'
import type { CausalSession } from './causal-session.js'
import { gateChannel, retryChannel } from './channels.js'
import { because, FencedError, NotAReadError, retryAfter, UnavailableError } from './errors.js'
import { execute, kUnsent } from './execute.js'
import type { Gate } from './gate.js'
import type { RouterClient, Statement } from './router-client.js'
import type { Server } from './server.js'
import { codeOf, isReadOnly, isRetryableRead } from './sqlstate.js'
import type { Requirement, Topology } from './topology.js'
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
  readonly #hasReplicas: boolean

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
    this.#hasReplicas = hasReplicas
  }

  async write(
    session: CausalSession,
    statement: Statement,
    options: StatementOptions
  ): Promise<pg.QueryResult> {
    const sink = this.captures ? this.topology : undefined
    return this.#atPrimary((server) =>
      execute({ server, statement, session, kind: 'write', sink, ...options })
    )
  }

  async read(
    session: CausalSession,
    statement: Statement,
    options: StatementOptions
  ): Promise<pg.QueryResult> {
    if (!session.ready) await session.prepare()
    const requirement = this.gate.requirementOf(session)
    let excluded = NONE
    for (;;) {
      const server =
        this.gate.chooseNow(requirement, excluded) ?? (await this.gate.waitForReplica(requirement, excluded))
      if (!server) return this.#readFromPrimary(session, statement, options, requirement)
      try {
        const { topology } = this
        return await execute({ server, statement, session, kind: 'read', requirement, topology, ...options })
      } catch (error) {
        const cause = (error as Error).cause ?? error
        if (isReadOnly(error)) throw because(new NotAReadError(), error)
        const elsewhere = error instanceof NotFreshError || (error as { [kUnsent]?: boolean })[kUnsent]
        if (!elsewhere && !isRetryable(error, cause)) throw error
        retryChannel.publish({ server: server.name, kind: 'read', code: codeOf(cause) })
        excluded = new Set([...excluded, server])
      }
    }
  }

  /** A connection to read from, for callers that keep one for several statements; `release` must follow. */
  async acquireForRead(session: CausalSession): Promise<Place> {
    if (!session.ready) await session.prepare()
    const requirement = this.gate.requirementOf(session)
    const server = this.gate.chooseNow(requirement) ?? (await this.gate.waitForReplica(requirement, NONE))
    if (server) {
      const client = await acquire(server).catch(() => undefined)
      if (client && (!requirement || server.identifies(client))) return { server, client, release: () => {} }
      // Several statements can not each bring their proof along: without knowing who answers, only the primary is safe.
      if (client) server.pool.release(client)
    }
    await this.#enterPrimary(requirement)
    try {
      const place = await this.acquireForWrite()
      return { ...place, release: () => this.#leavePrimary() }
    } catch (error) {
      this.#leavePrimary()
      throw error
    }
  }

  /** A connection to the primary. */
  async acquireForWrite(): Promise<Place> {
    return this.#atPrimary(async (server) => ({ server, client: await acquire(server), release: () => {} }))
  }

  /** What a failed write means for the topology, as the error its caller gets. */
  refused(server: Server, error: unknown): unknown {
    if (!isReadOnly(error)) return error
    this.topology.fence(server, 'it refused a write as read-only (25006)')
    if (this.topology.primary === server) return error
    return retryAfter(because(new FencedError(server.name), error), 1_000)
  }

  async #readFromPrimary(
    session: CausalSession,
    statement: Statement,
    options: StatementOptions,
    requirement: Requirement
  ): Promise<pg.QueryResult> {
    await this.#enterPrimary(requirement)
    const run = (server: Server): Promise<pg.QueryResult> =>
      execute({ server, statement, session, kind: 'read', ...options })
    try {
      return await this.#atPrimary(run)
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error
      // Lost under way, as when its server was fenced: once more, wherever the primary is now.
      retryChannel.publish({ server: '', kind: 'read', code: codeOf(error.cause) })
      return await this.#atPrimary(run)
    } finally {
      this.#leavePrimary()
    }
  }

  /** Runs at the primary, waiting for one; again only where nothing had been sent, as in the middle of a failover. */
  async #atPrimary<T>(run: (server: Server) => Promise<T>): Promise<T> {
    const started = performance.now()
    for (;;) {
      const server = this.topology.primary ?? (await this.topology.waitForPrimary())
      try {
        return await run(server)
      } catch (error) {
        const unsent =
          (error as { [kUnsent]?: boolean })[kUnsent] === true && error instanceof UnavailableError
        if (!unsent || performance.now() - started > this.topology.primaryWait)
          throw this.refused(server, error)
        await new Promise<void>((resolve) => setTimeout(resolve, RETRY_PAUSE))
      }
    }
  }

  async #enterPrimary(requirement: Requirement): Promise<void> {
    // Without replicas reads at the primary are not a fallback but the order of the day.
    if (this.#hasReplicas && !this.budget.tryEnter()) {
      try {
        await this.budget.enter()
      } catch (error) {
        if (requirement) gateChannel.publish({ outcome: 'refused', waited: 0 })
        throw error
      }
    }
    if (requirement) gateChannel.publish({ outcome: 'primary', waited: 0 })
  }

  #leavePrimary(): void {
    if (this.#hasReplicas) this.budget.release()
  }
}

function isRetryable(error: unknown, cause: unknown): boolean {
  return codeOf(error) === 'FLOTILLA_DB_ERR_UNAVAILABLE' || (error === cause && isRetryableRead(error))
}

function acquire(server: Server): Promise<RouterClient> {
  return new Promise((resolve, reject) => {
    server.pool.acquire((error, client) =>
      error ? reject(Object.assign(error, { [kUnsent]: true })) : resolve(client)
    )
  })
}

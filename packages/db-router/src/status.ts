import { formatLsn } from './lsn.js'
import type { Router } from './router.js'
import type { Server } from './server.js'

/** One server as it was last seen. */
export interface ServerStatus {
  /** `host:port/database`. */
  readonly name: string
  /** Observed, not configured; `unknown` until it was seen, and for one that was fenced. */
  readonly role: 'primary' | 'replica' | 'unknown'
  /** `fenced`: it would take writes but another server was promoted; `ejected`: too far behind; `foreign`: another cluster. */
  readonly state: 'up' | 'down' | 'unknown' | 'fenced' | 'ejected' | 'foreign'
  /** Why it is not `up`. */
  readonly reason: string | undefined
  /** Milliseconds behind the primary; of a replica. */
  readonly lag: number | undefined
  /**
   * Where its log stands: written on the primary, replayed on a replica; as PostgreSQL writes it,
   * `16/B374D848`.
   */
  readonly lsn: string | undefined
  /** Grows with each promotion. */
  readonly timeline: number | undefined
  /** Whether a transaction pooler stands between. */
  readonly pooled: boolean
  /** Milliseconds a statement takes, recent ones counting most. */
  readonly latency: number
  /** Statements that run there for this instance. */
  readonly inFlight: number
  /** Open: statements fail at once until the server answers again. */
  readonly breaker: 'closed' | 'open' | 'half-open'
  /** Of this instance's pool; `waiting` counts callers. */
  readonly connections: { readonly total: number; readonly idle: number; readonly waiting: number }
}

/** The servers as this instance sees them. */
export interface DatabaseStatus {
  /** Name of the server that takes writes, where one is known. */
  readonly primary: string | undefined
  /** In the order of the options. */
  readonly servers: readonly ServerStatus[]
  /** Reads at the primary for want of a replica. */
  readonly fallback: { readonly running: number; readonly waiting: number }
}

export function describe(router: Router): DatabaseStatus {
  const { primary, servers } = router.topology
  return {
    primary: primary?.name,
    servers: servers.map((server) => describeServer(server, server === primary)),
    fallback: { running: router.budget.running, waiting: router.budget.waiting }
  }
}

function lsnOf({ observed, replayed }: Server): string | undefined {
  if (observed?.lsn === undefined) return undefined
  return formatLsn(observed.recovery && replayed > observed.lsn ? replayed : observed.lsn)
}

function describeServer(server: Server, isPrimary: boolean): ServerStatus {
  const { observed } = server
  const recovery = observed?.recovery
  return {
    name: server.name,
    role: isPrimary ? 'primary' : recovery ? 'replica' : 'unknown',
    state:
      server.state !== 'up' ? server.state : server.fenced ? 'fenced' : server.ejected ? 'ejected' : 'up',
    reason: server.reason,
    lag: recovery ? server.lag : undefined,
    lsn: lsnOf(server),
    timeline: observed?.timeline,
    pooled: observed?.pooled === true,
    latency: server.latency,
    inFlight: server.inFlight,
    breaker: server.breaker.state,
    connections: { total: server.pool.total, idle: server.pool.idle, waiting: server.pool.waiting }
  }
}

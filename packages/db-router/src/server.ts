import { Breaker } from './breaker.js'
import { ConnectionPool } from './connection-pool.js'
import type { PoolSettings } from './driver-pool.js'
import type { Lsn } from './lsn.js'
import { Monitor, type MonitorSettings, type Refused } from './monitor.js'
import type { Observation } from './observation.js'
import type { RouterClient } from './router-client.js'
import type { ServerAddress } from './server-address.js'
import type { ConnectionEvents } from './connection-events.js'
import type { Requirement } from './requirement.js'

export type ServerState = 'unknown' | 'up' | 'down' | 'foreign'

const BREAKER_THRESHOLD = 3
/** Servers behind one address, at most; restarts make new ones of the same. */
const MAX_KNOWN = 16
/** Half-life of a latency measurement, in milliseconds. */
const LATENCY_HALF_LIFE = 2_000

/** How its connections and its monitor are set up. */
export interface ServerSettings {
  readonly pool: PoolSettings
  readonly monitor: MonitorSettings
}

/** What a server reports to its topology. */
export interface ServerReports {
  readonly connections: ConnectionEvents
  report(server: Server, observation: Observation | undefined, error?: Error): void
  refusal(server: Server, refusal: Parameters<Refused>[0]): void
}

/** One server: its connections, what was last seen of it, and how fast it answers. */
export class Server {
  readonly name: string
  /** Which option listed it; the role it has is observed. */
  readonly listed: 'primary' | 'replica'
  readonly pool: ConnectionPool
  readonly monitor: Monitor
  readonly breaker = new Breaker(BREAKER_THRESHOLD)
  state: ServerState = 'unknown'
  reason: string | undefined
  /** What the last look failed with. */
  error: Error | undefined
  /** It would take writes, but another server is the primary now. */
  fenced = false
  observed: Observation | undefined
  /** When that was, as `performance.now()` has it. */
  seenAt = 0
  /** The timelines of the cluster's servers seen at this address, by identity: more than one behind a pooler or a VIP. */
  readonly known = new Map<string, number>()
  /**
   * A replica's last seen replay position: a lower bound, for replay goes back only when the server recovers from a crash
   * of one of its backends. That ends every connection, and the first one made after it shows where the server stands.
   */
  replayed: Lsn = 0n
  /** Milliseconds behind the primary; meaningful for a replica. */
  lag = 0
  ejected = false
  /** How long after the primary this replica replays, estimated, in milliseconds. */
  delay = 0
  inFlight = 0
  #latency = 0
  #measuredAt = 0

  constructor(
    { name, config }: ServerAddress,
    listed: 'primary' | 'replica',
    settings: ServerSettings,
    reports: ServerReports
  ) {
    this.name = name
    this.listed = listed
    this.pool = new ConnectionPool(name, config, settings.pool, {
      greeted: (client) => this.#greeted(client),
      event: (event, client, error) => reports.connections.emit(event, this, client, error)
    })
    this.monitor = new Monitor(
      config,
      settings.monitor,
      (observation, error) => reports.report(this, observation, error),
      (refusal) => reports.refusal(this, refusal)
    )
  }

  /** Milliseconds a statement takes, recent ones counting most. */
  get latency(): number {
    return this.#latency
  }

  /**
   * What a further statement would cost here at `now`: the load balancer picks the lower of two. What was measured of a
   * server that is left alone loses its weight, or one slow moment would keep it out for good.
   */
  cost(now: number): number {
    const idle = this.inFlight === 0 ? 2 ** ((this.#measuredAt - now) / LATENCY_HALF_LIFE) : 1
    return (this.inFlight + 1) * (this.#latency * idle + 0.05)
  }

  began(): void {
    this.inFlight++
    this.breaker.begin()
  }

  /** A statement was answered, be it with an error. */
  ended(now: number, duration: number): void {
    this.inFlight--
    this.breaker.succeeded()
    // A rise counts at once, a fall is averaged in over time: a server that turns slow is left quickly.
    const weight = duration > this.#latency ? 0.5 : 1 - 2 ** (-(now - this.#measuredAt) / LATENCY_HALF_LIFE)
    this.#latency += (duration - this.#latency) * Math.max(weight, 0.02)
    this.#measuredAt = now
  }

  /** A statement's connection was lost, or there was none to be had of the server. */
  failed(now: number): void {
    this.inFlight--
    this.breaker.failed(now)
  }

  /** A statement ended on this side, as when its caller gave up: that says nothing about the server. */
  gaveUp(): void {
    this.inFlight--
    this.breaker.undecided()
  }

  /** Takes in which of the servers behind this address answered. */
  remember({ identity, timeline }: Observation): void {
    this.known.delete(identity)
    this.known.set(identity, timeline)
    if (this.known.size > MAX_KNOWN) this.known.delete(this.known.keys().next().value!)
  }

  /** Whether the last seen replay position covers it. */
  hasReached(requirement: Requirement): boolean {
    if (requirement === undefined) return true
    // Without an identity a connection may lead elsewhere than the monitor's.
    if (requirement === 'primary' || this.observed!.identity === '') return false
    return this.observed!.timeline >= requirement.timeline && this.replayed >= requirement.lsn
  }

  /** Whether this very connection leads to the server that the monitor looks at. */
  identifies(client: RouterClient): boolean {
    return !client.pooled && client.identity !== '' && client.identity === this.observed?.identity
  }

  /** A new connection: it may be the first to show that the server came up again at an earlier place. */
  #greeted(client: RouterClient): void {
    if (client.replayed !== undefined && client.replayed < this.replayed && this.identifies(client))
      this.replayed = client.replayed
  }
}

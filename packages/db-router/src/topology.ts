import { untilAborted, type Caller } from './abortable.js'
import { because, NoPrimaryError, retryAfter } from './errors.js'
import { ConnectionEvents } from './connection-events.js'
import { serverChannel, type ServerMessage } from './channels.js'
import type { PositionSink } from './capture.js'
import { endOfRecord, type Lsn, type WalLayout } from './lsn.js'
import type { Refused } from './monitor.js'
import type { Observation } from './observation.js'
import type { PositionMode } from './position-query.js'
import type { Requirement } from './requirement.js'
import type { Server, ServerReports } from './server.js'
import type { Log, TopologySettings } from './topology-settings.js'
import { codeOf, isRefusal, isServerError, reasonOf } from './sqlstate.js'
import { laterOf, type Position } from './token.js'
import { WalHistory } from './wal-history.js'

/** Failed looks in a row before the primary is taken for gone: one may be a hiccup. */
const PRIMARY_FAILURES = 2
/** How long a look that found the fenced server to be the primary after all is believed, in milliseconds. */
const CONFIRMED_FOR = 5_000

/** The servers and their roles, as observed: which one takes writes, which ones may answer reads. */
export class Topology implements PositionSink, ServerReports {
  readonly connections = new ConnectionEvents()
  readonly history = new WalHistory()
  readonly servers: Server[] = []
  systemId: bigint | undefined
  layout: WalLayout | undefined
  /** Whether a server listed as primary has named the cluster; until one has, the word of any server is taken. */
  #named = false
  /** The newest position this instance knows to be committed. */
  newest: Position | undefined
  readonly #settings: TopologySettings
  readonly #log: Log
  readonly #failures = new Map<Server, number>()
  #primary: Server | undefined
  /** The latest timeline seen of any server: one that takes writes on an earlier one was replaced. */
  #timeline = 0
  readonly #waiters = new Set<(primary: Server) => void>()
  /** Reads that wait for a timeline to be seen: each looks, after a report, whether it was. */
  readonly #expecting = new Set<() => void>()
  /** The server that was fenced for refusing a write, until it has been looked at. */
  #suspect: Server | undefined
  #confirmedUntil = 0

  constructor(settings: TopologySettings, log: Log) {
    this.#settings = settings
    this.#log = log
  }

  get primary(): Server | undefined {
    return this.#primary
  }

  /** Whether reads may go to this server as a replica. */
  readable(server: Server, now: number): boolean {
    return (
      server.state === 'up' &&
      server.observed?.recovery === true &&
      !server.ejected &&
      server.breaker.allows(now)
    )
  }

  get primaryWait(): number {
    return this.#settings.primaryWait
  }

  waitForPrimary(caller: Caller): Promise<Server> {
    for (const server of this.servers) void server.monitor.look()
    return untilAborted<Server>(
      caller,
      (resolve) => {
        const found = (primary: Server): void => {
          this.#waiters.delete(found)
          resolve(primary)
        }
        this.#waiters.add(found)
        return () => this.#waiters.delete(found)
      },
      { ms: this.#settings.primaryWait, late: () => this.#noPrimary() }
    )
  }

  /** Whether a position is of a promotion that this instance has yet to see: no server it knows can have it. */
  isAhead({ systemId, timeline }: Position): boolean {
    return systemId === this.systemId && timeline > this.#timeline
  }

  /** Waits as long as for a primary until a server shows the timeline of a position that {@link isAhead}. */
  waitForTimelineOf(position: Position, caller: Caller): Promise<void> {
    for (const server of this.servers) void server.monitor.lookAfresh()
    return untilAborted<void>(
      caller,
      (resolve) => {
        const look = (): void => {
          if (this.isAhead(position)) return
          this.#expecting.delete(look)
          resolve()
        }
        this.#expecting.add(look)
        return () => this.#expecting.delete(look)
      },
      {
        ms: this.#settings.primaryWait,
        late: () => this.#noPrimary(`none seen on timeline ${position.timeline}; `)
      }
    )
  }

  #noPrimary(detail = ''): Error {
    const states = this.servers.map((one) => `${one.name}: ${one.observed?.recovery ? 'replica' : one.state}`)
    const error = retryAfter(new NoPrimaryError(detail + states.join(', ')), this.#settings.primaryWait)
    // As cause, for Fastify shows a message to the client.
    const failed = this.servers.find((one) => one.error)
    return failed ? because(error, failed.error) : error
  }

  /** A write was refused as read-only: nothing goes there until a look shows a primary again. */
  fence(server: Server, reason: string): void {
    // A look just said it is no replica: then it is a setting that refuses the write, and fencing would not help.
    if (server !== this.#primary || performance.now() < this.#confirmedUntil) return
    server.state = 'unknown'
    server.reason = reason
    this.#primary = undefined
    this.#suspect = server
    this.#tell(server, 'fenced', reason)
    // Statements under way could still be accepted by a primary that was replaced.
    server.pool.destroyAll(new Error(`${server.name} is fenced: ${reason}`))
    for (const one of this.servers) void one.monitor.look()
  }

  report(server: Server, observation: Observation | undefined, error?: Error): void {
    if (!observation) return this.#lost(server, error)
    const now = performance.now()
    const before = server.observed
    server.observed = observation
    server.seenAt = now
    if (server.error) server.pool.reachable()
    server.error = undefined
    this.#failures.delete(server)
    server.breaker.reachable()
    if (before && before.identity !== observation.identity) this.#replaced(server, observation)
    this.#learnCluster()
    if (this.#isForeign(observation)) return this.#foreign(server)
    server.remember(observation)
    if (server.state !== 'up') this.#tell(server, 'up')
    server.state = 'up'
    server.reason = undefined
    if (observation.recovery) this.#sawReplica(server, observation, now)
    this.#timeline = Math.max(this.#timeline, observation.timeline)
    this.#elect()
    for (const look of this.#expecting) look()
    if (this.#expecting.size > 0) void server.monitor.lookAfresh()
    if (server !== this.#primary) return
    if (this.#suspect === server) this.#confirmedUntil = now + CONFIRMED_FOR
    this.#suspect = undefined
    this.#recordPosition(now, observation)
  }

  #recordPosition(now: number, { timeline, lsn }: Observation): void {
    if (lsn !== undefined) this.history.add(now, timeline, endOfRecord(lsn, this.layout))
  }

  /** A server that does not say which cluster it belongs to belongs to this one. */
  #isForeign({ systemId }: Observation): boolean {
    return this.systemId !== undefined && systemId !== undefined && systemId !== this.systemId
  }

  /** Takes in what a server refuses to say: what depends on it is off, and the rest works. */
  refusal(server: Server, { name, lost, code }: Parameters<Refused>[0]): void {
    this.#log.warn({ server: server.name, function: name, code }, `${server.name} refuses ${name}: ${lost}`)
  }

  /** How a write's position is asked for. */
  get positions(): PositionMode {
    const observed = this.#primary?.observed
    if (observed?.lsn === undefined) return 'unknown'
    return observed.asynchronous ? 'inserted' : 'flushed'
  }

  /** A position the primary has just reported to a write. */
  reached(position: Position): void {
    this.newest = laterOf(this.newest, position)
    this.history.add(performance.now(), position.timeline, position.lsn)
    if (position.timeline > (this.#primary?.observed?.timeline ?? 0)) void this.#primary?.monitor.lookAfresh()
  }

  /** A replica's replay position, as one of its connections showed it; others may have shown more already. */
  replayedAtLeast(server: Server, lsn: Lsn): void {
    if (lsn > server.replayed) this.replayed(server, lsn)
  }

  /** A replica's replay position, as its monitor saw it: further back than before after a crash. */
  replayed(server: Server, lsn: Lsn): void {
    const { observed } = server
    if (!observed?.recovery) return
    server.replayed = lsn
    const now = performance.now()
    const lag = this.history.lag(now, observed.timeline, server.replayed)
    // Behind: it takes at least that long. Not behind: it takes no longer than the newest sample is old.
    server.delay =
      lag > 0 ? Math.max(lag, server.delay * 0.9) : Math.min(server.delay, this.history.sinceLast(now))
  }

  /** What `position` asks of a replica now. */
  requirementOf(position: Position | undefined): Requirement {
    if (!position) return undefined
    const current = this.history.timeline
    if (this.systemId === undefined || position.systemId !== this.systemId) return 'primary'
    if (position.timeline >= current) return position
    const lsn = this.history.firstOf(current)
    return lsn === undefined ? 'primary' : { timeline: current, lsn }
  }

  #lost(server: Server, error: Error | undefined): void {
    const failures = (this.#failures.get(server) ?? 0) + 1
    this.#failures.set(server, failures)
    server.reason = reasonOf(error)
    server.error = error
    // One late answer is not yet an outage; and what is connected goes on where no further connection is taken.
    const once = codeOf(error) !== 'ECONNREFUSED' && failures < PRIMARY_FAILURES
    const stays =
      server === this.#primary ? once || isRefusal(error) : isRefusal(error) && this.#isInTime(server)
    if (stays) {
      this.#log.warn({ server: server.name, err: error }, `${server.name}: ${server.reason}`)
      return
    }
    if (server.state === 'down') return
    server.state = 'down'
    server.breaker.failed(performance.now())
    this.#tell(server, 'down', server.reason)
    // Statements waiting for a server that no longer answers fail now, and reads go elsewhere.
    if (!isServerError(error))
      server.pool.destroyAll(because(new Error(`${server.name} does not answer`), error))
    if (server === this.#primary) this.#elect()
  }

  /** Whether a replica with open connections is in use, and can not be further behind by now than one in use may be. */
  #isInTime(server: Server): boolean {
    const unseen = performance.now() - server.seenAt
    return server.state === 'up' && server.pool.total > 0 && server.lag + unseen <= this.#settings.maxLag
  }

  #replaced(server: Server, observation: Observation): void {
    server.replayed = 0n
    server.pool.destroyWhere(
      (client) => !client.pooled && client.identity !== '' && client.identity !== observation.identity,
      new Error(`${server.name} is another server than before`)
    )
  }

  #foreign(server: Server): void {
    const known = server.state === 'foreign'
    server.state = 'foreign'
    server.reason = 'it belongs to another cluster: its system identifier differs'
    if (!known) this.#tell(server, 'foreign', server.reason)
    if (server === this.#primary || !this.#named) this.#elect()
  }

  #learnCluster(): void {
    if (this.#named) return
    const reference = this.#reference()
    if (!reference) return
    this.#named = reference.listed === 'primary'
    const { systemId = 0n, layout } = reference.observed!
    if (systemId === this.systemId) return
    this.systemId = systemId
    this.layout = layout
    this.history.clear()
    this.newest = undefined
    this.#timeline = 0
    for (const one of this.servers) {
      if (one.observed && this.#isForeign(one.observed)) this.#foreign(one)
      else if (one.observed) this.#timeline = Math.max(this.#timeline, one.observed.timeline)
    }
  }

  /** The server whose word on the cluster counts: of those listed as primary the first that is one, before any other. */
  #reference(): Server | undefined {
    const listed = this.servers.filter((one) => one.listed === 'primary')
    for (const one of listed) {
      if (one.observed?.recovery === false) return one
      // Not looked at yet: it may be the one.
      if (!one.observed && one.state === 'unknown') return undefined
    }
    return [...listed, ...this.servers].find((one) => one.observed)
  }

  #sawReplica(server: Server, observation: Observation, now: number): void {
    // Without a position its lag can not be known, and it is not left for it.
    if (observation.lsn === undefined) return
    this.replayed(server, observation.lsn)
    const { history } = this
    // Further back than the history reaches, only the replica itself can say how far.
    const known = history.lsn === undefined || history.knows(observation.timeline, observation.lsn)
    const lag = history.lag(now, observation.timeline, observation.lsn)
    server.lag = known || lag === 0 ? lag : Math.max(lag, (observation.sinceReplay ?? 0) * 1000)
    const ejected = server.lag > this.#settings.maxLag
    if (ejected && !server.ejected) this.#tell(server, 'ejected', `${Math.round(server.lag)} ms behind`)
    if (!ejected && server.ejected) this.#tell(server, 'up', 'caught up')
    server.ejected = ejected
  }

  /**
   * The server that takes writes: not in recovery, and on the latest timeline ever seen. One on an earlier timeline was
   * replaced, and stays so while its successor is away: writes then wait. They wait too while no server listed as primary
   * has been seen and the others do not all agree which cluster is meant.
   */
  #elect(): void {
    const agreed =
      this.#named || this.servers.every(({ state }) => state !== 'foreign' && state !== 'unknown')
    // Until then a server on the first timeline, before any promotion, is the successor of none.
    const oldest = this.#named ? 1 : 2
    const able = this.servers.filter(
      ({ state, observed }) =>
        agreed &&
        state === 'up' &&
        observed?.recovery === false &&
        (observed.timeline >= oldest || this.#named)
    )
    const latest = this.#timeline
    // One that does not say its timeline is taken at its word that it takes writes.
    const best = able.filter(({ observed }) => observed!.timeline === latest || observed!.timeline === 0)
    const chosen = this.#primary && best.includes(this.#primary) ? this.#primary : best[0]
    for (const one of able) {
      if (one !== chosen) one.reason = `${chosen?.name ?? 'another server'} was promoted`
      if (one !== chosen && !one.fenced) {
        this.#tell(one, 'fenced', one.reason)
        one.pool.destroyAll(new Error(`${one.name} is fenced: ${one.reason}`))
      }
      one.fenced = one !== chosen
    }
    const before = this.#primary
    if (chosen === before) return
    this.#primary = chosen
    if (!chosen) return
    if (before || (this.history.timeline > 0 && latest > this.history.timeline))
      this.#tell(chosen, 'promoted')
    this.#recordPosition(performance.now(), { ...chosen.observed!, timeline: latest })
    for (const found of this.#waiters) found(chosen)
  }

  #tell(server: Server, event: ServerMessage['event'], reason?: string): void {
    serverChannel.publish({ server: server.name, event, ...(reason !== undefined && { reason }) })
    const level = event === 'foreign' ? 'error' : event === 'up' || event === 'promoted' ? 'info' : 'warn'
    this.#log[level]({ server: server.name, event, reason }, `${server.name} is ${event}`)
  }
}

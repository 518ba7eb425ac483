import { untilAborted, type Caller } from './abortable.js'
import type { CausalSession } from './causal-session.js'
import type { Server } from './server.js'
import type { Position } from './token.js'
import type { Requirement } from './requirement.js'
import type { Topology } from './topology.js'

export interface GateSettings {
  /** How long a read may wait for a replica to catch up, in milliseconds. */
  maxWait: number
  /** False turns read-your-writes off: any replica answers any read. */
  enabled: boolean
}

/** Time between two questions to a replica that others wait for, in milliseconds: the first, and the longest. */
const FIRST_STEP = 1
const LONGEST_STEP = 8
/** A replica that no read waits for is asked at most this often, in milliseconds. */
const BACKGROUND_STEP = 20

/** A read that waits for a replica. */
interface Waiter {
  readonly requirement: Exclude<Requirement, 'primary' | undefined>
  readonly excluded: ReadonlySet<Server>
  /** The replicas that are being asked for it. */
  readonly asked: Set<Server>
  readonly found: (server: Server | undefined) => void
}

/** Decides which replica may answer a read: one that has replayed what the reader must see. */
export class Gate {
  readonly #topology: Topology
  readonly #settings: GateSettings
  readonly #asked = new Map<Server, number>()
  readonly #loops = new Map<Server, { until: number }>()
  #waiters: Waiter[] = []

  constructor(topology: Topology, settings: GateSettings) {
    this.#topology = topology
    this.#settings = settings
  }

  /** What a read of this session must have seen. */
  requirementOf(session: CausalSession): Requirement {
    if (!this.#settings.enabled) return undefined
    if (session.pinned) return 'primary'
    return session.position ? this.#topology.requirementOf(session.position) : undefined
  }

  /** Waits for what must be known before a read of this session can be placed: its author's writes, and their timeline. */
  async prepare(caller: Caller): Promise<void> {
    await caller.session.prepare()
    const { position } = caller.session
    if (position && this.#isAhead(position)) await this.#topology.waitForTimelineOf(position, caller)
  }

  /** The position that keeps a write of this session from a primary older than it, where one is known. */
  aheadOfPrimary(session: CausalSession): Position | undefined {
    if (!this.#settings.enabled) return undefined
    session.peek()
    const { position } = session
    return position && this.#topology.isAhead(position) ? position : undefined
  }

  /** Whether a read of this session can be placed without waiting for anything. */
  isReady({ ready, position }: CausalSession): boolean {
    return ready && !(position && this.#isAhead(position))
  }

  #isAhead(position: Position): boolean {
    return this.#settings.enabled && this.#topology.isAhead(position)
  }

  /** A replica known to be far enough, without asking any. */
  chooseNow(requirement: Requirement, excluded?: ReadonlySet<Server>): Server | undefined {
    if (requirement === 'primary') return undefined
    const now = performance.now()
    let fit: Server[] | undefined
    let single: Server | undefined
    for (const server of this.#topology.servers) {
      if (!this.#topology.readable(server, now) || excluded?.has(server) || !server.hasReached(requirement))
        continue
      if (!single) single = server
      else if (fit) fit.push(server)
      else fit = [single, server]
    }
    return fit ? cheaperOfTwo(fit, now) : single
  }

  /** Asks the replicas that should get there within the bound, and waits for the first that does. */
  async waitForReplica(
    requirement: Requirement,
    excluded: ReadonlySet<Server>,
    caller: Caller
  ): Promise<Server | undefined> {
    if (requirement === 'primary' || requirement === undefined) return undefined
    const started = performance.now()
    const { history, servers } = this.#topology
    const age = history.age(started, requirement.timeline, requirement.lsn)
    const asked = new Set<Server>()
    const deadline = started + this.#settings.maxWait
    for (const server of servers) {
      if (!this.#topology.readable(server, started) || excluded.has(server)) continue
      if (server.observed!.timeline < requirement.timeline) continue
      // It takes no connection to ask on: the next look shows when it does again.
      if (server.error) continue
      if (server.delay - age <= this.#settings.maxWait) {
        asked.add(server)
        this.#ask(server, deadline)
      } else {
        // It will not make it for this read; find out for later ones.
        this.#askInBackground(server, started)
      }
    }
    if (asked.size === 0) return undefined
    return untilAborted<Server | undefined>(
      caller,
      (found) => {
        const waiter = { requirement, excluded, asked, found }
        this.#waiters.push(waiter)
        return () => {
          this.#waiters = this.#waiters.filter((one) => one !== waiter)
        }
      },
      { ms: this.#settings.maxWait, late: () => undefined }
    )
  }

  /** Keeps asking a replica while a read waits for it. */
  #ask(server: Server, until: number): void {
    const running = this.#loops.get(server)
    if (running) {
      running.until = Math.max(running.until, until)
      return
    }
    const loop = { until }
    this.#loops.set(server, loop)
    void this.#run(server, loop)
  }

  async #run(server: Server, loop: { until: number }): Promise<void> {
    try {
      let step = FIRST_STEP
      for (;;) {
        const lsn = await server.monitor.probe()
        if (lsn === undefined) return this.#giveUp(server)
        this.#topology.replayed(server, lsn)
        // While it gets there for some, the others need not wait long either.
        step = this.#wake(server) ? FIRST_STEP : Math.min(step * 2, LONGEST_STEP)
        if (this.#waiters.length === 0 || performance.now() >= loop.until) return
        await new Promise<void>((resolve) => setTimeout(resolve, step))
      }
    } finally {
      // At once: the next read starts the next one.
      this.#loops.delete(server)
    }
  }

  #askInBackground(server: Server, now: number): void {
    if (now - (this.#asked.get(server) ?? 0) < BACKGROUND_STEP) return
    this.#asked.set(server, now)
    this.#ask(server, now)
  }

  /** It does not answer: a read that waits for no other replica need not wait on. */
  #giveUp(server: Server): void {
    const waiting = this.#waiters
    this.#waiters = []
    for (const waiter of waiting) {
      waiter.asked.delete(server)
      if (waiter.asked.size === 0) waiter.found(undefined)
      else this.#waiters.push(waiter)
    }
  }

  /** Sends the waiting reads that it is far enough for there; whether there were any. */
  #wake(server: Server): boolean {
    if (this.#waiters.length === 0 || !this.#topology.readable(server, performance.now())) return false
    const waiting = this.#waiters
    this.#waiters = []
    for (const waiter of waiting) {
      if (!waiter.excluded.has(server) && server.hasReached(waiter.requirement)) waiter.found(server)
      else this.#waiters.push(waiter)
    }
    return this.#waiters.length < waiting.length
  }
}

/** Power of two choices: nearly as even as asking all, without all callers rushing to the same best one. */
function cheaperOfTwo(servers: readonly Server[], now: number): Server {
  const first = Math.floor(Math.random() * servers.length)
  const step = 1 + Math.floor(Math.random() * (servers.length - 1))
  const one = servers[first]!
  const other = servers[(first + step) % servers.length]!
  return other.cost(now) < one.cost(now) ? other : one
}

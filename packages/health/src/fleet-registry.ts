import { createChannel, formatDuration } from '@flotilla/core'
import { hashTag, type FleetBus, type RedisClient } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import { HealthFleetTimeoutError } from './errors.js'
import { readMembers, type FleetMember, type FleetView, type InstanceReport } from './fleet-view.js'
import { heartbeat } from './lua/heartbeat.js'
import { leave } from './lua/leave.js'
import { roster } from './lua/roster.js'
import type { FleetSettings } from './options.js'

/** `flotilla:health:heartbeat`: a heartbeat was answered, or failed. `fenced`: the lease had been taken away. */
const beaten = createChannel<{ outcome: 'renewed' | 'fenced' | 'failed'; durationMs: number }>(
  'health',
  'heartbeat'
)
/** `flotilla:health:eviction`: this instance found that `instance` let its lease lapse, before any other did. */
const evicted = createChannel<{ instance: string }>('health', 'eviction')

/** What the registry tells its app. */
export interface FleetListener {
  /** A heartbeat that was answered: who is there, and whether the lease had been taken away. */
  onBeat(members: readonly FleetMember[], held: boolean): void
  /** No heartbeat has been answered for a whole lease. */
  onLapsed(error: Error): void
}

/**
 * One lease in Redis that says "this instance lives". Leases are counted by Redis' clock and the age of what
 * is known by this process' monotonic one, so wrong wall clocks do no harm.
 */
export class FleetRegistry {
  private readonly keys: [leases: string, reports: string, evicted: string, meta: string]
  private readonly interval: number
  private timer: NodeJS.Timeout | undefined
  private beating: Promise<void> | undefined
  private stopped = true
  private renewedAt = performance.now()
  private members: FleetMember[] = []
  private readAt = -Infinity
  private reading: Promise<void> | undefined

  constructor(
    private readonly client: RedisClient,
    private readonly bus: FleetBus,
    private readonly settings: FleetSettings,
    private readonly report: () => InstanceReport,
    private readonly listener: FleetListener,
    private readonly log: FastifyBaseLogger
  ) {
    const part = (name: string): string => hashTag(`flotilla:fleet:${settings.name}`, name)
    bus.useScope('instance.left', settings.name)
    this.keys = [part('leases'), part('reports'), part('evicted'), part('meta')]
    this.interval = settings.lease / 3
  }

  start(): void {
    this.stopped = false
    this.beat()
  }

  /** Sends a heartbeat now, for a state that the others should not learn late. */
  beat(): void {
    if (this.stopped || this.beating !== undefined) return
    clearTimeout(this.timer)
    this.beating = this.cycle()
  }

  /** Gives the lease back and announces it, in bounded time; with Redis away the lease lapses instead. */
  async leave(): Promise<void> {
    if (this.stopped) return
    this.stopped = true
    clearTimeout(this.timer)
    await this.beating
    try {
      const was = await this.bounded(leave.run(this.client, this.keys.slice(0, 3), [this.bus.instance]))
      if (Number(was) === 1) await this.bounded(this.#announceLeft(this.bus.instance))
    } catch (error) {
      this.log.warn({ err: error }, 'could not leave the fleet registry; the lease lapses by itself')
    }
  }

  /** The fleet by a fresh look, at most one a second; what was last known where Redis does not answer. */
  async view(): Promise<FleetView> {
    let stale = false
    if (performance.now() - this.readAt > 1000) {
      try {
        this.reading ??= this.read().finally(() => (this.reading = undefined))
        await this.reading
      } catch {
        stale = true
      }
    }
    const age = Math.round(performance.now() - this.readAt)
    const instances = this.members.map((member) => {
      const lease = member.lease - age
      return lease > 0 || stale ? { ...member, lease } : { ...member, lease, state: 'lost' as const }
    })
    return {
      fleet: this.settings.name,
      self: this.bus.instance,
      stale,
      age: Number.isFinite(age) ? age : 0,
      instances
    }
  }

  private async read(): Promise<void> {
    const [now, ...flat] = await this.bounded(roster.run(this.client, this.keys.slice(0, 2), []))
    this.remember(Number(now), flat)
  }

  private async cycle(): Promise<void> {
    const held = await this.renew()
    this.beating = undefined
    if (this.stopped) return
    // Fenced: the next heartbeat renews, and should come soon.
    const pause = held ? this.interval * (0.9 + Math.random() * 0.2) : this.interval / 2
    this.timer = setTimeout(() => this.beat(), pause)
    this.timer.unref()
  }

  /** False where the lease had been taken away. */
  private async renew(): Promise<boolean> {
    const began = performance.now()
    let outcome: 'renewed' | 'fenced' | 'failed' = 'renewed'
    try {
      const args = [this.bus.instance, Math.round(this.settings.lease), JSON.stringify(this.report())]
      const [renewed, now, left, ...flat] = await this.bounded(heartbeat.run(this.client, this.keys, args))
      const held = Number(renewed) === 1
      if (!held) outcome = 'fenced'
      // Counted from when it was sent: the reply may have taken a while.
      this.renewedAt = began
      this.remember(Number(now), flat)
      this.listener.onBeat(this.members, held)
      this.announce(left)
    } catch (error) {
      outcome = 'failed'
      const lapsed = performance.now() - this.renewedAt > this.settings.lease
      if (lapsed) this.listener.onLapsed(error as Error)
    }
    beaten.publish({ outcome, durationMs: performance.now() - began })
    return outcome !== 'fenced'
  }

  private announce(left: readonly string[]): void {
    for (const instance of left) {
      this.log.warn({ left: instance }, 'an instance let its lease lapse')
      evicted.publish({ instance })
      this.#announceLeft(instance).catch((error: unknown) => {
        this.log.warn({ err: error, left: instance }, 'could not announce that an instance left')
      })
    }
  }

  /** Fleets of other names may share the bus. */
  #announceLeft(instance: string): Promise<void> {
    return this.bus.publish('instance.left', { instance }, { scope: this.settings.name })
  }

  private remember(now: number, flat: readonly string[]): void {
    this.members = readMembers(now, flat)
    this.readAt = performance.now()
  }

  /** A plain client may queue commands for as long as Redis is away. */
  private async bounded<T>(promise: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    const limit = Math.min(this.interval, 2000)
    try {
      return await Promise.race([
        promise,
        new Promise<never>((_resolve, reject) => {
          timer = setTimeout(() => reject(new HealthFleetTimeoutError(formatDuration(limit))), limit)
        })
      ])
    } finally {
      clearTimeout(timer)
    }
  }
}

import type { FleetBus } from '@flotilla/redis'
import { LRUCache } from 'lru-cache'
import { CHANGED, REVOKED } from './topics.js'
import type { RedisClock } from './clock.js'
import type { SessionRecord } from './session-records.js'
import type { SessionToken } from './token.js'

interface Fill {
  fresh: boolean
}

export interface LocalSettings {
  readonly maxAge: number
  readonly max: number
  readonly maxSize: number
  readonly idleTimeout: number
  /** The key prefix of the sessions. */
  readonly scope: string
}

/**
 * Sessions held in memory between requests, by their references. Nothing is kept or used unless the bus is live: without it a change on
 * another instance would go unheard.
 */
export class LocalSessions {
  readonly #bus: FleetBus
  readonly #clock: RedisClock
  readonly #settings: LocalSettings
  readonly #fills = new Map<string, Set<Fill>>()
  readonly #held: LRUCache<string, SessionRecord>

  constructor(bus: FleetBus, clock: RedisClock, settings: LocalSettings) {
    this.#bus = bus
    this.#clock = clock
    this.#settings = settings
    this.#held = new LRUCache({
      max: settings.max,
      maxSize: settings.maxSize,
      ttl: settings.maxAge,
      // Reading the clock costs less than the timer that saves reading it.
      ttlResolution: 0,
      sizeCalculation: sizeOf
    })
    const { scope } = settings
    bus.subscribe(REVOKED, (payload) => this.#hear(payload), { scope })
    bus.subscribe(CHANGED, (payload) => this.#hear(payload), { scope })
    bus.onGap(() => this.#clear())
  }

  /** Only the token that the copy was read with opens it: any other one is for the store to judge. */
  get({ ref, generation, verifierHash }: SessionToken): SessionRecord | undefined {
    const held = this.#held.get(ref)
    return held?.token.generation === generation && held.token.verifierHash === verifierHash
      ? held
      : undefined
  }

  /** To be called before the store is asked; what comes back is kept only if nothing was heard of it meanwhile. */
  begin(ref: string): (record: SessionRecord | undefined) => void {
    const fill: Fill = { fresh: this.#bus.status().connected }
    const ongoing = this.#fills.get(ref) ?? new Set()
    this.#fills.set(ref, ongoing)
    ongoing.add(fill)
    return (record) => {
      ongoing.delete(fill)
      if (ongoing.size === 0 && this.#fills.get(ref) === ongoing) this.#fills.delete(ref)
      if (!record?.presented || !fill.fresh) return
      const { absoluteAt, touchedAt, idleTimeout } = record.meta
      const idleAt = touchedAt + (idleTimeout || this.#settings.idleTimeout)
      const left = Math.min(absoluteAt, idleAt) - this.#clock.now()
      if (left > 0) this.#held.set(ref, record, { ttl: Math.min(this.#settings.maxAge, left) })
    }
  }

  drop(ref: string): void {
    this.#held.delete(ref)
    for (const fill of this.#fills.get(ref) ?? []) fill.fresh = false
  }

  #clear(): void {
    this.#held.clear()
    for (const ongoing of this.#fills.values()) for (const fill of ongoing) fill.fresh = false
  }

  #hear(payload: unknown): void {
    const list = (payload as { refs?: unknown } | null)?.refs
    if (Array.isArray(list)) for (const ref of list) if (typeof ref === 'string') this.drop(ref)
  }
}

function sizeOf({ fields }: SessionRecord): number {
  let size = 512
  for (const field in fields) size += 2 * (field.length + fields[field]!.length)
  return size
}

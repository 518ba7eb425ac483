import type { FleetBus } from '@flotilla/redis'
import { LRUCache } from 'lru-cache'
import { CHANGED, REVOKED } from '../lifecycle/revocation-publisher.js'
import type { RedisClock } from './clock.js'
import type { Found } from './store.js'

/** Sessions held in memory between requests. */
export interface LocalSessions {
  get(hash: string): Found | undefined
  /** To be called before Redis is asked; what comes back is kept only if nothing was heard of it meanwhile. */
  begin(hash: string): (found: Found | undefined) => void
  /** Forgets a session by its reference, or by the hash of its id. */
  drop(ref: string): void
}

interface Fill {
  fresh: boolean
  /** References heard of meanwhile: a renewed session is known by its own only once it has arrived. */
  readonly heard: Set<string>
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
 * Nothing is kept or used unless the bus is live: without it a change on another instance would go unheard.
 */
export function createLocalSessions(
  bus: FleetBus,
  clock: RedisClock,
  settings: LocalSettings
): LocalSessions {
  // The hashes under which a renewed session is held besides its reference.
  const renewed = new Map<string, string>()
  const fills = new Map<string, Set<Fill>>()
  const held = new LRUCache<string, Found>({
    max: settings.max,
    maxSize: settings.maxSize,
    ttl: settings.maxAge,
    // Reading the clock costs less than the timer that saves reading it.
    ttlResolution: 0,
    sizeCalculation: sizeOf,
    dispose: ({ meta, ticket }, _hash, reason) => {
      if (reason !== 'set' && renewed.get(meta.ref) === ticket.hash) renewed.delete(meta.ref)
    }
  })

  const dropHash = (hash: string): void => {
    held.delete(hash)
    for (const fill of fills.get(hash) ?? []) fill.fresh = false
  }
  const drop = (ref: string): void => {
    const hash = renewed.get(ref)
    if (hash !== undefined) dropHash(hash)
    dropHash(ref)
    for (const ongoing of fills.values()) for (const fill of ongoing) fill.heard.add(ref)
  }
  const clear = (): void => {
    held.clear()
    renewed.clear()
    for (const ongoing of fills.values()) for (const fill of ongoing) fill.fresh = false
  }

  const hear = (payload: unknown): void => {
    const list = (payload as { refs?: unknown } | null)?.refs
    if (Array.isArray(list)) for (const ref of list) if (typeof ref === 'string') drop(ref)
  }
  bus.subscribe(REVOKED, hear, { scope: settings.scope })
  bus.subscribe(CHANGED, hear, { scope: settings.scope })
  bus.onGap(clear)

  return {
    drop,
    get: (hash) => held.get(hash),
    begin(hash) {
      const fill: Fill = { fresh: bus.status().connected, heard: new Set() }
      const ongoing = fills.get(hash) ?? new Set()
      fills.set(hash, ongoing)
      ongoing.add(fill)
      return (found) => {
        ongoing.delete(fill)
        if (ongoing.size === 0 && fills.get(hash) === ongoing) fills.delete(hash)
        if (!found || !fill.fresh || fill.heard.has(found.meta.ref)) return
        const { ref, absoluteAt, touchedAt } = found.meta
        if (ref !== found.ticket.hash) renewed.set(ref, found.ticket.hash)
        const left = Math.min(absoluteAt, touchedAt + settings.idleTimeout) - clock.now()
        if (left > 0) held.set(found.ticket.hash, found, { ttl: Math.min(settings.maxAge, left) })
      }
    }
  }
}

function sizeOf({ fields }: Found): number {
  let size = 512
  for (const field in fields) size += 2 * (field.length + fields[field]!.length)
  return size
}

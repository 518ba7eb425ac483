import type { CoreParts } from './core.js'

/** What the cache of this process holds and does now. */
export interface CacheStats {
  /** `undefined` without memory. `bytes` is an estimate. */
  readonly memory: { readonly entries: number; readonly bytes: number; readonly maxSize: number } | undefined
  /** `away`: it does not answer, and the cache goes on in memory. */
  readonly redis: 'none' | 'answering' | 'away'
  /** Keys that are being read from Redis or computed. */
  readonly underWay: number
  /** Invalidations that Redis has not taken yet: they are sent again until it does. */
  readonly unsent: number
}

export function statsOf({ engine, memory, outbox, remote, settings }: CoreParts): CacheStats {
  return {
    memory: memory && {
      entries: memory.entries,
      bytes: memory.bytes,
      maxSize: settings.memory?.maxSize ?? 0
    },
    redis: !remote ? 'none' : remote.away ? 'away' : 'answering',
    underWay: engine.flights.size,
    unsent: outbox?.size ?? 0
  }
}

import { createChannel } from '@flotilla/core'

/** Where a value came from. */
export type Layer = 'memory' | 'redis'

/**
 * The `node:diagnostics_channel` channels `flotilla:cache:<event>`. Messages are built only while somebody
 * listens. `key` is without the namespace, `ns` is `''` for the root.
 */
export const channels = {
  /** A read was answered; `stale` when past its ttl (swr, grace, timeouts). */
  hit: createChannel<{ ns: string; key: string; layer: Layer; stale: boolean }>('cache', 'hit'),
  miss: createChannel<{ ns: string; key: string }>('cache', 'miss'),
  /** A factory ran; `outcome` says what became of its value, `duration` is in milliseconds. */
  fill: createChannel<{
    ns: string
    key: string
    outcome: FillOutcome
    duration: number
    background: boolean
  }>('cache', 'fill'),
  /** A caller waited for a fill of another process. */
  wait: createChannel<{ ns: string; key: string; duration: number }>('cache', 'wait'),
  invalidate: createChannel<{ ns: string; keys?: readonly string[]; tags?: readonly string[]; all?: true }>(
    'cache',
    'invalidate'
  ),
  /** An invalidation of another instance arrived over the fleet bus. */
  backplane: createChannel<{ from: string; keys: number; tags: number; all: boolean }>('cache', 'backplane'),
  /** What memory holds became suspect: bus messages may have been missed. */
  suspect: createChannel<{ reason: string }>('cache', 'suspect'),
  breaker: createChannel<{ state: 'open' | 'closed'; cause?: unknown; resent?: number }>('cache', 'breaker'),
  error: createChannel<{ operation: string; error: unknown }>('cache', 'error'),
  /** A request to a cached route; `status` is its Cache-Status (RFC 9211). */
  http: createChannel<{ route: string; status: string; hit: boolean }>('cache', 'http')
} as const

/** `stored`, or why not: refused by an invalidation, skipped by the factory, failed, or Redis was away. */
export type FillOutcome = 'stored' | 'memory' | 'refused' | 'skipped' | 'failed'

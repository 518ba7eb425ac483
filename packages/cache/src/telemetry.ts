import { createChannel } from '@flotilla/core'
import type { FastifyRequest } from 'fastify'

/** Where a value came from. */
export type Layer = 'memory' | 'redis'

/**
 * The `node:diagnostics_channel` channels `flotilla:cache:<event>`. Messages are built only while somebody
 * listens. `key` is without the namespace, `ns` is `''` for the root, `durationMs` is in milliseconds. Callers that
 * share a computation that is under way in this process say nothing; whoever began it does. Refreshes in the
 * background are no reads: only their fills are told.
 */
export const channels = {
  /** A read was answered; `stale` when past its ttl (swr, grace, timeouts). */
  hit: createChannel<{ ns: string; key: string; layer: Layer; stale: boolean }>('cache', 'hit'),
  /** A read found nothing fresh: `get` has nothing, `getOrSet` runs its factory. With Redis away, too. */
  miss: createChannel<{ ns: string; key: string }>('cache', 'miss'),
  /** A factory ran; `outcome` says what became of its value. */
  fill: createChannel<{
    ns: string
    key: string
    outcome: FillOutcome
    durationMs: number
    background: boolean
  }>('cache', 'fill'),
  /** A caller waited for a fill of another process; the wait is over, by its end or by giving up. */
  wait: createChannel<{ ns: string; key: string; durationMs: number }>('cache', 'wait'),
  /** This process deleted keys, set them, or invalidated tags or a namespace, whether or not Redis could be told. */
  invalidate: createChannel<{ ns: string; keys?: readonly string[]; tags?: readonly string[]; all?: true }>(
    'cache',
    'invalidate'
  ),
  /** An invalidation of another instance arrived over the fleet bus. */
  backplane: createChannel<{ from: string; keys: number; tags: number; all: boolean }>('cache', 'backplane'),
  /** What memory holds became suspect: messages of the bus may have been missed until now, and flow again if `recovered`. */
  suspect: createChannel<{ reason: string; recovered: boolean }>('cache', 'suspect'),
  /** Redis is left alone after failures (`open`, with the last of them), or is back; `resent`: invalidations kept until then. */
  breaker: createChannel<{ state: 'open' | 'closed'; cause?: unknown; resent?: number }>('cache', 'breaker'),
  /** Redis failed an operation, or what it holds could not be decoded. */
  error: createChannel<{ operation: string; error: unknown }>('cache', 'error'),
  /** A request to a cached route was answered; `status` is our member of its Cache-Status (RFC 9211), `hit` as in it. */
  http: createChannel<{ route: string; status: string; hit: boolean }>('cache', 'http')
} as const

/** A request of a client to a cached route; `route` is its pattern. */
export function tellRequest({ routeOptions }: FastifyRequest, status: string, hit: boolean): void {
  if (channels.http.active) channels.http.publish({ route: routeOptions.url ?? '', status, hit })
}

/** `stored`, or why not: refused by an invalidation, skipped by the factory, failed, or Redis was away. */
export type FillOutcome = 'stored' | 'memory' | 'refused' | 'skipped' | 'failed'

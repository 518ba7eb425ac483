import type { Directives } from './cache-control.js'
import { seconds } from './cache-control.js'
import { ageOf, type StoredResponse } from './stored-response.js'

export type Use = 'fresh' | 'stale'

/**
 * Whether a stored response may answer a request as it is (RFC 9111 §4, §5.2.1). Stale ones may within their
 * stale-while-revalidate or stale-if-error, or where the client says so (`max-stale`) and the response does not forbid it.
 */
export function usable(
  stored: StoredResponse,
  wishes: Directives,
  authorized: boolean,
  now: number
): Use | undefined {
  if (authorized && !stored.shared) return undefined
  const age = ageOf(stored, now)
  const left = stored.fresh - age
  if (wishes.size > 0) {
    if (wishes.has('no-cache')) return undefined
    if (age > (seconds(wishes, 'max-age') ?? Number.POSITIVE_INFINITY)) return undefined
    if (left < (seconds(wishes, 'min-fresh') ?? Number.NEGATIVE_INFINITY)) return undefined
  }
  if (left > 0) return 'fresh'
  const maxStale = wishes.get('max-stale')
  if (maxStale !== undefined && maxStale !== true && -left > (seconds(wishes, 'max-stale') ?? 0))
    return undefined
  if (maxStale !== undefined && !stored.strict) return 'stale'
  if (wishes.has('max-age') || wishes.has('min-fresh')) return undefined
  const window = Math.max(stored.swr, stored.sie)
  return window > 0 && -left <= window ? 'stale' : undefined
}

import type { ConsistencyToken } from '@flotilla/core'
import { OptionsError } from './errors.js'
import { checkKnown } from './options.js'

/** What an invalidation may say of the write behind it. */
export interface InvalidateOptions {
  /**
   * The write behind this invalidation (`db.token()`): what is computed from now on must have read it, or is
   * not stored.
   */
  after?: ConsistencyToken | undefined
  /**
   * How many replicas must have the invalidation before the call resolves, so that a failover to one of them does not lose it.
   * Default 0. Redis is waited for as long as `redisTimeout.hard` says.
   */
  replicas?: number
}

/** @throws FLOTILLA_CACHE_ERR_OPTIONS */
export function checkInvalidateOptions(options: InvalidateOptions): {
  after: string | undefined
  replicas: number
} {
  checkKnown('invalidateTags', options, ['after', 'replicas'])
  const { after, replicas = 0 } = options
  if (Number.isSafeInteger(replicas) && replicas >= 0) return { after, replicas }
  throw new OptionsError(
    `@flotilla/cache: 'replicas' of invalidateTags must be a whole number of at least 0, got ${String(replicas)}`
  )
}

import { optionReader, type Duration } from '@flotilla/core'
import { RedisOptionsError } from '../errors.js'

/** How a lease is taken and kept. */
export interface LeaseOptions {
  /**
   * For how long the lease lasts unless it is renewed, which happens three times within. The longest time without a holder after
   * one has crashed. Longer than a failover of Redis takes, else each failover ends the work. Default `'30s'`.
   */
  ttl?: Duration
  /** How long to wait while another instance holds the lease, or Redis does not answer; `'forever'` for no limit. Default 0. */
  wait?: Duration
  /**
   * For how long the lease counts as held at least, also if the work ends sooner. For jobs that all instances start by their own
   * clocks: without it a short job ends before the slowest clock strikes, and runs twice. Default 0.
   */
  atLeast?: Duration
  /**
   * How many replicas must confirm that they have the lease, each time it is taken or renewed. With all of them no failover
   * forgets it, and a master that was cut off from them cannot prolong it. Default 0.
   */
  replicas?: number
  /** How long a drain or `app.close()` waits for the work to end after the signal was aborted. Default `'5s'`. */
  stopTimeout?: Duration
  /** Ends the waiting, and aborts the signal of the work. */
  signal?: AbortSignal
}

export interface LeaseSettings {
  readonly ttlMs: number
  readonly waitMs: number
  readonly atLeastMs: number
  readonly replicas: number
  readonly stopMs: number
  readonly signal: AbortSignal | undefined
}

const DAY = 86_400_000

/** @throws FLOTILLA_REDIS_ERR_OPTIONS naming the option. */
export function readLeaseOptions(name: unknown, input: unknown): LeaseSettings {
  if (typeof name !== 'string' || name === '' || name.includes('{') || name.includes('}')) {
    throw new RedisOptionsError(
      `@flotilla/redis: withLease needs a name that is a non-empty string without braces, got ${JSON.stringify(name)}`
    )
  }
  const reader = optionReader('@flotilla/redis: withLease', input, RedisOptionsError)
  const forever = reader.raw('wait') === 'forever' || reader.raw('wait') === Infinity
  const settings = {
    ttlMs: reader.duration('ttl', { default: 30_000, min: 1_000, max: DAY }),
    waitMs: forever ? Infinity : reader.duration('wait', { default: 0 }),
    atLeastMs: reader.duration('atLeast', { default: 0, max: 30 * DAY }),
    replicas: reader.integer('replicas', { default: 0, max: 100 }),
    stopMs: reader.duration('stopTimeout', { default: 5_000, max: 3_600_000 }),
    signal: reader.raw<AbortSignal>('signal')
  }
  if (settings.signal !== undefined && !(settings.signal instanceof AbortSignal)) {
    reader.fail('signal', 'an AbortSignal')
  }
  reader.done()
  return settings
}

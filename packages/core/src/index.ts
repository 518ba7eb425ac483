export { Backoff, type BackoffOptions } from './backoff.js'
export { createChannel, watchChannels, type Channel } from './channel.js'
export {
  CircuitBreaker,
  type CircuitBreakerOptions,
  type CircuitPermit,
  type CircuitState
} from './circuit-breaker.js'
export type { ConsistencyToken } from './consistency.js'
export { Deadline } from './deadline.js'
export { formatDuration, parseDuration, type Duration } from './duration.js'
export {
  joinHealth,
  type CheckContext,
  type CheckFunction,
  type CheckOptions,
  type CheckReport,
  type DrainContext,
  type DrainStep,
  type HealthRegistry,
  type HealthState
} from './health.js'
export { KeyedQueue } from './keyed-queue.js'
export { didYouMean, nearestName } from './nearest-name.js'
export { optionReader, type OptionErrorConstructor, type OptionRange, type OptionReader } from './options.js'
export { OutageLog, type OutageLogOptions } from './outage-log.js'
export { isPersonal, markPersonal } from './personal.js'
export { RedisClock } from './redis-clock.js'
export { hasRoutes } from './routes.js'
export { createSigner, type Secret, type Signer } from './signer.js'
export { parseSize, type Size } from './size.js'
export {
  defineUnavailableError,
  withRetryAfter,
  type UnavailableDetails,
  type UnavailableError,
  type UnavailableErrorConstructor
} from './unavailable.js'
export { TimeoutError, withTimeout, type AbortableWork, type TimeoutOptions } from './with-timeout.js'
export {
  describeIssues,
  type SchemaIssue,
  type SchemaResult,
  type StandardSchema
} from './standard-schema.js'

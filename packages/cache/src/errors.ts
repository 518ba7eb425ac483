import { createError } from '@fastify/error'

/** An option of `register`, of a call or of a route is not usable; the message names it. */
export const OptionsError = createError<[string]>('FLOTILLA_CACHE_ERR_OPTIONS', '%s', 500, TypeError)

export const RegisteredTwiceError = createError(
  'FLOTILLA_CACHE_ERR_REGISTERED_TWICE',
  '@flotilla/cache is registered twice in one scope; register it once and use app.cache.namespace() for parts',
  500
)

export const KeyError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_KEY',
  'a cache key must be a non-empty string, got %s',
  500,
  TypeError
)

export const TtlError = createError<[string, string, string]>(
  'FLOTILLA_CACHE_ERR_TTL',
  "'%s' must be %s, got %s",
  500,
  RangeError
)

export const TagsError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_TAGS',
  'tags must be a list of non-empty strings, got %s',
  500,
  TypeError
)

export const ValueError = createError<[string, string]>(
  'FLOTILLA_CACHE_ERR_VALUE',
  "the value of '%s' cannot be stored: %s; return plain data, use codec 'msgpack', or give a codec of your own",
  500,
  TypeError
)

export const FactoryTypeError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_FACTORY',
  "getOrSet('%s') needs a function that computes the value",
  500,
  TypeError
)

export const LoadedError = createError<[number, string]>(
  'FLOTILLA_CACHE_ERR_LOADED',
  "getOrSetMany's function must return a Map, or a list with a value or undefined for each of its %d keys, got %s",
  500,
  TypeError
)

export const NoStaleError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_NO_STALE',
  "the factory of '%s' said notModified(), but there is no old value; ask only if ctx.stale is not undefined",
  500
)

export const FactoryTimeoutError = createError<[string, number]>(
  'FLOTILLA_CACHE_ERR_FACTORY_TIMEOUT',
  "the factory of '%s' did not settle in %d ms and was aborted; raise 'timeout' or make it faster",
  503
)

export const DeadlockError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_DEADLOCK',
  'a factory waits for itself: %s; compute the inner value without getOrSet, or use another key',
  500
)

export const UnavailableError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_REDIS_AWAY',
  'Redis did not answer (%s); the cache goes on in memory',
  503
)

export const RefusedError = createError<[string, string]>(
  'FLOTILLA_CACHE_ERR_REFUSED',
  "Redis refused %s (%s): other instances may serve the old value. This instance has forgotten it and sends the invalidation again until Redis takes it. Make Redis writable: free memory, fix its persistence, or give the user's ACL the command",
  503
)

export const ReplicasError = createError<[number, string]>(
  'FLOTILLA_CACHE_ERR_REPLICAS',
  'an invalidation has not reached %d replicas in time (%s): a failover now may lose it. It stands on the master, and this instance sends it again after a failover',
  503
)

export const CorruptEntryError = createError<[string]>(
  'FLOTILLA_CACHE_ERR_CORRUPT_ENTRY',
  'a stored entry cannot be read: %s',
  500
)

export const ClosedError = createError(
  'FLOTILLA_CACHE_ERR_CLOSED',
  'the cache is closed: its app has been closed',
  503
)

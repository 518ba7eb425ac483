import { createError } from '@fastify/error'

type Cause = { cause: unknown }
type Message = [message: string, options?: Cause]

/** A wrong, missing or unknown option; nothing has been opened yet. */
export const RedisOptionsError = createError<Message>('FLOTILLA_REDIS_ERR_OPTIONS', '%s')

/** The scope has a `redis` decorator already. */
export const RedisAlreadyRegisteredError = createError<[]>(
  'FLOTILLA_REDIS_ERR_ALREADY_REGISTERED',
  "@flotilla/redis: this scope already has 'fastify.redis'. Register @flotilla/redis or @fastify/redis once; for a second " +
    "Redis register @fastify/redis with a 'namespace', or hand a client of your own to the plugin that shall use it"
)

/** Redis could not be reached, or is not what the URL says, within `connectTimeout`. */
export const RedisConnectError = createError<Message>('FLOTILLA_REDIS_ERR_CONNECT', '%s')

/** A plugin needs a Redis client and none is registered under the name it was given. */
export const RedisNoClientError = createError<Message>('FLOTILLA_REDIS_ERR_NO_CLIENT', '%s')

/**
 * Redis has been away for longer than `commandTimeout`: the command was refused without waiting. Without a
 * stack, which would cost more than all the rest and show no caller.
 */
export const RedisUnavailableError = createError<Message>(
  'FLOTILLA_REDIS_ERR_UNAVAILABLE',
  '%s',
  503,
  Error,
  false
)

/** A subscription was refused, or not acknowledged in time. */
export const RedisSubscribeError = createError<Message>('FLOTILLA_REDIS_ERR_SUBSCRIBE', '%s', 503)

/** A message could not be published in time. */
export const RedisPublishError = createError<Message>('FLOTILLA_REDIS_ERR_PUBLISH', '%s', 503)

/** Fewer replicas than asked for confirmed a write in time; the write itself was done on the master. */
export const RedisNotDurableError = createError<Message>('FLOTILLA_REDIS_ERR_NOT_DURABLE', '%s', 503)

/** Keys of one command that do not share a slot, or none where one is needed. */
export const RedisKeysError = createError<Message>('FLOTILLA_REDIS_ERR_KEYS', '%s')

/** A lease ended before the work under it: its result is not to be relied on. */
export const RedisLeaseLostError = createError<Message>('FLOTILLA_REDIS_ERR_LEASE_LOST', '%s', 503)

/** The Redis user lacks a permission that a plugin needs. */
export const RedisPermissionError = createError<[plugin: string, refused: string]>(
  'FLOTILLA_REDIS_ERR_PERMISSION',
  '%s: the Redis user may not run %s. "Permissions" in the README of the package names all that it needs'
)

/** Used after `app.close()`. */
export const RedisClosedError = createError<Message>('FLOTILLA_REDIS_ERR_CLOSED', '%s', 503)

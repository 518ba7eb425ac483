import type { FastifyInstance } from 'fastify'
import { BUS_DEFAULTS, createBus, defaultInstance, type FleetBus } from './bus.js'
import { RedisNoClientError } from './errors.js'
import { isRedisClient, type RedisClient } from './redis-client.js'

/** One bus for each client of an app; an app is known by its server, which all its encapsulated instances share. */
const buses = new WeakMap<object, Map<RedisClient, FleetBus>>()

/**
 * The client that a plugin shall use.
 *
 * @param option nothing: `fastify.redis`; a name: the client that `@fastify/redis` registered under that namespace; a
 *   client: itself
 * @param plugin name of the plugin that asks, for the error
 * @param without how to do without Redis, for the error where none is registered
 * @throws FLOTILLA_REDIS_ERR_NO_CLIENT saying what to register.
 */
export function resolveRedis(
  fastify: FastifyInstance,
  option: string | RedisClient | undefined,
  plugin: string,
  without?: string
): RedisClient {
  if (typeof option === 'object' && isRedisClient(option)) return option
  const registered: unknown = fastify.hasDecorator('redis') ? fastify.redis : undefined
  if (option === undefined) {
    if (isRedisClient(registered)) return registered
    const names = typeof registered === 'object' && registered !== null ? Object.keys(registered) : []
    throw new RedisNoClientError(
      names.length > 0
        ? `${plugin}: needs a Redis client, and 'fastify.redis' holds named ones only: choose one with the option redis: '${names.join("' or '")}'`
        : `${plugin}: needs a Redis client: register @flotilla/redis (or @fastify/redis) before ${plugin}, or pass one as the option 'redis'${without === undefined ? '' : `; ${without}`}`
    )
  }
  if (typeof option !== 'string') {
    throw new RedisNoClientError(
      `${plugin}: option 'redis' must be an ioredis client or the namespace of one registered with @fastify/redis`
    )
  }
  const named = (registered as Record<string, unknown> | undefined)?.[option]
  if (isRedisClient(named)) return named
  throw new RedisNoClientError(
    `${plugin}: there is no Redis client named '${option}': register @fastify/redis with namespace: '${option}' before ${plugin}`
  )
}

/**
 * The fleet bus of a client: `fastify.bus` if it speaks through that client, else one made for it and closed
 * with the app. Call it while plugins load.
 */
export function resolveBus(fastify: FastifyInstance, client: RedisClient): FleetBus {
  const existing = buses.get(fastify.server)?.get(client)
  if (existing) return existing
  return registerBus(
    fastify,
    client,
    createBus(fastify, client, { ...BUS_DEFAULTS, instance: instanceOf(fastify) ?? defaultInstance() })
  )
}

/** Makes a bus known as the one of its client. */
export function registerBus(fastify: FastifyInstance, client: RedisClient, bus: FleetBus): FleetBus {
  const ofApp = buses.get(fastify.server) ?? new Map<RedisClient, FleetBus>()
  buses.set(fastify.server, ofApp)
  ofApp.set(client, bus)
  return bus
}

/** All buses of an instance go by one id. */
function instanceOf(fastify: FastifyInstance): string | undefined {
  const [first] = buses.get(fastify.server)?.values() ?? []
  return first?.instance
}

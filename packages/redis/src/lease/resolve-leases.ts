import { joinHealth } from '@flotilla/core'
import type { FastifyInstance } from 'fastify'
import type { RedisClient } from '../redis-client.js'
import { resolveBus } from '../resolve.js'
import { LeaseManager, type LeasedWork, type LeaseResult } from './lease-manager.js'
import type { LeaseOptions } from './lease-options.js'

/** Leases through one Redis client. */
export interface Leases {
  /**
   * Runs work while no other instance of the fleet runs work under the same name, as far as a lease can promise that: see
   * {@link Lease.token}. The lease is renewed until the work ends. When the instance drains or closes, the signal is aborted, and
   * the lease passes to another as soon as the work has ended.
   *
   * @throws FLOTILLA_REDIS_ERR_OPTIONS; what the work throws; FLOTILLA_REDIS_ERR_LEASE_LOST if the lease was lost before the work
   *   had ended; the error of Redis if it does not answer for longer than `wait`.
   */
  withLease<T>(name: string, work: LeasedWork<T>, options?: LeaseOptions): Promise<LeaseResult<T>>
}

/** By app, which is known by the server that all its encapsulated instances share. */
const managers = new WeakMap<object, Map<RedisClient, LeaseManager>>()

/**
 * The leases of an app through a client of its own choice; those of `fastify.redis` are `fastify.withLease`. Call it while
 * plugins load: the leases end with the app, before what plugins registered later have opened is closed.
 */
export function resolveLeases(fastify: FastifyInstance, client: RedisClient): Leases {
  const ofApp = managers.get(fastify.server) ?? new Map<RedisClient, LeaseManager>()
  managers.set(fastify.server, ofApp)
  const existing = ofApp.get(client)
  if (existing) return existing
  const log = fastify.log.child({ plugin: '@flotilla/redis' })
  const manager = new LeaseManager(client, resolveBus(fastify, client).instance, log)
  ofApp.set(client, manager)
  fastify.addHook('preClose', () => manager.stop())
  const step = ofApp.size === 1 ? 'leases' : `leases-${ofApp.size}`
  joinHealth(fastify, (health) => {
    health.onDrain(step, ({ deadline }) => manager.stop(deadline - Date.now()))
  })
  return manager
}

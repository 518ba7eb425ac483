import fastifyRedis from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { createBus, type FleetBus } from './bus.js'
import { explain } from './causes.js'
import { connectionState } from './channels.js'
import { closeClient, createClient } from './client.js'
import { connect } from './connect.js'
import { RedisAlreadyRegisteredError } from './errors.js'
import { addChecks } from './health.js'
import { resolveLeases, type Leases } from './lease/resolve-leases.js'
import { readOptions, type RedisPluginOptions, type Settings } from './options.js'
import { requirePermissions, type RequiredPermissions } from './permissions.js'
import { channelPrefixOf, isCluster, usesTls, type RedisClient } from './redis-client.js'
import { withoutArguments } from './reply-error.js'
import { registerBus } from './resolve.js'
import { formatTarget } from './topology.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Small control messages between the instances of the fleet. */
    bus: FleetBus
    /** Runs work on one instance of the fleet at a time: see {@link Leases.withLease}. */
    withLease: Leases['withLease']
  }
}

async function register(fastify: FastifyInstance, input: RedisPluginOptions): Promise<void> {
  const settings = readOptions(input)
  if (fastify.hasDecorator('redis')) throw new RedisAlreadyRegisteredError()

  const client = settings.client ?? (await open(fastify, settings))
  if (settings.client) {
    await connect(client, {
      address: 'the address of the given client',
      timeout: startupTime(fastify, settings)
    })
  }

  await requirePermissions(client, permissionsOf(client, settings))
  await fastify.register(fastifyRedis, { client, closeClient: false })
  fastify.decorate('bus', registerBus(fastify, client, createBus(fastify, client, settings.bus)))
  const leases = resolveLeases(fastify, client)
  fastify.decorate('withLease', (name, work, options) => leases.withLease(name, work, options))
  addChecks(fastify, client, fastify.bus, settings.bus)
}

/** What every app needs; leases and replicas are asked for when they are used. */
function permissionsOf(client: RedisClient, { bus }: Settings): RequiredPermissions {
  const channel = channelPrefixOf(client) + bus.channel
  return {
    plugin: '@flotilla/redis',
    keys: [],
    commands: [
      ['PING'],
      ['INFO', 'server'],
      ['EVAL', 'return 1', '0'],
      ['EVALSHA', '', '0'],
      ['PUBLISH', channel, '']
    ],
    channels: [channel]
  }
}

/** The client that this plugin opens, and so closes. */
async function open(fastify: FastifyInstance, settings: Settings): Promise<RedisClient> {
  const target = settings.target!
  const client = createClient(target, settings)
  const address = formatTarget(target)
  observe(fastify, client, { address, topology: target.topology })
  try {
    await connect(client, {
      address,
      timeout: startupTime(fastify, settings),
      nodes: target.nodes
    })
  } catch (error) {
    await closeClient(client, 0)
    throw error
  }
  fastify.addHook('onClose', () => closeClient(client, settings.commandTimeout))
  return client
}

/** Fastify's own limit must not strike first: its error would not say what is wrong. */
function startupTime(fastify: FastifyInstance, { connectTimeout }: Settings): number {
  const { pluginTimeout } = fastify.initialConfig
  return pluginTimeout ? Math.min(connectTimeout, Math.max(100, pluginTimeout - 1_000)) : connectTimeout
}

/**
 * Logs the beginning of an outage, each cause of it once, and its end, not each attempt; ioredis prints errors that nobody
 * listens to.
 */
function observe(
  fastify: FastifyInstance,
  client: RedisClient,
  { address, topology }: { address: string; topology: string }
): void {
  const log = fastify.log.child({ plugin: '@flotilla/redis' })
  let served = false
  let lost = false
  const told = new Set<string>()
  const losing = (error?: unknown): void => {
    if (!served) return
    withoutArguments(error)
    // Numbers are those of attempts and times.
    const cause = error instanceof Error ? error.message.replaceAll(/\d+/g, '') : undefined
    if (lost) {
      if (cause !== undefined && !told.has(cause)) {
        const { fatal, reason } = explain(error, usesTls(client))
        log.warn({ err: error }, `cannot use Redis at ${address}${fatal ? `: ${reason}` : ''}; trying again`)
      }
    } else {
      lost = true
      connectionState.publish({ state: 'lost', topology, ...(error !== undefined && { error }) })
      log.warn({ err: error }, 'lost the connection to Redis; trying again')
    }
    if (cause !== undefined) told.add(cause)
  }
  client.on('error', losing)
  client.on('close', () => losing())
  client.on('ready', () => {
    if (lost) log.info('Redis is back')
    served = true
    lost = false
    told.clear()
    connectionState.publish({ state: 'ready', topology })
  })
  fastify.addHook('preClose', async () => {
    served = false
  })
  if (isCluster(client))
    client.on('node error', (error: unknown) =>
      log.debug({ err: withoutArguments(error) }, 'a node of the Cluster failed')
    )
}

/**
 * Decorates `fastify.redis` with one client for a single server, Sentinel or Cluster, through
 * `@fastify/redis`, and `fastify.bus` with the fleet bus, a {@link FleetBus}.
 *
 * @throws FLOTILLA_REDIS_ERR_OPTIONS, FLOTILLA_REDIS_ERR_ALREADY_REGISTERED, FLOTILLA_REDIS_ERR_CONNECT from `register`
 */
export const flotillaRedis = fp<RedisPluginOptions>(register, { name: '@flotilla/redis', fastify: '5.x' })
export default flotillaRedis

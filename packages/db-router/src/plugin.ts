import { randomBytes } from 'node:crypto'
import { resolveRedis } from '@flotilla/redis'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { PrimaryBudget } from './budget.js'
import type { Carrier } from './carriers/carrier.js'
import { cookieCarrier } from './carriers/cookie.js'
import { headerCarrier } from './carriers/header.js'
import { redisCarrier } from './carriers/redis.js'
import { sessionCarrier } from './carriers/session.js'
import { CausalSession } from './causal-session.js'
import { createDatabase, type Database } from './database.js'
import { AlreadyRegisteredError, because, StartError } from './errors.js'
import { Gate } from './gate.js'
import { addHealthChecks } from './health-check.js'
import { readOptions, type DbRouterOptions, type Settings } from './options.js'
import { bindToRequests } from './request-database.js'
import { Router } from './router.js'
import { Server } from './server.js'
import type { ServerAddress } from './server-address.js'
import { isMisconfigured } from './sqlstate.js'
import { createTokenCodec, laterOf, type TokenCodec } from './token.js'
import { Topology } from './topology.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** The database; reads through it see what was written through it. */
    db: Database
  }
  interface FastifyRequest {
    /** The database, bound to what this client wrote, in this request or before, and to this request's abort. */
    db: Database
  }
}

async function register(fastify: FastifyInstance, options: DbRouterOptions): Promise<void> {
  if (fastify.hasDecorator('db')) throw new AlreadyRegisteredError()
  const settings = readOptions(options)
  const log = fastify.log.child({ plugin: '@flotilla/db-router' })
  const codec = createTokenCodec(settings.secret)
  const carrier = createCarrier(fastify, settings, codec)

  const topology = createTopology(settings, log)
  const gate = new Gate(topology, { maxWait: settings.maxWait, enabled: settings.consistency })
  const budget = new PrimaryBudget(settings.fallback)
  const router = new Router(topology, gate, budget, settings.consistency, settings.replicas.length > 0)
  fastify.addHook('onClose', () => close(topology, settings.closeTimeout))
  await firstLook(topology)

  const limits = { timeout: settings.timeout }
  const parts = { router, codec, settings, limits }
  const newest = (): string | undefined => topology.newest && codec.encode(topology.newest)
  fastify.decorate('db', createDatabase(parts, new CausalSession(settings.tokenTtl), newest))
  bindToRequests(fastify, parts, carrier)
  addHealthChecks(fastify, topology, settings)
}

function createTopology(settings: Settings, log: FastifyInstance['log']): Topology {
  const topology = new Topology(settings, log)
  const add = (listed: 'primary' | 'replica', address: ServerAddress): void => {
    topology.servers.push(new Server(address, listed, settings, topology))
  }
  for (const address of settings.primaries) add('primary', address)
  for (const address of settings.replicas) add('replica', address)
  return topology
}

/** Servers that are away do not keep the app from starting; a primary that refuses our credentials does. */
async function firstLook(topology: Topology): Promise<void> {
  await Promise.all(topology.servers.map((server) => server.monitor.look()))
  if (topology.primary) return
  const refused = topology.servers.find((one) => one.listed === 'primary' && isMisconfigured(one.error))
  if (refused) throw because(new StartError(refused.name, refused.error!.message), refused.error)
}

function createCarrier(fastify: FastifyInstance, settings: Settings, codec: TokenCodec): Carrier | undefined {
  const { carrier } = settings
  if (carrier === false) return undefined
  if (typeof carrier === 'object') return carrier
  if (carrier === 'cookie') return cookieCarrier(settings.cookie, randomBytes(4).toString('hex'))
  if (carrier === 'header') return headerCarrier(settings.header)
  if (carrier === 'session') {
    return sessionCarrier(`flotilla.${settings.name}`, (a, b) => {
      const [first, second] = [codec.decode(a), codec.decode(b)]
      return first && second && laterOf(first, second) === first ? a : b
    })
  }
  const client = resolveRedis(
    fastify,
    settings.redis === false ? undefined : settings.redis,
    '@flotilla/db-router'
  )
  return redisCarrier(client, codec, {
    user: settings.user,
    keyPrefix: `flotilla:${settings.name}:`,
    ttl: settings.tokenTtl
  })
}

async function close(topology: Topology, timeout: number): Promise<void> {
  await Promise.all(topology.servers.map((server) => server.monitor.stop()))
  await Promise.all(topology.servers.map((server) => server.pool.close(timeout)))
}

/**
 * PostgreSQL primary and replicas with read-your-writes: decorates the instance and each request with `db`, a {@link Database}.
 * @throws FLOTILLA_DB_ERR_OPTION, FLOTILLA_DB_ERR_ALREADY_REGISTERED, FLOTILLA_DB_ERR_START from `register`
 */
export const flotillaDbRouter = fp(register, { name: '@flotilla/db-router', fastify: '5.x' })

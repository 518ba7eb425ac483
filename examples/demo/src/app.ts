import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import cache from '@flotilla/cache'
import database from '@flotilla/db-router'
import health from '@flotilla/health'
import redis from '@flotilla/redis'
import session from '@flotilla/session'
import broadcast from '@flotilla/ws-broadcast'
import fastify, { type FastifyInstance } from 'fastify'
import { DRAIN, type Config } from './config.js'
import { faultOf } from './faults.js'
import { memorySessions } from './memory-sessions.js'
import { guestBook } from './routes/guest-book.js'
import { operator } from './routes/operator.js'
import { overview } from './routes/overview.js'
import { ranking } from './routes/ranking.js'
import { visitors } from './routes/visitors.js'
import { migrate } from './schema.js'

/** The guest book, ready to listen. Nothing in it lives in this process alone: run as many as you like. */
export async function buildApp(config: Config): Promise<FastifyInstance> {
  const fault = faultOf(config)
  const app = fastify({ logger: { level: 'warn' }, trustProxy: true, keepAliveTimeout: 72_000 })

  await app.register(redis, { url: config.redisUrl })
  await app.register(health, {
    version: config.version,
    header: true,
    drain: fault === 'no-drain' ? false : DRAIN,
    fleet: { name: 'demo', lease: '3s' },
    metrics: true,
    ...(config.adminPort !== undefined && { admin: { port: config.adminPort } }),
    ...(config.agentPort !== undefined && { agent: { port: config.agentPort } })
  })
  await (fault === 'memory-sessions' ? app.register(memorySessions) : registerSessions(app, config))
  await app.register(cache, {
    ttl: '5m',
    memory: { maxSize: '16mb' },
    ...(fault === 'local-cache' && { redis: false as const })
  })
  await app.register(database, {
    primary: config.databaseUrl,
    replicas: config.replicaUrls,
    secret: config.sessionSecret,
    consistency: fault !== 'stale-reads'
  })
  await app.register(broadcast, {
    path: '/ws',
    ...(fault === 'local-broadcast' && { keyPrefix: `${app.health.instance}:` }),
    drain: { spread: '1s' },
    presenceLease: '3s',
    channels: {
      'guest-book': {
        history: { size: 1_000, ttl: '10m' },
        presence: (request) => ({ name: request.session.get('name') ?? 'somebody' })
      }
    }
  })
  await migrate(app)

  app.register(visitors)
  app.register(guestBook)
  app.register(ranking)
  app.register(overview)
  app.register(operator, { controlUrl: config.controlUrl })
  app.register(page)
  return app
}

async function registerSessions(app: FastifyInstance, config: Config): Promise<void> {
  await app.register(session, {
    secret: config.sessionSecret,
    idleTimeout: '1h',
    // Over plain HTTP on this machine the cookie cannot be Secure; behind TLS it is.
    cookie: { secure: 'auto' }
  })
}

/** The page's files. None needs the session, so each is served while Redis is away, to a visitor who is logged in too. */
async function page(app: FastifyInstance): Promise<void> {
  app.addHook('onRoute', (route) => {
    route.config = { ...route.config, session: false }
  })
  await app.register(fastifyStatic, { root: fileURLToPath(new URL('../public/', import.meta.url)) })
  // The browser's half of ws-broadcast, as it is published: no bundler needed.
  const client = new URL('..', import.meta.resolve('@flotilla/ws-broadcast/client'))
  await app.register(fastifyStatic, {
    root: fileURLToPath(client),
    prefix: '/flotilla/',
    decorateReply: false,
    // What the client's modules import, and nothing of the server's half.
    allowedPath: (path) => path.startsWith('/client/') || path === '/position.js'
  })
}

import { createServer } from 'node:http'
import underPressure from '@fastify/under-pressure'
import health from '@flotilla/health'
import redis from '@flotilla/redis'
import { createTerminus } from '@godaddy/terminus'
import fastify, { type FastifyInstance } from 'fastify'
import { serveSubjects } from '../harness/subject.js'

/** The route that does nothing. */
function idle(app: FastifyInstance): FastifyInstance {
  app.get('/', async () => ({ ok: true }))
  return app
}

serveSubjects({
  /** Everything on. */
  async flotilla({ env }) {
    const app = fastify()
    await app.register(redis, { url: env['REDIS_URL']! })
    await app.register(health, {
      version: '1',
      header: true,
      drain: { signals: false },
      overload: { eventLoopDelay: '1s', eventLoopUtilization: 1, heapUsed: '2gb', rss: '4gb' },
      agent: { port: 0, host: '127.0.0.1' },
      worker: { port: 0, host: '127.0.0.1' },
      metrics: true
    })
    app.health.addCheck('database', async () => ({ details: { ms: 1 } }), { scope: 'shared' })
    return { app: idle(app) }
  },

  /** A static route with a body of the same shape. */
  bare() {
    const app = fastify()
    const body = { status: 'healthy', instance: 'bare', version: '1', uptime: 1 }
    app.get('/health', async () => body)
    return { app: idle(app) }
  },

  'fastify-under-pressure'() {
    const app = fastify()
    app.register(underPressure, {
      maxEventLoopDelay: 1_000,
      maxEventLoopUtilization: 1,
      maxHeapUsedBytes: 2 ** 31,
      maxRssBytes: 2 ** 32,
      healthCheck: async () => true,
      healthCheckInterval: 10_000,
      exposeStatusRoute: { routeOpts: {}, url: '/health' }
    })
    return { app: idle(app) }
  },

  /** Its README for servers made by a framework: `serverFactory`, so that terminus wraps the handler. */
  'godaddy-terminus'() {
    const app = fastify({
      serverFactory: (handler) =>
        createTerminus(createServer(handler), {
          healthChecks: { '/health': async () => ({ database: 'up' }) },
          useExit0: true
        })
    })
    return { app: idle(app) }
  }
})

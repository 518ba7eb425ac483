/* One instance of the app that is rolled: the same routes, and the drain of the variant under test. */
import { createServer } from 'node:http'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import flotillaHealth from '@flotilla/health'
import flotillaRedis from '@flotilla/redis'
import flotillaBroadcast from '@flotilla/ws-broadcast'
import { createTerminus } from '@godaddy/terminus'
import fastify, { type FastifyInstance } from 'fastify'

/** The same for everybody: how long balancers may take to notice, and the deadline. */
const DELAY = 2000
const TIMEOUT = 10_000

const { env } = process
const agentPort = Number(env['AGENT_PORT'] ?? 0)

/** As each one's documentation says. */
const variants: Record<string, () => Promise<FastifyInstance>> = {
  async flotilla() {
    const app = fastify()
    await app.register(flotillaHealth, {
      agent: { port: agentPort, host: '127.0.0.1' },
      drain: { delay: DELAY, timeout: TIMEOUT }
    })
    return app
  },

  async 'godaddy-terminus'() {
    const app: FastifyInstance = fastify({
      serverFactory: (handler) =>
        createTerminus(createServer(handler), {
          healthChecks: { '/health/ready': async () => ({}) },
          signals: ['SIGTERM'],
          timeout: TIMEOUT,
          beforeShutdown: () => sleep(DELAY),
          onSignal: async () => {
            await app.close()
          },
          useExit0: true
        })
    })
    return app
  },

  async 'fastify-close'() {
    const app = fastify()
    app.get('/health/ready', async () => ({ status: 'ok' }))
    process.once('SIGTERM', () => {
      app.close().then(
        () => process.exit(0),
        () => process.exit(1)
      )
    })
    return app
  }
}

const app = await variants[env['VARIANT'] ?? '']!()
await app.register(flotillaRedis, { url: env['REDIS_URL']! })
await app.register(flotillaBroadcast, { channels: { 'feed:*': { history: { size: 5000, ttl: '5m' } } } })
app.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload))
app.get('/', async () => ({ pid: process.pid }))
app.post('/', async () => ({ pid: process.pid }))
app.get<{ Querystring: { ms: string } }>('/slow', async ({ query }) => {
  await sleep(Number(query.ms))
  return { slept: Number(query.ms) }
})
app.post('/upload', async ({ body }) => {
  let bytes = 0
  for await (const chunk of body as Readable) bytes += (chunk as Buffer).length
  return { bytes }
})
app.post<{ Body: { n: number }; Params: { channel: string } }>('/messages/:channel', ({ body, params }) =>
  app.broadcast.publish(params.channel, body)
)
const url = await app.listen({ port: Number(env['PORT']), host: env['HOST']! })
process.send?.({
  ready: true,
  url,
  agentPort: app.hasDecorator('health') ? app.health.ports.agent : undefined
})

/* One instance of an app with everything that a test may want to ask for. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Readable } from 'node:stream'
import closeWithGrace from 'close-with-grace'
import Fastify from 'fastify'
import redis from '@flotilla/redis'
import broadcast from '@flotilla/ws-broadcast'
import health, { type HealthOptions } from '../../src/index.js'

const { env } = process
const options = JSON.parse(env['HEALTH'] ?? '{}') as HealthOptions
const app = Fastify({ logger: { level: env['LOG_LEVEL'] ?? 'info' }, bodyLimit: 64 * 1024 * 1024 })
const log = (line: string): void => app.log.info(line)

app.register(health, options)
// It hears signals from here on, long before it serves.
if (env['HANGING_START'] || env['SLOW_START']) app.after(() => void process.send?.({ ready: true }))
if (env['REDIS_URL']) app.register(redis, { url: env['REDIS_URL'], commandTimeout: 500 })
if (env['BROADCAST'])
  app.register(broadcast, { channels: { 'feed:*': { history: { size: 5000, ttl: '5m' } } } })
if (env['SLOW_START']) app.register(async () => sleep(Number(env['SLOW_START']), undefined))
if (env['HANGING_START']) app.register(async () => new Promise<void>(() => undefined))

/** What the checks of this instance answer; the parent changes it. */
const broken: Record<string, boolean | 'hangs'> = {}
let hung = 0
app.after(() => {
  for (const scope of env['NO_CHECKS'] ? [] : (['local', 'shared'] as const)) {
    const check = (): { ok: boolean } | Promise<never> => {
      if (broken[scope] !== 'hangs') return { ok: broken[scope] !== true }
      hung++
      return new Promise(() => undefined)
    }
    app.health.addCheck(scope, check, { scope, interval: Number(env['CHECK_INTERVAL'] ?? 50) })
  }
  if (env['HANGING_STEP']) app.health.onDrain('hangs', () => new Promise<void>(() => undefined))
  app.health.onDrain('logs', async ({ deadline }) => log(`drain step with ${deadline - Date.now()} ms`))
})
app.addHook('onClose', async () => log('onClose ran'))

app.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload))
app.get('/', async () => ({ pid: process.pid }))
app.post('/', async () => ({ pid: process.pid }))
app.post<{ Body: { n: number }; Params: { channel: string } }>('/messages/:channel', ({ body, params }) =>
  app.broadcast.publish(params.channel, body)
)
app.get<{ Querystring: { ms: string } }>('/slow', async ({ query }) => {
  await sleep(Number(query.ms))
  return { slept: Number(query.ms) }
})
app.get<{ Querystring: { ms: string } }>('/stream', async ({ query }, reply) => {
  const parts = 10
  return reply.type('text/plain').send(
    Readable.from(
      (async function* () {
        for (let part = 0; part < parts; part++) {
          yield `${part}\n`
          await sleep(Number(query.ms) / parts)
        }
      })()
    )
  )
})
app.post('/upload', async ({ body }) => {
  let bytes = 0
  for await (const chunk of body as Readable) bytes += (chunk as Buffer).length
  return { bytes }
})
app.get<{ Querystring: { ms: string } }>('/block', async ({ query }) => {
  const end = performance.now() + Number(query.ms)
  while (performance.now() < end);
  return { blocked: Number(query.ms) }
})

const commands: Record<string, (argument: never) => unknown> = {
  state: () => ({ state: app.health.state, reasons: app.health.reasons, id: app.health.id }),
  fleet: () => app.health.fleet(),
  ports: () => app.health.ports,
  drain: () => void app.health.drain(),
  close: () => void app.close(),
  closeAndExit: () => void app.close().then(() => process.exit(0)),
  breakCheck: (name: string) => void (broken[name] = true),
  hangCheck: (name: string) => void (broken[name] = 'hangs'),
  hung: () => hung,
  mendCheck: (name: string) => void (broken[name] = false)
}
process.on('message', ({ id, message }: { id: number; message: { do: string; with?: unknown } }) => {
  Promise.resolve()
    .then(() => commands[message.do]?.(message.with as never))
    .then(
      (reply) => process.send?.({ id, reply: reply ?? null }),
      (error: unknown) => process.send?.({ id, error: String(error) })
    )
    .catch(() => undefined)
})

if (env['CLOSE_WITH_GRACE']) closeWithGrace({ delay: Number(env['CLOSE_WITH_GRACE']) }, () => app.close())
const url = await app.listen({ port: Number(env['PORT']), host: env['HOST'] ?? '127.0.0.1' })
process.send?.({ ready: true, url })

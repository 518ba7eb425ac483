import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import { until } from '@flotilla/testbed'
import health, { type HealthOptions } from '../src/index.js'

async function start(
  t: Test,
  overload: NonNullable<HealthOptions['overload']>,
  options: HealthOptions = {}
): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(health, {
    overload: { interval: 50, ...overload },
    drain: { signals: false },
    ...options
  })
  app.get('/', async () => 'hi')
  t.teardown(() => app.close())
  await app.ready()
  return app
}

function block(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

test('past a limit requests are refused with Retry-After, and probes are not', async (t) => {
  const app = await start(t, { rss: 1, retryAfter: '3s' })
  await until(async () => (await app.inject('/')).statusCode === 503)
  const refused = await app.inject('/')
  t.equal(refused.headers['retry-after'], '3')
  t.match(refused.json(), { statusCode: 503, code: 'FLOTILLA_HEALTH_ERR_OVERLOADED' })
  const probe = await app.inject('/health')
  t.equal(probe.statusCode, 200, 'an overloaded fleet must not leave rotation all at once')
  t.match(probe.json(), { status: 'degraded' })
  t.match(app.health.reasons.join(), /overloaded: rss/)
})

test('what is refused is measured too', async (t) => {
  const app = await start(t, { rss: 1 }, { metrics: { public: true } })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  await until(async () => (await app.inject('/')).statusCode === 503)
  const response = await fetch(`${url}/`)
  await response.text()
  t.equal(response.status, 503)
  const { body } = await app.inject('/metrics')
  t.match(body, /http_request_duration_seconds_count\{method="GET",route="\/",status_code="503",[^}]*\} 1\n/)
})

test('heap, utilisation and delay are limits too', async (t) => {
  const heap = await start(t, { heapUsed: '1kb' })
  await until(() => heap.health.reasons.join().includes('heap'))
  const busy = await start(t, { eventLoopUtilization: 0.5 })
  await until(() => {
    block(30)
    return busy.health.reasons.join().includes('event loop utilisation')
  })
  const late = await start(t, { eventLoopDelay: 100 })
  await until(() => {
    block(200)
    return late.health.reasons.join().includes('event loop delay')
  })
  await until(async () => late.health.state === 'ready' && (await late.inject('/')).statusCode === 200, {
    message: 'it recovers by itself'
  })
})

test('without limits nothing is refused', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { signals: false } })
  app.get('/', async () => 'hi')
  t.teardown(() => app.close())
  block(300)
  t.equal((await app.inject('/')).statusCode, 200)
})

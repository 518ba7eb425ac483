import Fastify, { type FastifyInstance } from 'fastify'
import { test } from 'tap'
import { until } from '@flotilla/testbed'
import health, { flotillaHealth, type HealthOptions } from '../src/index.js'

async function start(
  options: HealthOptions = {},
  fastify: FastifyInstance = Fastify()
): Promise<FastifyInstance> {
  await fastify.register(health, { drain: { signals: false }, ...options })
  await fastify.ready()
  return fastify
}

test('GET /health answers exactly the four fields', async (t) => {
  const app = await start({ instance: 'web-1', version: '1.2.3' })
  t.teardown(() => app.close())
  const answer = await app.inject('/health')
  t.equal(answer.statusCode, 200)
  t.equal(answer.headers['content-type'], 'application/json; charset=utf-8')
  t.equal(answer.headers['cache-control'], 'no-store')
  const body = answer.json<{ uptime: number }>()
  t.strictSame(body, { status: 'healthy', instance: 'web-1', version: '1.2.3', uptime: body.uptime })
  t.ok(Number.isInteger(body.uptime))
})

test('instance and version come from HOSTNAME and APP_VERSION', async (t) => {
  t.intercept(process, 'env', { value: { ...process.env, HOSTNAME: 'pod-7', APP_VERSION: '9.9' } })
  const app = await start()
  t.teardown(() => app.close())
  t.match((await app.inject('/health')).json(), { instance: 'pod-7', version: '9.9' })
  t.equal(app.health.instance, 'pod-7')
  t.match(app.health.id, /^pod-7-[0-9a-f]{8}$/)
})

test('a failing critical check is 503 everywhere but on liveness and start-up', async (t) => {
  const app = await start({ checks: { failures: 1 } })
  t.teardown(() => app.close())
  app.health.addCheck('ok-at-first', () => ({ ok: !broken }), { interval: 10 })
  let broken = false
  await until(() => app.health.state === 'ready')
  broken = true
  await until(() => app.health.state === 'down')
  const status = async (url: string): Promise<number> => (await app.inject(url)).statusCode
  t.equal(await status('/health'), 503)
  t.equal((await app.inject('/health')).json<{ status: string }>().status, 'unhealthy')
  t.equal(await status('/health/ready'), 503)
  t.equal(await status('/health/live'), 200)
  t.equal(await status('/health/startup'), 200)
  broken = false
  await until(() => app.health.state === 'ready')
  t.equal(await status('/health/ready'), 200)
})

test('the app is starting until every critical check has run once', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { signals: false } })
  t.teardown(() => app.close())
  let open = (): void => undefined
  app.health.addCheck('slow', () => new Promise<void>((resolve) => (open = resolve)))
  await app.ready()
  t.equal(app.health.state, 'starting')
  for (const url of ['/health', '/health/ready', '/health/startup']) {
    const answer = await app.inject(url)
    t.equal(answer.statusCode, 503)
    t.equal(answer.json<{ status: string }>().status, 'starting')
  }
  t.equal((await app.inject('/health/live')).statusCode, 200)
  open()
  await until(() => app.health.state === 'ready')
  t.equal((await app.inject('/health/startup')).statusCode, 200)
})

test('a dependency that is away while the app starts fails readiness, not start-up: nobody restarts it', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { signals: false } })
  t.teardown(() => app.close())
  let broken = true
  app.health.addCheck('mail', () => ({ ok: !broken }), { interval: 10 })
  await app.ready()
  await until(() => app.health.state === 'down')
  t.equal((await app.inject('/health/ready')).statusCode, 503)
  const startup = await app.inject('/health/startup')
  t.equal(startup.statusCode, 200)
  t.equal(startup.json<{ status: string }>().status, 'healthy')
  broken = false
  await until(() => app.health.state === 'ready')
})

test('HEAD has the headers of GET and no body', async (t) => {
  const app = await start({}, Fastify({ exposeHeadRoutes: false }))
  t.teardown(() => app.close())
  const get = await app.inject('/health')
  const head = await app.inject({ method: 'HEAD', url: '/health' })
  t.equal(head.statusCode, 200)
  t.equal(head.body, '')
  t.equal(head.headers['content-length'], get.headers['content-length'])
  t.equal(head.headers['cache-control'], 'no-store')
})

test('application/health+json on Accept', async (t) => {
  const app = await start({ instance: 'a', version: '2', details: { token: 'a-token-of-sixteen-bytes' } })
  t.teardown(() => app.close())
  app.health.addCheck('db', () => ({ message: 'fine' }))
  await until(async () => app.health.state === 'ready')
  const accept = 'application/health+json'
  const plain = await app.inject({ url: '/health', headers: { accept } })
  t.equal(plain.headers['content-type'], 'application/health+json; charset=utf-8')
  t.strictSame(plain.json(), {
    status: 'pass',
    version: '2',
    releaseId: '2',
    serviceId: 'a',
    description: 'a is ready'
  })
  const authorization = 'Bearer a-token-of-sixteen-bytes'
  const full = await app.inject({ url: '/health', headers: { accept, authorization } })
  t.match(full.json(), { status: 'pass', checks: { db: [{ status: 'pass', output: 'fine' }] } })
  app.health.maintenance(true)
  const down = await app.inject({ url: '/health', headers: { accept } })
  t.equal(down.statusCode, 503)
  t.match(down.json(), { status: 'fail' })
})

test('probes leave no line in the access log, other requests do', async (t) => {
  const lines: string[] = []
  const logger = { level: 'info', stream: { write: (line: string) => void lines.push(line) } }
  const app = Fastify({ logger })
  await app.register(health, { instance: 'web-1', drain: { signals: false } })
  app.get('/', () => 'hi')
  await app.ready()
  t.teardown(() => app.close())
  await app.inject('/health')
  await app.inject('/health/live')
  await app.inject('/')
  const requests = lines.filter((line) => line.includes('incoming request'))
  t.equal(requests.length, 1)
  t.match(JSON.parse(requests[0]!), { req: { url: '/' }, instance: 'web-1' })
})

test('the instance header goes on every response where asked for', async (t) => {
  const app = Fastify()
  await app.register(health, { header: true, instance: 'web-9', drain: { signals: false } })
  app.get('/', () => 'hi')
  t.teardown(() => app.close())
  for (const url of ['/', '/health', '/nowhere']) {
    t.equal((await app.inject(url)).headers['x-instance'], 'web-9')
  }
  const named = await start({ header: 'X-Served-By', instance: 'n' })
  t.teardown(() => named.close())
  t.equal((await named.inject('/health')).headers['x-served-by'], 'n')
  const without = await start()
  t.teardown(() => without.close())
  t.equal((await without.inject('/health')).headers['x-instance'], undefined)
})

test('routes are hidden from OpenAPI and can live elsewhere', async (t) => {
  const app = Fastify()
  const hidden: Record<string, unknown> = {}
  app.addHook('onRoute', ({ url, schema }) => {
    hidden[url] = (schema as { hide?: boolean } | undefined)?.hide
  })
  await app.register(flotillaHealth, { path: '/-/healthz', metrics: true, drain: { signals: false } })
  t.teardown(() => app.close())
  t.strictSame(hidden, {
    '/-/healthz': true,
    '/-/healthz/live': true,
    '/-/healthz/ready': true,
    '/-/healthz/startup': true,
    '/-/healthz/fleet': true,
    '/metrics': true
  })
  t.equal((await app.inject('/-/healthz/ready')).statusCode, 200)
})

test('two apps in one process share nothing', async (t) => {
  const [one, two] = await Promise.all([start({ instance: 'one' }), start({ instance: 'two' })])
  t.teardown(() => Promise.all([one.close(), two.close()]))
  one.health.maintenance(true)
  t.equal((await one.inject('/health')).statusCode, 503)
  t.equal((await two.inject('/health')).statusCode, 200)
  t.match((await two.inject('/health')).json(), { instance: 'two' })
})

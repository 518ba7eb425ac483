import { request, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { test, type Test } from 'tap'
import health, { type HealthOptions } from '../src/index.js'

const token = 'a-token-of-sixteen-bytes'
const older = 'another-token-of-some-length'

async function start(t: Test, options: HealthOptions): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(health, { drain: { signals: false }, ...options })
  t.teardown(() => app.close())
  await app.ready()
  return app
}

async function sees(app: FastifyInstance, headers: Record<string, string>, remoteAddress = '203.0.113.9') {
  const answer = await app.inject({ url: '/health', headers, remoteAddress })
  return Object.hasOwn(answer.json<object>(), 'checks')
}

test('details need one of the tokens, exactly', async (t) => {
  const app = await start(t, { details: { token: [token, older] } })
  t.equal(await sees(app, { authorization: `Bearer ${token}` }), true)
  t.equal(await sees(app, { authorization: `bearer ${older}` }), true, 'while tokens rotate')
  const forged = [
    '',
    'Bearer',
    'Bearer ',
    `Bearer ${token}x`,
    `Bearer ${token.slice(0, -1)}`,
    `Basic ${token}`,
    token
  ]
  forged.push(`Bearer ${token.toUpperCase()}`, `Bearer ${token} `.repeat(2), `Bearer ${'x'.repeat(8000)}`)
  for (const authorization of forged)
    t.equal(await sees(app, { authorization }), false, authorization.slice(0, 40))
  t.equal(await sees(app, {}, '127.0.0.1'), false, 'being local is not enough')
  t.equal((await app.inject('/health')).statusCode, 200, 'the plain answer stays')
})

test('an allow list counts the connection, and never what a header claims', async (t) => {
  const app = await start(t, { details: { allow: ['10.1.0.0/16', '127.0.0.1', 'fd00::/8'] } })
  t.equal(await sees(app, {}, '10.1.200.3'), true)
  t.equal(await sees(app, {}, '::ffff:10.1.200.3'), true, 'IPv4 in IPv6')
  t.equal(await sees(app, {}, 'fd12::1'), true)
  t.equal(await sees(app, {}, '10.2.0.1'), false)
  t.equal(await sees(app, { 'x-forwarded-for': '10.1.0.1' }), false)
  t.equal(await sees(app, { 'x-forwarded-for': '203.0.113.7' }, '10.1.0.1'), false, 'came through a proxy')
  t.equal(await sees(app, { forwarded: 'for=203.0.113.7' }, '10.1.0.1'), false)
})

test('fleet and metrics are guarded alike', async (t) => {
  const app = await start(t, { details: { token }, metrics: true })
  for (const url of ['/health/fleet', '/metrics']) {
    const refused = await app.inject(url)
    t.equal(refused.statusCode, 401, url)
    t.equal(refused.headers['www-authenticate'], 'Bearer')
    t.equal(refused.headers['cache-control'], 'no-store')
    const answer = await app.inject({ url, headers: { authorization: `Bearer ${token}` } })
    t.not(answer.statusCode, 401)
  }
  const closed = await start(t, { metrics: true })
  t.equal((await closed.inject('/metrics')).statusCode, 403, 'nobody, where nothing is configured')
  const open = await start(t, { metrics: { public: true } })
  t.equal((await open.inject('/metrics')).statusCode, 200)
})

test('the admin port answers everything, without the hooks of the app', async (t) => {
  const app = Fastify()
  app.addHook('onRequest', async (_request, reply) => reply.code(401).send())
  await app.register(health, {
    admin: { port: 0, host: '127.0.0.1' },
    drain: { signals: false },
    metrics: true
  })
  t.teardown(() => app.close())
  await app.ready()
  const base = `http://127.0.0.1:${app.health.ports.admin}`
  t.match(await (await fetch(`${base}/health`)).json(), {
    status: 'healthy',
    checks: {},
    memory: { rss: Number }
  })
  t.equal((await fetch(`${base}/health/live?x=1`)).status, 200)
  t.match(await (await fetch(`${base}/metrics`)).text(), /flotilla_health_state/)
  t.equal((await fetch(`${base}/health/fleet`)).status, 404)
  t.equal((await fetch(`${base}/`)).status, 404)
  t.equal((await fetch(`${base}/health`, { method: 'POST' })).status, 405)
  const head = await fetch(`${base}/health`, { method: 'HEAD' })
  t.equal(head.status, 200)
  t.equal(await head.text(), '')
  t.equal(head.headers.get('cache-control'), 'no-store')
  const [odd] = (await once(request(`${base}//`).end(), 'response')) as [IncomingMessage]
  t.equal(odd.resume().statusCode, 404)
})

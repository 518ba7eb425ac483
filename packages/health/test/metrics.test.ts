import { once } from 'node:events'
import { request } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { readFile } from 'node:fs/promises'
import { channel } from 'node:diagnostics_channel'
import { createChannel } from '@flotilla/core'
import Fastify, { type FastifyInstance } from 'fastify'
import { Counter, Registry } from 'prom-client'
import { test, type Test } from 'tap'
import { until } from '@flotilla/testbed'
import health, { type HealthOptions } from '../src/index.js'

async function start(t: Test, options: HealthOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(health, {
    instance: 'm-1',
    version: '7',
    metrics: { public: true },
    drain: { signals: false },
    ...options
  })
  t.teardown(() => app.close())
  return app
}

const scrape = async (app: FastifyInstance): Promise<string> => (await app.inject('/metrics')).body
const line = (text: string, begin: string): string | undefined =>
  text.split('\n').find((one) => one.startsWith(begin))

test('requests are measured by route pattern, method and status', async (t) => {
  const app = await start(t)
  app.get('/users/:id', async () => 'x')
  app.route({
    method: ['PUT', 'POST'],
    url: '/users',
    handler: async (_request, reply) => reply.code(201).send('y')
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const ask = async (path: string, method = 'GET'): Promise<unknown> =>
    (await fetch(url + path, { method })).text()
  for (const id of [1, 2, 3]) await ask(`/users/${id}`)
  await ask('/users', 'POST')
  await ask('/users', 'PUT')
  for (const nowhere of ['/a', '/b?x=1']) await ask(nowhere)
  const text = await scrape(app)
  const count = (method: string, route: string, status: number): string =>
    `http_request_duration_seconds_count{method="${method}",route="${route}",status_code="${status}",instance="m-1"}`
  t.match(line(text, count('GET', '/users/:id', 200)), / 3$/)
  t.match(line(text, count('POST', '/users', 201)), / 1$/)
  t.match(line(text, count('PUT', '/users', 201)), / 1$/)
  t.match(line(text, count('GET', 'unmatched', 404)), / 2$/)
  const buckets = text.split('\n').filter((one) => one.includes('_bucket') && one.includes('/users/:id'))
  const values = buckets.map((one) => Number(one.split(' ').at(-1)))
  t.strictSame(
    values,
    values.toSorted((a, b) => a - b),
    'buckets are cumulative'
  )
  t.equal(values.at(-1), 3)
  t.match(buckets.at(-1), /le="\+Inf"/)
})

test('whoever answers a request, it is measured once and under its route', async (t) => {
  const app = Fastify({ exposeHeadRoutes: true })
  t.teardown(() => app.close())
  app.get('/before', async () => 'x')
  await app.register(health, {
    instance: 'm-1',
    metrics: { public: true },
    drain: { signals: false }
  })
  app.addHook('onRequest', async (request, reply) => {
    if (request.headers['x-early'] !== undefined) await reply.code(429).send('z')
  })
  app.get('/after', { onRequest: (_request, _reply, done) => done() }, async () => 'x')
  for (const version of ['1.0.0', '2.0.0'])
    app.get('/versioned', { constraints: { version } }, async () => version)
  await app.register(async (inner) => void inner.get('/:id', async () => 'x'), {
    prefix: '/inner'
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const ask = async (path: string, init: RequestInit = {}): Promise<number> => {
    const response = await fetch(url + path, init)
    await response.text()
    return response.status
  }
  t.equal(await ask('/before'), 200)
  t.equal(await ask('/after'), 200)
  t.equal(await ask('/after', { method: 'HEAD' }), 200)
  t.equal(await ask('/after', { headers: { 'x-early': '1' } }), 429)
  t.equal(await ask('/versioned', { headers: { 'accept-version': '1.0.0' } }), 200)
  t.equal(await ask('/versioned', { headers: { 'accept-version': '2.0.0' } }), 200)
  t.equal(await ask('/inner/5'), 200)

  const lines = (await scrape(app))
    .split('\n')
    .filter((one) => one.startsWith('http_request_duration_seconds_count'))
  const counts = new Map(
    lines.map((one) => {
      const [, method, route, status, count] =
        /method="(.*)",route="(.*)",status_code="(.*)",instance="m-1"\} (.*)$/.exec(one) ?? []
      return [`${method} ${route} ${status}`, Number(count)]
    })
  )
  t.equal(counts.size, lines.length, 'no series twice')
  t.same(
    counts,
    new Map([
      ['GET /before 200', 1],
      ['GET /after 200', 1],
      ['HEAD /after 200', 1],
      ['GET /after 429', 1],
      ['GET /versioned 200', 2],
      ['GET /inner/:id 200', 1]
    ])
  )
})

test('each app of a process measures its own requests', async (t) => {
  const apps = [await start(t, { instance: 'a' }), await start(t, { instance: 'b' })]
  const urls: string[] = []
  for (const app of apps) {
    app.get('/', async () => 'x')
    urls.push(await app.listen({ port: 0, host: '127.0.0.1' }))
  }
  for (const url of [urls[0], urls[1], urls[1]]) await (await fetch(url!)).text()
  const counts = await Promise.all(
    apps.map(async (app) =>
      line(await scrape(app), 'http_request_duration_seconds_count{method="GET",route="/",')
    )
  )
  t.match(counts[0], /instance="a"\} 1$/)
  t.match(counts[1], /instance="b"\} 2$/)
})

test('state, checks, load and process', async (t) => {
  const app = await start(t)
  app.health.addCheck('db', () => ({ ok: false }), { level: 'degraded', scope: 'shared' })
  await app.ready()
  await until(() => app.health.state === 'degraded')
  const text = await scrape(app)
  t.match(line(text, 'flotilla_health_state{instance="m-1",state="degraded"}'), / 1$/)
  t.match(line(text, 'flotilla_health_state{instance="m-1",state="ready"}'), / 0$/)
  t.match(
    line(text, 'flotilla_health_check{instance="m-1",check="db",level="degraded",scope="shared"}'),
    / 0$/
  )
  t.match(line(text, 'flotilla_health_info{instance="m-1",version="7"}'), / 1$/)
  for (const name of [
    'flotilla_event_loop_utilization',
    'process_resident_memory_bytes',
    'nodejs_heap_size_used_bytes'
  ]) {
    t.ok(line(text, `${name}{`), name)
  }
})

test('open WebSockets are counted', async (t) => {
  const app = await start(t)
  app.server.on('upgrade', (_request, socket) => {
    socket.on('error', () => socket.destroy())
    socket.on('end', () => socket.end())
    socket.resume()
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n')
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const count = async (): Promise<string | undefined> =>
    line(await scrape(app), 'flotilla_upgraded_connections{instance="m-1"}')?.split(' ')[1]
  t.equal(await count(), '0')
  const { port } = app.server.address() as AddressInfo
  const outgoing = request({
    port,
    host: '127.0.0.1',
    headers: { connection: 'upgrade', upgrade: 'websocket' }
  })
  outgoing.end()
  const [, socket] = (await once(outgoing, 'upgrade')) as [unknown, Socket]
  t.equal(await count(), '1')
  socket.destroy()
  await until(async () => (await count()) === '0')
})

test('every flotilla:* channel becomes metrics, whenever it is created', async (t) => {
  const early = createChannel<Record<string, unknown>>('metrics-test', 'earlyBird')
  const app = await start(t)
  const late = createChannel<Record<string, unknown>>('metrics-test', 'late')
  await app.ready()
  t.ok(early.active && late.active)
  early.publish({ layer: 'memory', key: 'user:17', durationMs: 20, bytes: 100, depth: 4, stale: true })
  early.publish({ layer: 'memory', key: 'user:18', durationMs: 30, bytes: 50, depth: 9, stale: true })
  early.publish({ layer: 'redis', key: 'user:18', waitMs: 2, stale: false })
  late.publish({ outcome: 'ok', error: undefined })
  late.publish({ outcome: 'no words, as spaces do not make one', error: new Error('x') })
  const prefix = 'flotilla_metrics_test_early_bird'
  const text = await scrape(app)
  const memory = '{instance="m-1",layer="memory",stale="true"}'
  t.match(line(text, `${prefix}_total${memory}`), / 2$/)
  t.match(line(text, `${prefix}_total{instance="m-1",layer="redis",stale="false"}`), / 1$/)
  t.match(line(text, `${prefix}_duration_seconds_sum${memory}`), / 0\.05$/)
  t.match(line(text, `${prefix}_wait_seconds_sum{instance="m-1",layer="redis",stale="false"}`), / 0\.002$/)
  t.match(line(text, `${prefix}_bytes_total${memory}`), / 150$/)
  t.match(line(text, `${prefix}_depth${memory}`), / 9$/)
  t.match(line(text, 'flotilla_metrics_test_late_total{instance="m-1",outcome="ok"}'), / 1$/)
  t.match(line(text, 'flotilla_metrics_test_late_total{instance="m-1",error="true"}'), / 1$/)
  t.notMatch(text, /user:1/, 'keys are no labels')
  await app.close()
  t.notOk(early.active, 'close ends the listening')
})

test('what channels say of one key, user, connection or instance becomes no label', async (t) => {
  const messages: [string, string, Record<string, unknown>][] = [
    ['cache', 'hit', { ns: 'users', key: 'ID', layer: 'memory', stale: false }],
    ['cache', 'invalidate', { ns: 'users', keys: ['ID'], tags: ['ID'] }],
    ['cache', 'backplane', { from: 'ID', keys: 1, tags: 2, all: false }],
    ['cache', 'http', { route: '/user/:id', status: 'cache; hit; ttl=59', hit: true }],
    ['session', 'created', { ref: 'ID', userId: 'ID' }],
    ['session', 'saved', { ref: 'ID', fields: 2, durationMs: 3 }],
    ['session', 'revoked', { refs: ['ID'], userId: 'ID' }],
    ['session', 'rejected', { ip: 'ID' }],
    ['session', 'dropped', { ref: 'ID', reason: 'its data is not valid: ID' }],
    ['db', 'server', { server: 'db-1:5432/app', event: 'ejected', reason: '12 ms behind' }],
    ['db', 'gate', { outcome: 'waited', durationMs: 4 }],
    ['ws', 'connect', { connection: 'ID', userId: 'ID', transport: 'ws' }],
    ['ws', 'deliver', { channel: 'ID', sockets: 3, bytes: 10 }],
    ['redis', 'publish', { topic: 'news', durationMs: 5, error: new Error('ID') }],
    ['redis', 'probe', { instance: 'ID', ok: false, error: new Error('ID') }],
    ['health', 'eviction', { instance: 'ID' }]
  ]
  const app = await start(t)
  await app.ready()
  for (const [pkg, event, message] of messages) createChannel<object>(pkg, event).publish(message)
  const text = await scrape(app)
  t.notMatch(text, /ID/)
  for (const series of [
    'flotilla_cache_hit_total{instance="m-1",ns="users",layer="memory",stale="false"} 1',
    'flotilla_cache_backplane_tags_total{instance="m-1",all="false"} 2',
    'flotilla_cache_http_total{instance="m-1",route="/user/:id",hit="true"} 1',
    'flotilla_session_saved_fields_total{instance="m-1"} 2',
    'flotilla_session_saved_duration_seconds_sum{instance="m-1"} 0.003',
    'flotilla_db_gate_duration_seconds_sum{instance="m-1",outcome="waited"} 0.004',
    'flotilla_db_server_total{instance="m-1",server="db-1:5432/app",event="ejected"} 1',
    'flotilla_redis_publish_duration_seconds_sum{instance="m-1",topic="news",error="true"} 0.005',
    'flotilla_health_eviction_total{instance="m-1"} 1'
  ])
    t.ok(text.includes(`${series}\n`), series)
})

test('junk in a channel and endless label values do no harm', async (t) => {
  const source = createChannel<Record<string, unknown>>('metrics-test', 'flood')
  const app = await start(t)
  await app.ready()
  for (let n = 0; n < 1000; n++) source.publish({ reason: `r${n}`, durationMs: Number.NaN })
  for (const junk of [null, 7, 'text', undefined]) channel(source.name).publish(junk)
  const series = (await scrape(app))
    .split('\n')
    .filter((one) => one.startsWith('flotilla_metrics_test_flood_total{'))
  t.ok(series.length <= 201, `${series.length} series`)
  t.match(series.at(-1), /reason="other"} 800$/)
})

test('a registry of the app: its own metrics stay, ours go at close', async (t) => {
  const registry = new Registry()
  const mine = new Counter({ name: 'orders_total', help: 'x', registers: [registry] })
  const app = await start(t, { metrics: { registry, public: true, path: '/internal/metrics' } })
  await app.ready()
  mine.inc(3)
  const text = (await app.inject('/internal/metrics')).body
  t.match(text, /orders_total 3/)
  t.match(text, /flotilla_health_state/)
  t.equal(app.health.metrics, registry)
  await app.close()
  t.strictSame(
    registry.getMetricsAsArray().map(({ name }) => name),
    ['orders_total']
  )
  const next = await start(t, { metrics: { registry, public: true } })
  await next.ready()
  t.match(await scrape(next), /flotilla_health_state/)
})

/** The sources in which a package declares its channels. */
async function declarations(pkg: string): Promise<string> {
  const files: Record<string, string[]> = {
    cache: ['cache/src/telemetry.ts'],
    session: ['session/src/diagnostics.ts'],
    db: ['db-router/src/channels.ts'],
    ws: ['ws-broadcast/src/diagnostics.ts'],
    redis: ['redis/src/channels.ts'],
    health: ['health/src/drain.ts', 'health/src/fleet-registry.ts']
  }
  const read = (file: string): Promise<string> => readFile(new URL(`../../${file}`, import.meta.url), 'utf8')
  return (await Promise.all(files[pkg]!.map(read))).join('\n')
}

test('dashboard and alert rules ask for metrics that exist', async (t) => {
  const sent: [string, string, object][] = [
    ['cache', 'hit', { layer: 'memory' }],
    ['cache', 'miss', {}],
    ['cache', 'fill', { durationMs: 1 }],
    ['session', 'loaded', { source: 'redis' }],
    ['session', 'revoked', {}],
    ['db', 'query', { role: 'replica', server: 'a:5432/app', durationMs: 1 }],
    ['db', 'gate', { outcome: 'fresh' }],
    ['ws', 'deliver', { sockets: 3 }],
    ['ws', 'gap', { reason: 'trimmed' }],
    ['ws', 'connect', {}],
    ['redis', 'gap', { reason: 'lost' }],
    ['health', 'heartbeat', { outcome: 'renewed', durationMs: 1 }],
    ['health', 'eviction', {}],
    ['health', 'drain', { phase: 'linger', outcome: 'done', durationMs: 1 }]
  ]
  // What stands above is what the packages declare, so that renaming a channel or a field there fails here.
  for (const [pkg, event, message] of sent) {
    const text = await declarations(pkg)
    t.match(text, new RegExp(`'${pkg}',\\s*'${event}'`), `flotilla:${pkg}:${event} is a channel`)
    for (const field of Object.keys(message))
      t.match(text, new RegExp(`\\b${field}\\b`), `${event} has ${field}`)
  }
  const channels = sent.map(([pkg, event]) => createChannel<object>(pkg, event))
  const app = await start(t)
  app.health.addCheck('db', () => undefined)
  await app.ready()
  await until(() => app.health.state === 'ready')
  for (const [index, one] of channels.entries()) one.publish(sent[index]![2])
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  await (await fetch(`${url}/health`)).text()
  const known = new Set((await scrape(app)).match(/^[a-z]\w+/gm))
  for (const file of ['grafana/flotilla.json', 'prometheus/alerts.yaml']) {
    const text = await readFile(new URL(`../${file}`, import.meta.url), 'utf8')
    const asked = new Set(text.match(/\b(?:flotilla_[a-z]+_\w+|http_request\w+|process_\w+)/g))
    t.ok(asked.size > 5, file)
    for (const name of asked) t.ok(known.has(name), `${file}: ${name}`)
  }
  const dashboard = await readFile(new URL('../grafana/flotilla.json', import.meta.url), 'utf8')
  t.match(JSON.parse(dashboard), { panels: Array, templating: { list: Array } })
})

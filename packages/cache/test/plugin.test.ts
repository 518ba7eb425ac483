import { flotillaRedis } from '@flotilla/redis'
import { startRedis } from '@flotilla/testbed'
import Fastify, { type FastifyInstance } from 'fastify'
import { channel } from 'node:diagnostics_channel'
import t from 'tap'
import plugin, { flotillaCache, type CacheOptions } from '../src/index.js'

/** `register` gives something to await that is no promise. */
async function registered(app: FastifyInstance, options: unknown): Promise<void> {
  await app.register(flotillaCache, options as CacheOptions)
}

t.test('options are checked before anything is opened', async (t) => {
  t.equal(plugin, flotillaCache)
  const cases: [unknown, RegExp, string?][] = [
    [{ redis: false, tll: '5m' }, /unknown option 'tll'/],
    [{ redis: false, ttl: 'soon' }, /'ttl'/, 'FLOTILLA_CACHE_ERR_TTL'],
    [{ redis: false, ttl: -1 }, /'ttl'/, 'FLOTILLA_CACHE_ERR_TTL'],
    [{ redis: false, memory: { maxSize: 'big' } }, /'memory.maxSize'/],
    [{ redis: false, memory: { maxSize: 0 } }, /'memory.maxSize'/],
    [{ redis: false, memory: false }, /'memory'/],
    [{ redis: false, codec: 'xml' }, /'codec'/],
    [{ redis: false, codec: { name: '' } }, /'codec'/],
    [{ redis: false, jitter: 2 }, /'jitter'/],
    [{ redis: false, lease: 1 }, /'lease'/],
    [{ redis: false, lease: '25d' }, /'lease'/],
    [{ redis: false, redisTimeout: { hard: '25d' } }, /'redisTimeout.hard'/],
    [
      { redis: false, maxTtl: '1m', ttl: '2m' },
      /'ttl' must be at most .*maxTtl \(1m\)/,
      'FLOTILLA_CACHE_ERR_TTL'
    ],
    [{ redis: false, http: { name: 'not a token' } }, /'http.name'/],
    [{ redis: false, breaker: { failures: 0 } }, /'breaker.failures'/],
    [{}, /register @flotilla\/redis .* before @flotilla\/cache.*redis: false/, 'FLOTILLA_REDIS_ERR_NO_CLIENT']
  ]
  for (const [options, message, code = 'FLOTILLA_CACHE_ERR_OPTIONS'] of cases) {
    const app = Fastify()
    await t.rejects(registered(app, options), { code, message }, JSON.stringify(options))
    await app.close()
  }
  const twice = Fastify()
  await twice.register(flotillaCache, { redis: false })
  await t.rejects(registered(twice, { redis: false }), {
    code: 'FLOTILLA_CACHE_ERR_REGISTERED_TWICE'
  })
  await twice.close()
  const routes: [unknown, RegExp][] = [
    [{ ttl: 'soon' }, /config.cache of '\/x'.*'ttl'/],
    [{ tll: 1 }, /unknown option 'tll'/],
    [{ statuses: [99] }, /'statuses'/],
    [{ tags: 'posts' }, /config.cache of '\/x'.*'tags' must be a list/],
    [{ tags: [''] }, /config.cache of '\/x'.*'tags' must be a list/],
    [true, /must be an object/]
  ]
  for (const [cache, message] of routes) {
    const app = Fastify()
    await app.register(flotillaCache, { redis: false })
    t.throws(() => app.get('/x', { config: { cache: cache as object } }, () => 1), { message })
    await app.close()
  }
})

t.test('two apps in one process share nothing; close leaves nothing behind', async (t) => {
  const [a, b] = [Fastify(), Fastify()]
  for (const app of [a, b]) {
    await app.register(flotillaCache, { redis: false })
    await app.ready()
  }
  await a.cache.set('k', 1)
  t.equal(await b.cache.get('k'), undefined)
  const hung = t.rejects(
    a.cache.getOrSet('hung', () => new Promise<never>(() => undefined)),
    { code: 'FLOTILLA_CACHE_ERR_CLOSED' }
  )
  const began = Date.now()
  await a.close()
  await hung
  t.ok(Date.now() - began < 1000, 'a factory that hangs does not hold up close')
  await b.close()

  const redis = await startRedis()
  const before = process
    .getActiveResourcesInfo()
    .filter((one) => one === 'Timeout' || one === 'TCPSocketWrap').length
  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url })
  await app.register(flotillaCache)
  await app.ready()
  await app.cache.getOrSet('k', () => 1)
  await app.close()
  await new Promise((resolve) => setImmediate(resolve))
  const after = process
    .getActiveResourcesInfo()
    .filter((one) => one === 'Timeout' || one === 'TCPSocketWrap').length
  t.ok(after <= before, `${after} handles after, ${before} before`)
  await redis.stop()
})

t.test('diagnostics', async (t) => {
  const seen: [string, Record<string, unknown>][] = []
  for (const event of ['hit', 'miss', 'fill', 'invalidate', 'http']) {
    const listener = (message: unknown): void => void seen.push([event, message as Record<string, unknown>])
    channel(`flotilla:cache:${event}`).subscribe(listener)
    t.teardown(() => channel(`flotilla:cache:${event}`).unsubscribe(listener))
  }
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(flotillaCache, { redis: false })
  app.get('/x', { config: { cache: { ttl: '1m' } } }, () => 'x')
  await app.ready()
  await app.cache.getOrSet('k', () => 1)
  await app.cache.getOrSet('k', () => 1)
  await app.cache.delete('k')
  await app.cache.invalidateTags(['t'])
  await app.cache.getOrSet('f', () => Promise.reject(new Error('x'))).catch(() => undefined)
  const events = seen.map(([event]) => event)
  t.same(events, ['miss', 'fill', 'hit', 'invalidate', 'invalidate', 'miss', 'fill'])
  t.match(seen[1]![1], { ns: '', key: 'k', outcome: 'memory', background: false })
  t.match(seen[6]![1], { outcome: 'failed' })
  await app.inject('/x')
  await app.inject('/x')
  t.match(seen.at(-1), ['http', { route: '/x', hit: true }])
})

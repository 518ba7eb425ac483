import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { startRedis, until } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { gate, startApp } from './support/app.js'
import { serve } from './support/http.js'

type Message = Record<string, unknown>

/** All that these channels say while the test runs, each message with the name of its channel. */
function listen(t: Test, ...events: string[]): [string, Message][] {
  const heard: [string, Message][] = []
  for (const event of events) {
    const hear = (message: unknown): void => void heard.push([event, message as Message])
    subscribe(`flotilla:cache:${event}`, hear)
    t.teardown(() => unsubscribe(`flotilla:cache:${event}`, hear))
  }
  return heard
}

t.test('a read is a hit or a miss, once; a fill says what became of its value', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const heard = listen(t, 'hit', 'miss', 'fill')
  const users = app.cache.namespace('users')
  await users.getOrSet('7', () => 'ada')
  await users.getOrSet('7', () => 'not asked')
  await users.get('7')
  await other.cache.namespace('users').getOrSet('7', () => 'not asked')
  await other.cache.getMany(['none'])
  await app.cache.set('8', 'x')
  await other.cache.get('8')
  await app.cache.getOrSet('7', (context) => (context.skip(), 1))
  await t.rejects(app.cache.getOrSet('f', () => Promise.reject(new Error('no'))))
  const id = { ns: 'users', key: '7' }
  t.match(heard, [
    ['miss', id],
    ['fill', { ...id, outcome: 'stored', durationMs: Number, background: false }],
    ['hit', { ...id, layer: 'memory', stale: false }],
    ['hit', { ...id, layer: 'memory', stale: false }],
    ['hit', { ...id, layer: 'redis', stale: false }],
    ['miss', { ns: '', key: 'none' }],
    ['hit', { ns: '', key: '8', layer: 'redis', stale: false }],
    ['miss', { ns: '', key: '7' }],
    ['fill', { ns: '', key: '7', outcome: 'skipped' }],
    ['miss', { ns: '', key: 'f' }],
    ['fill', { ns: '', key: 'f', outcome: 'failed' }]
  ])
  t.equal(heard.length, 11)
})

t.test('a refresh in the background is no read', async (t) => {
  const heard = listen(t, 'hit', 'miss', 'fill')
  for (const url of [undefined, await server(t)]) {
    heard.length = 0
    const { cache } = await startApp(t, url)
    const life = { ttl: 1, swr: '1h', jitter: 0 } as const
    await cache.getOrSet('k', () => 1, life)
    await new Promise((resolve) => setTimeout(resolve, 5))
    await cache.getOrSet('k', () => 2, life)
    await until(() => heard.length >= 4)
    t.same(
      heard.map(([event, { stale, background }]) => [event, stale ?? background]),
      [
        ['miss', undefined],
        ['fill', false],
        ['hit', true],
        ['fill', true]
      ]
    )
  }
})

t.test('an old value that is served while its factory is left alone is a stale hit', async (t) => {
  const url = await server(t)
  const app = await startApp(t, url)
  const other = await startApp(t, url)
  const life = { ttl: 1, grace: '1h', backoff: '1h', jitter: 0 } as const
  await app.cache.getOrSet('k', () => 'old', life)
  await new Promise((resolve) => setTimeout(resolve, 5))
  const fail = (): never => {
    throw new Error('away')
  }
  t.equal(await app.cache.getOrSet('k', fail, life), 'old')
  const heard = listen(t, 'hit', 'miss')
  t.equal(await other.cache.getOrSet('k', fail, life), 'old', 'another process knows that it failed')
  t.same(heard, [['hit', { ns: '', key: 'k', layer: 'redis', stale: true }]])
})

t.test('a caller that waits for another process says so, once', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const heard = listen(t, 'wait', 'hit')
  const scripts = async (): Promise<number> => {
    const stats = String(await redis.command('INFO', 'commandstats'))
    return (
      Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0) +
      Number(/cmdstat_eval:calls=(\d+)/.exec(stats)?.[1] ?? 0)
    )
  }
  /** Calls, and comes back once Redis has been asked twice: it has said that another holds the lease. */
  const waiting = async <V>(call: () => Promise<V>): Promise<{ answer: Promise<V> }> => {
    const before = await scripts()
    const answer = call()
    await until(async () => (await scripts()) >= before + 2)
    return { answer }
  }
  const slow = gate<number>()
  const began = gate()
  const first = app.cache.getOrSet('k', () => (began.open(), slow.passed))
  await began.passed
  const { answer: second } = await waiting(() => other.cache.getOrSet('k', () => 0))
  slow.open(1)
  t.same(await Promise.all([first, second]), [1, 1])
  t.match(heard, [
    ['wait', { ns: '', key: 'k', durationMs: Number }],
    ['hit', { ns: '', key: 'k', layer: 'redis', stale: false }]
  ])
  t.equal(heard.length, 2)
  t.ok((heard[0]![1]['durationMs'] as number) > 0)

  // What the other brings is of no use: the wait is over all the same.
  const useless = gate<number>()
  const again = gate()
  const third = app.cache.getOrSet('s', (context) => (again.open(), context.skip(), useless.passed))
  await again.passed
  const { answer: fourth } = await waiting(() => other.cache.getOrSet('s', () => 4))
  useless.open(3)
  t.same(await Promise.all([third, fourth]), [3, 4])
  t.same(
    heard.slice(2).map(([event]) => event),
    ['wait']
  )
})

t.test('an invalidation is told here once, and by the instances that hear of it', async (t) => {
  const url = await server(t)
  const { cache, bus } = await startApp(t, url)
  const alone = await startApp(t, undefined)
  const other = await startApp(t, url)
  await other.bus.ready()
  const backplane = listen(t, 'backplane')
  const wanted: [string, Message][] = [
    ['invalidate', { ns: '', keys: ['a', 'b'] }],
    ['invalidate', { ns: '', keys: ['a'] }],
    ['invalidate', { ns: 'n', keys: ['x', 'y'] }],
    ['invalidate', { ns: 'n', keys: ['gone'] }],
    ['invalidate', { ns: '', tags: ['red', 'blue'] }],
    ['invalidate', { ns: 'n', all: true }]
  ]
  for (const one of [alone.cache, cache]) {
    const heard = listen(t, 'invalidate')
    const part = one.namespace('n')
    await one.setMany([
      { key: 'a', value: 1 },
      { key: 'b', value: 2 }
    ])
    await one.delete('a')
    await part.deleteMany(['x', 'y'])
    await part.deleteMany([])
    await part.set('gone', 1, { ttl: 0 })
    await one.invalidateTags(['red', 'blue'])
    await part.clear()
    t.same(heard, wanted)
  }
  await until(() => backplane.length >= wanted.length)
  const from = bus.instance
  t.same(
    backplane.map(([, message]) => message),
    [
      { from, keys: 2, tags: 0, all: false },
      { from, keys: 1, tags: 0, all: false },
      { from, keys: 2, tags: 0, all: false },
      { from, keys: 1, tags: 0, all: false },
      { from, keys: 0, tags: 2, all: false },
      { from, keys: 0, tags: 0, all: true }
    ]
  )
})

t.test('with Redis away: misses, invalidations, errors and the breaker are told all the same', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { cache } = await startApp(t, redis.url, {
    redisTimeout: { soft: '50ms', hard: '200ms' },
    breaker: { failures: 2, cooldown: '50ms' }
  })
  await cache.set('held', 1)
  const reads = listen(t, 'hit', 'miss')
  const errors = listen(t, 'error')
  const breaker = listen(t, 'breaker')
  const told = listen(t, 'invalidate')
  redis.pause()
  t.teardown(() => redis.resume())
  t.equal(await cache.getOrSet('a', () => 1), 1)
  t.equal(await cache.getOrSet('b', () => 2), 2)
  await until(() => breaker.length > 0)
  t.equal(await cache.getOrSet('c', () => 3), 3)
  t.equal(await cache.get('held'), 1)
  t.same(reads, [
    ['miss', { ns: '', key: 'a' }],
    ['miss', { ns: '', key: 'b' }],
    ['miss', { ns: '', key: 'c' }],
    ['hit', { ns: '', key: 'held', layer: 'memory', stale: false }]
  ])
  t.match(errors[0], ['error', { operation: 'acquire', error: Error }])
  t.match(breaker, [['breaker', { state: 'open', cause: Error }]])
  await cache.delete('held')
  await cache.set('held', 2)
  await cache.invalidateTags(['red'])
  await cache.clear()
  t.same(told, [
    ['invalidate', { ns: '', keys: ['held'] }],
    ['invalidate', { ns: '', keys: ['held'] }],
    ['invalidate', { ns: '', tags: ['red'] }],
    ['invalidate', { ns: '', all: true }]
  ])
  redis.resume()
  await until(() => breaker.length > 1)
  t.same(breaker.slice(1), [['breaker', { state: 'closed', resent: 3 }]])
  t.equal(told.length, 4, 'what is sent again is not told again')
})

t.test('an error of Redis does not carry what was to be stored', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { cache } = await startApp(t, redis.url)
  await redis.command('CONFIG', 'SET', 'maxmemory', '1')
  const errors = listen(t, 'error')
  await cache.set('k', 'secret value')
  t.match(errors.at(-1), ['error', { operation: 'set', error: { message: /OOM/ } }])
  for (const [, { error }] of errors)
    t.notOk(Object.hasOwn((error as { command?: object }).command ?? {}, 'args'))
})

t.test('what cannot be decoded, and a gap of the bus', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { cache, bus } = await startApp(t, redis.url)
  await bus.ready()
  const heard = listen(t, 'error', 'suspect')
  await redis.command('SET', 'flotilla:c:{k}', 'not one of ours')
  t.equal(await cache.getOrSet('k', () => 1), 1)
  t.match(heard, [['error', { operation: 'decode', error: { message: String } }]])
  t.equal(heard.length, 1)
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => heard.length >= 3)
  t.same(heard.slice(1), [
    ['suspect', { reason: 'connection-lost', recovered: false }],
    ['suspect', { reason: 'connection-lost', recovered: true }]
  ])
})

t.test('each request to a cached route is told once, by its pattern', async (t) => {
  const heard = listen(t, 'http')
  const { app, get } = await serve(
    t,
    { ttl: '1m' },
    () => 'x',
    {},
    {
      routes: (app) => void app.get('/user/:id', { config: { cache: { ttl: '1m' } } }, ({ params }) => params)
    }
  )
  const status = async (...request: Parameters<typeof get>): Promise<unknown> =>
    (await get(...request)).headers['cache-status']
  const seen = [
    await status({ 'cache-control': 'only-if-cached' }),
    await status(),
    await status(),
    await status({ 'cache-control': 'no-store' }),
    await status({}, '/user/7')
  ]
  await app.inject({ method: 'HEAD', url: '/x' })
  t.same(
    heard.map(([, { route, hit }]) => [route, hit]),
    [
      ['/x', false],
      ['/x', false],
      ['/x', true],
      ['/x', false],
      ['/user/:id', false],
      ['/x', true]
    ]
  )
  t.same(
    heard.slice(0, 5).map(([, message]) => message['status']),
    seen
  )
})

async function server(t: Test): Promise<string> {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  return redis.url
}

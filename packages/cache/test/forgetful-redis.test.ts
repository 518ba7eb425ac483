import { onEachTopology, startRedis, startSentinel, until, type RedisServer } from '@flotilla/testbed'
import t, { type Test } from 'tap'
import { createKeyNames } from '../src/keys.js'
import { gate, startApp } from './support/app.js'

/*
 * Redis forgets: it evicts, expires, is flushed, restored or loses the tail of its replication. An invalidation wins all the same.
 */
const names = createKeyNames('flotilla:')

t.test('an entry whose mark is missing is dead', (top) =>
  onEachTopology(top, async (parent: Test, { url }) => {
    const writer = await startApp(parent, url)
    const marks: [what: string, mark: string][] = [
      ['tag', names.tag('red')],
      ['generation of the namespace', names.generation('part')],
      ['generation of all', names.generation('')]
    ]
    for (const [what, mark] of marks) {
      await parent.test(what, async (t) => {
        const key = `of ${what}`
        await writer.cache.namespace('part').set(key, 'old', { tags: ['red'] })
        const reader = await startApp(t, url)
        t.equal(await reader.cache.namespace('part').get(key), 'old')
        await writer.redis.del(mark)
        const fresh = await startApp(t, url)
        t.equal(await fresh.cache.namespace('part').get(key), undefined, 'get')
        t.equal(await fresh.cache.namespace('part').getOrSet(key, () => 'new'), 'new', 'getOrSet')
        t.equal(await (await startApp(t, url)).cache.namespace('part').get(key), 'new', 'which is kept')
      })
    }

    await parent.test('a fill under way', async (t) => {
      const filler = await startApp(t, url)
      const calls = { n: 0 }
      const started = gate()
      const goOn = gate()
      const filling = filler.cache.getOrSet(
        'filling',
        async () => {
          calls.n++
          started.open()
          await goOn.passed
          return 'old'
        },
        { tags: ['blue'] }
      )
      await started.passed
      await writer.cache.invalidateTags(['blue'])
      await writer.redis.del(names.tag('blue'))
      goOn.open()
      t.equal(await filling, 'old', 'its caller began before')
      const other = await startApp(t, url)
      t.equal(await other.cache.get('filling'), undefined)
      t.equal(await filler.cache.getOrSet('filling', () => 'new', { tags: ['blue'] }), 'new')
    })

    await parent.test('a tag that the factory names is new: its entry is kept at once', async (t) => {
      const app = await startApp(t, url)
      const load = (key: string): Promise<string> =>
        app.cache.getOrSet(key, (ctx) => {
          ctx.tags(`tag of ${key}`, 'shared by all')
          return `value of ${key}`
        })
      await Promise.all(Array.from({ length: 20 }, (_, i) => load(`named ${i}`)))
      const other = await startApp(t, url)
      for (let i = 0; i < 20; i++) t.equal(await other.cache.get(`named ${i}`), `value of named ${i}`)
      await other.cache.invalidateTags(['shared by all'])
      await until(async () => (await app.cache.get('named 3')) === undefined)
    })
  })
)

const POLICIES = [
  'allkeys-lru',
  'allkeys-lfu',
  'allkeys-random',
  'volatile-lru',
  'volatile-lfu',
  'volatile-random',
  'volatile-ttl'
]
for (const policy of POLICIES) {
  t.test(`maxmemory with ${policy}: what was invalidated stays so`, async (t) => {
    const redis = await startRedis({ args: ['--maxmemory-policy', policy] })
    t.teardown(() => redis.stop())
    const app = await startApp(t, redis.url)
    const keys = Array.from({ length: 100 }, (_, i) => `key ${i}`)
    await app.cache.setMany(keys.map((key) => ({ key, value: 'old', tags: [`tag of ${key}`] })))
    await app.cache.invalidateTags(keys.map((key) => `tag of ${key}`))
    const raw = redis.client()
    const tags = keys.map((key) => names.tag(`tag of ${key}`))
    const entries = keys.map((key) => names.entry('', key))
    // In use, so that LRU and LFU take the marks before them.
    for (let i = 0; i < 50; i++) await raw.mget(entries)
    await fillUntil(redis, async () => (await raw.exists(...tags)) < tags.length / 2)
    const survivors = await raw.exists(...entries)
    const other = await startApp(t, redis.url)
    const values = await other.cache.getMany(keys)
    t.same(
      values.filter((value) => value !== undefined),
      [],
      `${survivors} entries outlived half of the marks`
    )
    await redis.command('CONFIG', 'SET', 'maxmemory', 0)
  })
}

/** Writes short-lived keys under a limit of memory until Redis has evicted enough. */
async function fillUntil(redis: RedisServer, enough: () => Promise<boolean>): Promise<void> {
  const raw = redis.client()
  const { used_memory: used } = await redis.info('memory')
  await redis.command('CONFIG', 'SET', 'maxmemory', Number(used) + 100_000)
  const filler = 'x'.repeat(1000)
  for (let i = 0; !(await enough()); i++) {
    if (i > 500) throw new Error('Redis evicts nothing')
    const pipeline = raw.pipeline()
    // They live longest, so that `volatile-ttl` takes others first.
    for (let n = 0; n < 200; n++) pipeline.set(`filler ${i} ${n}`, filler, 'EX', 100_000_000)
    await pipeline.exec()
  }
}

t.test('a failover that loses the tail brings nothing back', async (t) => {
  const group = await startSentinel()
  t.teardown(() => group.stop())
  const app = await startApp(t, group.url, {
    redisTimeout: { soft: '50ms', hard: '500ms' },
    breaker: { failures: 2, cooldown: '100ms' }
  })
  const keys = Array.from({ length: 50 }, (_, i) => `key ${i}`)
  await app.cache.setMany(keys.map((key) => ({ key, value: 'old', tags: [`tag of ${key}`] })))
  const old = await group.master()
  await old.command('WAIT', 2, 10_000)
  const patient = await startApp(t, group.url)
  await patient.cache.invalidateTags(['of no entry'], { replicas: 2 })
  // From here on nothing is replicated.
  for (const replica of await group.replicas()) await replica.command('REPLICAOF', '127.0.0.1', 1)
  await t.rejects(app.cache.invalidateTags(['of no entry'], { replicas: 1 }), {
    code: 'FLOTILLA_CACHE_ERR_REPLICAS',
    statusCode: 503
  })
  await app.cache.deleteMany(keys.slice(0, 25))
  await app.cache.invalidateTags(keys.slice(25).map((key) => `tag of ${key}`))
  await old.kill()
  await group.waitForFailover(old)
  const other = await startApp(t, group.url)
  await until(async () => (await other.cache.getMany(keys)).every((value) => value === undefined), {
    timeout: 30_000,
    message: 'the new master hears of all of them'
  })
})

t.test('a server without memory: invalidations are taken, or refused in words', async (t) => {
  const redis = await startRedis({ args: ['--maxmemory-policy', 'noeviction'] })
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  await app.cache.set('tagged', 'old', { tags: ['red'] })
  await app.cache.set('deleted', 'old')
  t.same(await other.cache.getMany(['tagged', 'deleted']), ['old', 'old'])
  await redis.command('CONFIG', 'SET', 'maxmemory', 1)
  await app.cache.invalidateTags(['red'])
  await app.cache.delete('deleted')
  await until(async () =>
    (await other.cache.getMany(['tagged', 'deleted'])).every((value) => value === undefined)
  )
  await redis.command('CONFIG', 'SET', 'maxmemory', 0)
  const fresh = await startApp(t, redis.url)
  t.same(await fresh.cache.getMany(['tagged', 'deleted']), [undefined, undefined])
})

t.test('a server that is read-only refuses, and hears of it later', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const options = { breaker: { failures: 1000, cooldown: '100ms' } }
  const app = await startApp(t, redis.url, options)
  const other = await startApp(t, redis.url, options)
  const keys = ['deleted', 'tagged', 'cleared']
  for (const key of keys) await app.cache.namespace(key).set('k', 'old', { tags: [key] })
  for (const key of keys) t.equal(await other.cache.namespace(key).get('k'), 'old')
  await redis.command('REPLICAOF', '127.0.0.1', 1)
  await redis.command('CONFIG', 'SET', 'replica-serve-stale-data', 'yes')
  const refused = { code: 'FLOTILLA_CACHE_ERR_REFUSED', statusCode: 503, message: /READONLY/ }
  await t.rejects(app.cache.namespace('deleted').delete('k'), refused)
  await t.rejects(app.cache.invalidateTags(['tagged']), refused)
  await t.rejects(app.cache.namespace('cleared').clear(), refused)
  for (const key of keys) t.equal(app.cache.namespace(key).peek('k'), undefined, `${key}: forgotten here`)
  await redis.command('REPLICAOF', 'NO', 'ONE')
  for (const key of keys) {
    await until(async () => (await other.cache.namespace(key).get('k')) === undefined, { message: key })
  }
})

t.test('the memory of the caller forgets at once', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { cache } = await startApp(t, redis.url)
  await cache.set('tagged', 'old', { tags: ['red'] })
  await cache.set('cleared', 'old')
  t.same([cache.peek('tagged'), cache.peek('cleared')], ['old', 'old'])
  const ends = [cache.invalidateTags(['red'])]
  t.same([cache.peek('tagged'), cache.peek('cleared')], [undefined, 'old'])
  ends.push(cache.clear())
  t.equal(cache.peek('cleared'), undefined)
  await Promise.all(ends)
})

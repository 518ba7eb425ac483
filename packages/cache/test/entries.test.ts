import { startRedis, until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { startApp } from './support/app.js'
import type { CacheOptions, Codec } from '../src/index.js'
import { Memory } from '../src/memory.js'
import { Marks } from '../src/marks.js'
import { Entry } from '../src/entry.js'
import { sizeOf } from '../src/size.js'

t.test('stored entries that cannot be read are misses and are replaced', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url, { memory: false })
  const client = redis.client()
  const key = 'flotilla:c:{k}'
  await app.cache.set('k', { text: 'x'.repeat(100) }, { tags: ['t'] })
  const good = (await client.getBuffer(key))!
  const changed = Buffer.from(good)
  changed[changed.length - 5]! ^= 1
  const broken: [string, Buffer][] = [
    ['empty', Buffer.alloc(0)],
    ['one byte', Buffer.from('F')],
    ['other text', Buffer.from('{"value":1}')],
    ['a newer format', Buffer.concat([Buffer.from('F9'), good.subarray(2)])],
    ['a changed payload', changed],
    ['a changed header', Buffer.concat([good.subarray(0, 22), Buffer.from('!'), good.subarray(23)])],
    [
      'a header of four bytes',
      Buffer.concat([good.subarray(0, 18), Buffer.from([0, 0, 0, 4]), Buffer.from('null')])
    ],
    [
      'a header of two bytes',
      Buffer.concat([good.subarray(0, 18), Buffer.from([0, 0, 0, 2]), Buffer.from('{}')])
    ],
    ['a header longer than all', Buffer.concat([good.subarray(0, 18), Buffer.from([255, 255, 255, 255])])],
    ...[5, 17, 18, 21, 22, 30, good.length - 1].map((length): [string, Buffer] => [
      `cut at ${length}`,
      good.subarray(0, length)
    ])
  ]
  for (const [name, bytes] of broken) {
    await client.set(key, bytes)
    t.equal(await app.cache.get('k'), undefined, name)
    t.equal((await app.cache.explain('k')).verdict, 'miss', name)
    t.equal(await app.cache.getOrSet('k', () => name), name, `${name}: computed`)
    t.equal(await app.cache.get('k'), name, `${name}: replaced`)
  }
  await client.del(key)
  await client.hset(key, 'not', 'a string')
  t.equal(await app.cache.getOrSet('k', () => 'own'), 'own', 'a key of another type')
})

t.test('codecs and compression', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const big = { text: 'abc '.repeat(20_000) }
  const rich = { at: new Date(0), map: new Map([[1, new Set(['a'])]]), big: 12n, bytes: Buffer.from('x') }
  const rot: Codec = {
    name: 'reverse',
    encode: (value) => Buffer.from(Buffer.from(JSON.stringify(value)).toReversed()),
    decode: (bytes) => JSON.parse(Buffer.from(bytes.toReversed()).toString()) as unknown
  }
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const spaces = (one: typeof app): ReturnType<typeof app.cache.namespace>[] => [
    one.cache.namespace('json'),
    one.cache.namespace('msgpack', { codec: 'msgpack' }),
    one.cache.namespace('own', { codec: rot })
  ]
  for (const [i, space] of spaces(app).entries()) {
    await space.set('big', big)
    t.same(await spaces(other)[i]!.get('big'), big, space.name)
  }
  const size = await redis.client().strlen('flotilla:c:json:{big}')
  t.ok(size < 5000, `compressed to ${size} bytes`)
  await spaces(app)[1]!.set('rich', rich)
  t.same(await spaces(other)[1]!.get('rich'), rich)
  t.equal(
    await other.cache.namespace('json', { codec: 'msgpack' }).get('big'),
    undefined,
    'another codec is a miss'
  )

  const circle: Record<string, unknown> = {}
  circle['self'] = circle
  for (const value of [circle, 1n, () => 1, Symbol('x')]) {
    await t.rejects(app.cache.set('bad', value), { code: 'FLOTILLA_CACHE_ERR_VALUE' })
    await t.rejects(
      app.cache.getOrSet('bad', () => value),
      { code: 'FLOTILLA_CACHE_ERR_VALUE' }
    )
  }
  await app.cache.set('beside', 1)
  t.equal(await other.cache.get('beside'), 1)
  await t.rejects(
    app.cache.setMany([
      { key: 'beside', value: 2 },
      { key: 'bad', value: circle }
    ]),
    { code: 'FLOTILLA_CACHE_ERR_VALUE' }
  )
  await until(async () => (await other.cache.get('beside')) === 2, {
    message: 'the fleet hears of the good one'
  })
  t.equal(await app.cache.getOrSet('bad', () => 'good'), 'good', 'the lease was given back')
  t.same(
    await app.cache.getOrSet('date', () => new Date(0)),
    '1970-01-01T00:00:00.000Z',
    'as all others read it'
  )
})

t.test('memory: limits, SIEVE, estimates', async (t) => {
  const app = await startApp(t, undefined, { memory: { maxSize: 2000 } })
  await app.cache.set('large', 'x'.repeat(5000))
  t.equal(app.cache.peek('large'), undefined, 'larger than the whole memory')
  t.equal(await app.cache.getOrSet('large', () => 'y'.repeat(5000)), 'y'.repeat(5000), 'still answered')
  for (let i = 0; i < 100; i++) await app.cache.set(`k${i}`, i)
  t.equal(app.cache.peek('k0'), undefined)
  t.equal(app.cache.peek('k99'), 99)

  const marks = new Marks(true)
  const memory = new Memory({ maxSize: 1e6, maxEntries: 100 }, marks)
  const life = { createdAt: 0, freshUntil: 1, staleUntil: 1, graceUntil: 1, computeMs: 0 }
  const entry = (value: unknown): Entry =>
    new Entry({ value, version: '', life, early: 0, marks: [], stamps: [], tags: [], size: 10 })
  const place = (key: string): { ns: string; key: string } => ({ ns: '', key })
  for (let i = 0; i < 50; i++) memory.put(place(`hot ${i}`), entry(i))
  for (let i = 0; i < 1000; i++) {
    for (let hot = 0; hot < 50; hot++) memory.get(place(`hot ${hot}`))
    memory.put(place(`scan ${i}`), entry(i))
  }
  const left = Array.from({ length: 50 }, (_, i) => memory.peek(place(`hot ${i}`))).filter(Boolean)
  t.equal(left.length, 50, 'what is used survives a scan')
  t.equal(memory.entries, 100)
  t.equal(memory.bytes, 1000)
  for (let i = 0; i < 2000; i++) memory.delete(place(`${i % 2 ? 'hot' : 'scan'} ${i}`))
  for (let i = 0; i < 300; i++) memory.put(place(`again ${i % 120}`), entry(i))
  t.equal(memory.entries, 100)
  memory.clear()
  t.equal(memory.entries + memory.bytes, 0)
  t.ok(sizeOf(Array.from({ length: 1e5 }, (_, i) => i)) > 5e5)
  t.ok(sizeOf('x'.repeat(1000)) >= 1000)
  t.ok(sizeOf(new Map([[1, Buffer.alloc(5000)]])) > 5000)
})

t.test('keyPrefix, early refresh, jitter', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url, { keyPrefix: 'shop:', jitter: 0.5 })
  await app.cache.set('k', 1, { ttl: 100_000 })
  const ttl = await redis.client().pttl('shop:c:{k}')
  t.ok(ttl > 49_000 && ttl < 100_000, `${ttl} ms of life left`)
  t.same(
    (await redis.client().keys('*')).filter((key) => !key.startsWith('shop:')),
    []
  )
  let calls = 0
  const slow = async (): Promise<number> => {
    await new Promise((resolve) => setTimeout(resolve, 20))
    return ++calls
  }
  const options = { ttl: 400, early: 100, jitter: 0 }
  t.equal(await app.cache.getOrSet('early', slow, options), 1)
  await until(async () => {
    t.ok((await app.cache.getOrSet('early', slow, options)) >= 1)
    return calls > 1
  })
  t.equal(calls, 2, 'computed ahead of expiry, by one')
})

t.test('getOrSet with 10,000 tags: more than a script can take at once', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const tags = Array.from({ length: 10_000 }, (_, i) => `tag ${i}`)
  t.equal(await app.cache.getOrSet('k', () => 1, { tags }), 1)
  t.equal(await other.cache.getOrSet('k', () => 2, { tags }), 1)
  await other.cache.invalidateTags(['tag 9999'])
  await until(() => app.cache.peek('k') === undefined, { message: 'memory hears of it' })
  t.equal(await app.cache.getOrSet('k', () => 3, { tags }), 3)
})

t.test('the JSON codec refuses what it would lose, and names the place', async (t) => {
  const { cache } = await startApp(t, undefined)
  const cases: [string, unknown, RegExp][] = [
    ['Map', new Map(), /'k' cannot be stored: JSON cannot carry a Map, and codec 'msgpack' can/],
    ['a Map inside', { user: [{ roles: new Map() }] }, /a Map at 'user\.0\.roles'/],
    ['Set', { ids: new Set([1]) }, /a Set at 'ids'/],
    ['BigInt', { n: [1, 2n] }, /a BigInt at 'n\.1'/],
    ['Error', { reason: new RangeError('x') }, /an Error at 'reason'/],
    ['bytes', { body: Buffer.from('x') }, /a Buffer at 'body'/],
    ['typed array', new Float64Array(2), /a Float64Array/],
    ['RegExp', [/x/], /a RegExp at '0'/],
    ['Promise', { user: Promise.resolve(1) }, /a Promise \(await it first\) at 'user'/]
  ]
  const msgpack = cache.namespace('msgpack', { codec: 'msgpack' })
  for (const [name, value, message] of cases) {
    const refused = { code: 'FLOTILLA_CACHE_ERR_VALUE', message }
    await t.rejects(cache.set('k', value), refused, name)
    await t.rejects(
      cache.getOrSet('k', () => value),
      refused,
      name
    )
    if (name === 'Promise') continue
    await msgpack.set('k', value)
    t.equal(typeof (await msgpack.get('k')), 'object', `${name}: msgpack can`)
  }
  class Point {
    x = 1
  }
  const fine = {
    date: new Date(0),
    own: { toJSON: () => 'own form' },
    point: new Point(),
    bare: Object.create(null) as object
  }
  await cache.set('k', fine)
  t.same(await cache.get('k'), {
    date: '1970-01-01T00:00:00.000Z',
    own: 'own form',
    point: { x: 1 },
    bare: {}
  })
})

t.test('values have one type, with Redis, while it is away, and without it', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const fast: CacheOptions = {
    redisTimeout: { soft: '50ms', hard: '300ms' },
    breaker: { failures: 1, cooldown: '100ms' }
  }
  const without = await startApp(t, undefined)
  const app = await startApp(t, redis.url, fast)
  const text = '1970-01-01T00:00:00.000Z'
  const look = async (cache: FastifyInstance['cache'], when: string): Promise<void> => {
    const make = (): Date => new Date(0)
    t.same(await cache.getOrSet(`computed ${when}`, make), text, `${when}: computed`)
    t.same(await cache.getOrSet(`computed ${when}`, make), text, `${when}: from memory`)
    t.same(await cache.getOrSet(`not kept ${when}`, make, { ttl: 0 }), text, `${when}: with ttl 0`)
    await cache.set(`set ${when}`, new Date(0))
    t.same(await cache.get(`set ${when}`), text, `${when}: set`)
  }
  await look(without.cache, 'without')
  await look(app.cache, 'with')
  redis.pause()
  t.teardown(() => redis.resume())
  await look(app.cache, 'away')
  redis.resume()
})

t.test('memory keeps to maxSize, whatever the shape of its values', async (t) => {
  const script = fileURLToPath(new URL('support/heap-shapes.ts', import.meta.url))
  const args = ['--expose-gc', '--import=tsx', script]
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: { PATH: process.env['PATH'] } })
  const ratios = JSON.parse(stdout) as Record<string, number>
  t.ok(Object.keys(ratios).length > 25)
  for (const [shape, ratio] of Object.entries(ratios)) {
    t.ok(ratio < 1.5, `${shape}: the heap grew by ${ratio.toFixed(2)} times maxSize`)
  }
})

t.test('memory expires by a clock that only runs forward', async (t) => {
  const app = await startApp(t, undefined)
  const real = Date.now
  t.teardown(() => (Date.now = real))
  await app.cache.set('long', 1, { ttl: '1h' })
  await app.cache.set('short', 1, { ttl: 50 })
  Date.now = () => real() + 2 * 3_600_000
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(app.cache.peek('long'), 1, 'the clock was set forward')
  Date.now = () => real() - 2 * 3_600_000
  await until(() => app.cache.peek('short') === undefined, { message: 'the clock was set back' })
  t.equal(app.cache.peek('long'), 1)
})

t.test('memory is refilled with the life that remains', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  await app.cache.set('k', 1, { ttl: '1h' })
  const [own, theirs] = [
    await app.cache.explain('k'),
    (await other.cache.get('k'), await other.cache.explain('k'))
  ]
  // It was asked for later: the life that remained then, and of the same length in all.
  t.ok(theirs.memory!.freshFor <= own.memory!.freshFor + 10)
  const whole = (one: typeof own): number => one.memory!.age + one.memory!.freshFor
  t.ok(Math.abs(whole(own) - whole(theirs)) <= 2)
  t.equal(own.memory!.version, theirs.memory!.version)
})

import { until } from '@flotilla/testbed'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { CacheOptions, FactoryContext, GetOrSetOptions } from '../../src/index.js'
import { gate } from './app.js'

type Start = (t: Test, options?: CacheOptions) => Promise<FastifyInstance>

/**
 * What every cache must do, wherever it keeps things.
 *
 * @param fleet true where two apps share what they hold
 */
export async function contract(t: Test, start: Start, fleet: boolean): Promise<void> {
  const app = await start(t)
  const other = fleet ? await start(t) : app
  const { cache } = app
  let at = 0
  const fresh = (): string => `key ${++at}`

  await t.test('values', async (t) => {
    const key = fresh()
    t.equal(await cache.get(key), undefined)
    t.equal(await cache.has(key), false)
    await cache.set(key, { a: [1, null, 'x'] })
    t.same(await cache.get(key), { a: [1, null, 'x'] })
    t.same(await other.cache.get(key), { a: [1, null, 'x'] })
    t.same(cache.peek(key), { a: [1, null, 'x'] })
    t.equal(await cache.has(key), true)
    await cache.delete(key)
    t.equal(cache.peek(key), undefined)
    t.equal(await cache.get(key), undefined)
    await cache.set(key, null)
    t.equal(await other.cache.get(key), null, 'null is a value')
    t.equal(await cache.getOrSet(key, () => t.fail('it is there')), null)
  })

  await t.test('undefined is a miss and is not stored', async (t) => {
    const key = fresh()
    let calls = 0
    const none = (): undefined => void calls++
    t.equal(await cache.getOrSet(key, none), undefined)
    t.equal(await cache.getOrSet(key, none), undefined)
    t.equal(calls, 2)
    await t.rejects(cache.set(key, undefined), { code: 'FLOTILLA_CACHE_ERR_VALUE' })
  })

  await t.test('many callers, one factory call', async (t) => {
    const key = fresh()
    let calls = 0
    const factory = async (): Promise<number> => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      return ++calls
    }
    const all = await Promise.all(
      Array.from({ length: 200 }, (_, i) => (i % 2 ? cache : other.cache).getOrSet(key, factory))
    )
    t.same(new Set(all), new Set([1]))
    t.equal(await other.cache.getOrSet(key, factory), 1)
  })

  await t.test('a failing factory fails its callers and leaves nothing', async (t) => {
    const key = fresh()
    await t.rejects(
      cache.getOrSet(key, () => {
        throw new Error('no luck')
      }),
      { message: 'no luck' }
    )
    await t.rejects(
      cache.getOrSet(key, () => Promise.reject(new Error('again'))),
      { message: 'again' }
    )
    t.equal(await cache.getOrSet(key, () => 'fine'), 'fine')
  })

  await t.test('ttl, negative ttl, skip', async (t) => {
    const key = fresh()
    await cache.getOrSet(key, () => 1, { ttl: 300 })
    t.equal(await cache.getOrSet(key, () => 2), 1)
    await until(async () => (await cache.get(key)) === undefined, { message: 'it expires' })
    t.equal(await cache.getOrSet(key, () => 2, { ttl: 0 }), 2)
    t.equal(await cache.get(key), undefined, 'ttl 0 stores nothing')
    t.equal(await cache.getOrSet(key, () => null, { negativeTtl: 0 }), null)
    t.equal(await cache.get(key), undefined)
    await cache.getOrSet(key, (ctx) => (ctx.skip(), 3))
    t.equal(await cache.get(key), undefined, 'skipped')
    await cache.getOrSet(key, (ctx) => (ctx.ttl('1m'), 4), { ttl: 1 })
    const { memory } = await cache.explain(key)
    t.ok(memory && memory.freshFor > 50_000, 'ctx.ttl wins')
    await cache.set(key, 5, { ttl: 0 })
    t.equal(await cache.get(key), undefined, 'set with ttl 0 deletes')
  })

  await t.test('tags', async (t) => {
    const [a, b, c] = [fresh(), fresh(), fresh()]
    await cache.set(a, 1, { tags: ['red', 'big'] })
    await cache.getOrSet(b, () => 2, { tags: ['red'] })
    await cache.getOrSet(c, (ctx) => (ctx.tags('blue', ['small']), 3))
    t.same(await other.cache.getMany([a, b, c]), [1, 2, 3])
    await other.cache.invalidateTags(['red'])
    t.same(await other.cache.getMany([a, b, c]), [undefined, undefined, 3])
    await until(() => cache.peek(a) === undefined, { message: 'memory hears of it' })
    t.same(await cache.getMany([a, b, c]), [undefined, undefined, 3])
    await cache.invalidateTags(['small'])
    t.equal(await cache.get(c), undefined)
    t.equal(await cache.getOrSet(c, () => 4, { tags: ['small'] }), 4)
    t.equal(await cache.get(c), 4, 'and it can be stored again')
    await cache.invalidateTags(Array.from({ length: 10_000 }, (_, i) => (i === 9_999 ? 'small' : `tag ${i}`)))
    t.equal(await cache.get(c), undefined, 'among 10,000 tags')
    const many = Array.from({ length: 10_000 }, (_, i) => `tag ${i}`)
    await cache.set(a, 1, { tags: many })
    t.equal(await other.cache.get(a), 1)
    await other.cache.invalidateTags(['tag 5000'])
    t.equal(await other.cache.get(a), undefined)
  })

  await t.test('many keys at once', async (t) => {
    const keys = Array.from({ length: 50 }, fresh)
    await cache.setMany(keys.map((key, i) => ({ key, value: i })))
    t.same(
      await other.cache.getMany(keys),
      keys.map((_, i) => i)
    )
    await other.cache.deleteMany(keys.slice(0, 25))
    const left = keys.map((_, i) => (i < 25 ? undefined : i))
    t.same(await other.cache.getMany(keys), left)
    await until(() => cache.peek(keys[0]!) === undefined, { message: 'memory hears of it' })
    t.same(await cache.getMany(keys), left)
    t.same(await cache.getMany([]), [])
  })

  await t.test('namespaces and clear', async (t) => {
    const key = fresh()
    const reports = cache.namespace<number>('reports', { ttl: '1h' })
    const nested = reports.namespace('2026')
    const theirs = other.cache.namespace<number>('reports')
    await cache.set(key, 0)
    await reports.set(key, 1)
    await nested.set(key, 2)
    t.same([await cache.get(key), await reports.get(key), await nested.get(key)], [0, 1, 2])
    t.equal(await theirs.get(key), 1)
    await theirs.clear()
    t.equal(await theirs.get(key), undefined)
    await until(() => reports.peek(key) === undefined, { message: 'memory hears of it' })
    t.same([await cache.get(key), await reports.get(key), await nested.get(key)], [0, undefined, 2])
    await reports.set(key, 3)
    t.equal(await reports.get(key), 3)
    await cache.clear()
    t.same(
      [await cache.get(key), await reports.get(key), await nested.get(key)],
      [undefined, undefined, undefined]
    )
  })

  await t.test('keys of any text', async (t) => {
    const keys = [
      ' ',
      '{}',
      '}',
      '{',
      'a{b}c',
      '}{',
      '\n',
      '%',
      '#x',
      '*',
      'é✓𝒳',
      '\ud800',
      '\0',
      'x'.repeat(65_536),
      'x'.repeat(65_537),
      'reports:1',
      'a:{b}'
    ]
    for (const [i, key] of keys.entries()) await cache.set(key, i)
    t.same(
      await other.cache.getMany(keys),
      keys.map((_, i) => i)
    )
    await other.cache.deleteMany(keys)
    t.same(
      await other.cache.getMany(keys),
      keys.map(() => undefined)
    )
    for (const key of ['', undefined, 7]) {
      await t.rejects(cache.get(key as string), { code: 'FLOTILLA_CACHE_ERR_KEY' })
      await t.rejects(
        cache.getOrSet(key as string, () => 1),
        { code: 'FLOTILLA_CACHE_ERR_KEY' }
      )
    }
  })

  await t.test('a delete during a fill wins', async (t) => {
    const key = fresh()
    const begun = gate()
    const go = gate()
    const filling = cache.getOrSet(key, async () => {
      begun.open()
      await go.passed
      return 'old'
    })
    await begun.passed
    await other.cache.delete(key)
    const later = cache.getOrSet(key, () => 'new')
    go.open()
    t.equal(await filling, 'old', 'its own caller began before the delete')
    t.equal(await later, 'new', 'a later caller does not get it')
    t.equal(await other.cache.get(key), 'new')
    t.equal(await cache.get(key), 'new')
  })

  await t.test(
    'a tag invalidated during a fill wins, named before or in the factory; so does clear',
    async (t) => {
      const cases: [string, (key: string) => Promise<void>][] = [
        ['static', () => other.cache.invalidateTags(['race'])],
        ['dynamic', () => other.cache.invalidateTags(['race'])],
        ['clear', () => other.cache.clear()],
        ['set', (key) => other.cache.set(key, 'set')]
      ]
      for (const [name, invalidate] of cases) {
        const key = fresh()
        const begun = gate()
        const go = gate()
        const filling = cache.getOrSet(
          key,
          async (ctx) => {
            if (name === 'dynamic') ctx.tags('race')
            begun.open()
            await go.passed
            return 'old'
          },
          name === 'static' ? { tags: ['race'] } : {}
        )
        await begun.passed
        await invalidate(key)
        go.open()
        await filling
        const expected = name === 'set' ? 'set' : undefined
        t.equal(await other.cache.get(key), expected, name)
        await until(async () => (await cache.get(key)) === expected, { message: `${name}: nothing old` })
      }
    }
  )

  await t.test(
    'a tag invalidated during a fill that stores nothing wins: later callers compute',
    async (t) => {
      const tags = ['not stored']
      const cases: [string, (ctx: FactoryContext) => string | undefined, GetOrSetOptions][] = [
        ['skip', (ctx) => (ctx.skip(), 'before'), { tags }],
        ['skip, with a tag of the factory', (ctx) => (ctx.skip(), 'before'), {}],
        ['ttl 0', () => 'before', { tags, ttl: 0 }],
        ['undefined', () => undefined, { tags }]
      ]
      for (const [name, bring, options] of cases) {
        const key = fresh()
        const begun = gate()
        const go = gate()
        const filling = cache.getOrSet(
          key,
          async (ctx) => {
            if (!options.tags) ctx.tags(tags)
            begun.open()
            await go.passed
            return bring(ctx)
          },
          options
        )
        await begun.passed
        const joined = cache.getOrSet(key, () => 'joined', options)
        await cache.invalidateTags(tags)
        const later = cache.getOrSet(key, () => 'after', options)
        go.open()
        t.equal(await filling, name === 'undefined' ? undefined : 'before', name)
        t.not(await later, await filling, `${name}: a later caller does not get it`)
        await joined
      }
    }
  )

  await t.test(
    'an old value that is invalidated while the factory runs is not served in its grace',
    async (t) => {
      const key = fresh()
      const options = { ttl: 30, grace: '1m', tags: ['graceless'] }
      await cache.getOrSet(key, () => 'old', options)
      await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
      const begun = gate()
      const go = gate()
      const failing = async (): Promise<never> => {
        begun.open()
        await go.passed
        throw new Error('down')
      }
      const filling = t.rejects(cache.getOrSet(key, failing, options), { message: 'down' })
      await begun.passed
      await cache.invalidateTags(options.tags)
      const later = t.rejects(cache.getOrSet(key, failing, options), { message: 'down' })
      go.open()
      await filling
      await later
      t.equal(
        await cache.getOrSet(key, () => 'new', { ...options, ttl: '1m' }),
        'new',
        'nor is it backed off'
      )
    }
  )

  await t.test('a tag invalidated while a value is being set wins, in memory too', async (t) => {
    const key = fresh()
    const tags = ['being set']
    await cache.set(fresh(), 1, { tags })
    // Large: compressing it takes a while.
    const setting = cache.set(key, 'x'.repeat(1_000_000), { tags })
    await cache.invalidateTags(tags)
    await setting
    t.equal(cache.peek(key), undefined)
    t.equal(await cache.get(key), undefined)
    t.equal(await other.cache.get(key), undefined)
  })

  await t.test('writes of one key take effect in the order of the calls', async (t) => {
    // Compressing it takes a while.
    const big = 'x'.repeat(1_000_000)
    const tags = ['in order']
    const tagged = { tags }
    await cache.set(fresh(), 1, tagged)
    const cases: [string, (key: string) => Promise<unknown>[], unknown][] = [
      ['set, set', (key) => [cache.set(key, big), cache.set(key, 'last')], 'last'],
      ['set, delete', (key) => [cache.set(key, big), cache.delete(key)], undefined],
      ['set, delete, set', (key) => [cache.set(key, big), cache.delete(key), cache.set(key, 'last')], 'last'],
      ['set, ttl 0', (key) => [cache.set(key, big), cache.set(key, 'none', { ttl: 0 })], undefined],
      [
        'setMany',
        (key) => [
          cache.setMany([
            { key, value: big },
            { key, value: 'last' }
          ])
        ],
        'last'
      ],
      ['set, invalidate', (key) => [cache.set(key, big, tagged), cache.invalidateTags(tags)], undefined],
      ['invalidate, set', (key) => [cache.invalidateTags(tags), cache.set(key, 'last', tagged)], 'last'],
      ['clear, set', (key) => [cache.clear(), cache.set(key, 'last', tagged)], 'last'],
      [
        'set, set, invalidate',
        (key) => [cache.set(key, 'old'), cache.set(key, big, tagged), cache.invalidateTags(tags)],
        undefined
      ],
      [
        'set, invalidate, set',
        (key) => [cache.set(key, big, tagged), cache.invalidateTags(tags), cache.set(key, 'last', tagged)],
        'last'
      ]
    ]
    for (const [name, calls, expected] of cases) {
      const key = fresh()
      await Promise.all(calls(key))
      t.equal(await other.cache.get(key), expected, name)
      t.equal(await cache.get(key), expected, `${name}, here`)
    }
  })

  await t.test('getOrSetMany computes what is missing in one call', async (t) => {
    const keys = Array.from({ length: 6 }, fresh)
    await cache.setMany(keys.slice(0, 2).map((key) => ({ key, value: `old ${key}` })))
    const calls: string[][] = []
    const load = async (missing: readonly string[]): Promise<(string | undefined)[]> => {
      calls.push([...missing])
      return missing.map((key) => (key === keys[5] ? undefined : `new ${key}`))
    }
    const expected = [
      ...keys.slice(0, 2).map((key) => `old ${key}`),
      ...keys.slice(2, 5).map((key) => `new ${key}`)
    ]
    t.same(await cache.getOrSetMany(keys, load), [...expected, undefined])
    t.same(
      calls.map((missing) => missing.toSorted()),
      [keys.slice(2).toSorted()]
    )
    t.same(await other.cache.getOrSetMany([...keys.slice(0, 5), keys[0]!], load), [...expected, expected[0]])
    t.equal(calls.length, 1, 'the fleet has them')
    t.same(await cache.getOrSetMany([], load), [])

    const cold = Array.from({ length: 20 }, fresh)
    const loaded: string[] = []
    const slow = async (missing: readonly string[]): Promise<Map<string, string>> => {
      loaded.push(...missing)
      await new Promise((resolve) => setTimeout(resolve, 20))
      return new Map(missing.map((key) => [key, `value of ${key}`]))
    }
    // Each asks for the keys in another order, and some ask for single ones.
    const all = await Promise.all([
      cache.getOrSetMany(cold, slow),
      other.cache.getOrSetMany(cold.toReversed(), slow),
      cache.getOrSetMany(cold.slice(5), slow),
      other.cache.getOrSet(cold[3]!, async () => (await slow([cold[3]!])).get(cold[3]!))
    ])
    const values = cold.map((key) => `value of ${key}`)
    t.same(all, [values, values.toReversed(), values.slice(5), values[3]])
    t.same(loaded.toSorted(), cold.toSorted(), 'each key once')

    const tagged = [fresh(), fresh()]
    await cache.getOrSetMany(tagged, (missing, contexts) => {
      contexts.forEach((context, i) => context.tags(`tag of ${missing[i]}`))
      return missing
    })
    await cache.invalidateTags([`tag of ${tagged[0]}`])
    t.same(await cache.getMany(tagged), [undefined, tagged[1]])
  })

  await t.test('getOrSetMany fails its callers and leaves nothing', async (t) => {
    const keys = [fresh(), fresh()]
    await t.rejects(
      cache.getOrSetMany(keys, () => Promise.reject(new Error('no luck'))),
      { message: 'no luck' }
    )
    await t.rejects(
      cache.getOrSetMany(keys, () => [1]),
      { code: 'FLOTILLA_CACHE_ERR_LOADED', message: /2 keys, got 1 values/ }
    )
    await t.rejects(
      cache.getOrSetMany(keys, () => 7 as never),
      { code: 'FLOTILLA_CACHE_ERR_LOADED' }
    )
    for (const own of keys) {
      await t.rejects(
        cache.getOrSetMany(keys, async (missing) => {
          await cache.getOrSet(own, () => 1)
          return missing
        }),
        { code: 'FLOTILLA_CACHE_ERR_DEADLOCK' },
        'a key of its own'
      )
    }
    await t.rejects(cache.getOrSetMany(keys, undefined as never), { code: 'FLOTILLA_CACHE_ERR_FACTORY' })
    t.same(await cache.getOrSetMany(keys, (missing) => missing), keys)
  })

  await t.test('add stores where there is nothing', async (t) => {
    const key = fresh()
    t.equal(await cache.add(key, 'first'), true)
    t.equal(await cache.add(key, 'second'), false)
    t.equal(await other.cache.add(key, 'third'), false)
    t.equal(await other.cache.get(key), 'first')
    const free = fresh()
    const ends = await Promise.all(
      Array.from({ length: 10 }, (_, i) => (i % 2 ? cache : other.cache).add(free, i))
    )
    t.equal(ends.filter(Boolean).length, 1, 'one of many')
    t.equal(await cache.get(free), ends.indexOf(true))
    await t.rejects(cache.add(key, undefined), { code: 'FLOTILLA_CACHE_ERR_VALUE' })
  })

  await t.test('ttl and stats', async (t) => {
    const key = fresh()
    t.equal(await cache.ttl(key), undefined)
    await cache.set(key, 1, { ttl: '1h' })
    for (const one of [cache, other.cache]) {
      const left = await one.ttl(key)
      t.ok(left !== undefined && left > 3_000_000 && left <= 3_600_000, String(left))
    }
    const before = cache.stats()
    t.match(before, { redis: fleet ? 'answering' : 'none', unsent: 0 })
    await cache.set(fresh(), 'x'.repeat(1000))
    const after = cache.stats()
    t.equal(after.memory!.entries, before.memory!.entries + 1)
    t.ok(after.memory!.bytes > before.memory!.bytes + 1000)
    const go = gate()
    const computing = cache.getOrSet(fresh(), () => go.passed)
    t.ok(cache.stats().underWay >= 1)
    go.open()
    await computing
    await until(() => cache.stats().underWay === 0)
  })

  await t.test('a factory keeps the old value that has not changed', async (t) => {
    const key = fresh()
    const tags = ['unchanged']
    await cache.getOrSet(key, (ctx) => (ctx.tags(tags), { version: 1 }), { ttl: 30, grace: '1h' })
    await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
    const seen: unknown[] = []
    const keep = (ctx: FactoryContext): unknown => (seen.push(ctx.stale), ctx.notModified())
    const value = await cache.getOrSet<unknown>(key, keep, { ttl: '1h' })
    t.same([value, ...seen], [{ version: 1 }, { version: 1 }])
    t.same(await other.cache.get(key), { version: 1 }, 'fresh again')
    await cache.invalidateTags(tags)
    t.equal(await cache.get(key), undefined, 'with the tags that it had')
    await t.rejects(cache.getOrSet<unknown>(key, keep), { code: 'FLOTILLA_CACHE_ERR_NO_STALE' })
  })

  await t.test('stale while revalidate', async (t) => {
    const key = fresh()
    let calls = 0
    const factory = (): number => ++calls
    const options = { ttl: 30, swr: '1m' }
    t.equal(await cache.getOrSet(key, factory, options), 1)
    await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
    t.equal(await cache.getOrSet(key, factory, { ...options, ttl: '1m' }), 1, 'the old one at once')
    await until(async () => (await cache.get(key)) === 2, { message: 'the new one follows' })
    t.equal(calls, 2)
  })

  await t.test('grace: an old value when the factory fails or is late, with backoff', async (t) => {
    const key = fresh()
    let calls = 0
    const failing = (): never => {
      calls++
      throw new Error('down')
    }
    const options = { ttl: 30, grace: '1m', backoff: 1000 }
    await cache.getOrSet(key, () => 'old', options)
    await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
    t.equal(await cache.getOrSet(key, failing, options), 'old')
    t.equal(await cache.getOrSet(key, failing, options), 'old')
    t.equal(await other.cache.getOrSet(key, failing, options), 'old')
    t.equal(calls, 1, 'left alone for a while, in the whole fleet')
    await until(async () => (await cache.getOrSet(key, () => 'new', { ...options, ttl: '1m' })) === 'new', {
      message: 'tried again after the backoff'
    })
    const slow = fresh()
    const go = gate()
    await cache.getOrSet(slow, () => 'old', options)
    await until(async () => (await cache.get(slow)) === undefined, { message: 'no longer fresh' })
    const began = Date.now()
    const late = { ...options, ttl: '1m', softTimeout: 50 }
    t.equal(await cache.getOrSet(slow, () => go.passed.then(() => 'new'), late), 'old', 'not waited for')
    t.ok(Date.now() - began < 1000)
    go.open()
    await until(async () => (await cache.get(slow)) === 'new', { message: 'what came late is kept' })
  })

  await t.test('a refresh that fails is left alone for the backoff, with swr alone too', async (t) => {
    const key = fresh()
    let calls = 0
    const failing = (): never => {
      calls++
      throw new Error('down')
    }
    const options = { ttl: 30, swr: '1h', backoff: '1h' }
    await cache.getOrSet(key, () => 'old', options)
    await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
    const ask = async (app: FastifyInstance): Promise<void> => {
      t.equal(await app.cache.getOrSet(key, failing, options), 'old')
      await until(() => !app.cache.isUnderWay(key), { message: 'its refresh has ended' })
    }
    for (let i = 0; i < 10; i++) await ask(app)
    t.equal(calls, 1)
    for (let i = 0; i < 3; i++) await ask(other)
    t.equal(calls, 1, 'in the whole fleet')
  })

  await t.test('timeouts longer than a timer can be, and none', async (t) => {
    for (const timeout of ['30d', 2 ** 31, Number.POSITIVE_INFINITY]) {
      const go = gate<string>()
      const key = fresh()
      const options = { ttl: 30, grace: '1h', timeout, softTimeout: timeout }
      const first = cache.getOrSet(key, () => go.passed, options)
      // A timer that overflows ends within a millisecond.
      await new Promise((resolve) => setTimeout(resolve, 20))
      go.open('first')
      t.equal(await first, 'first', `timeout ${timeout}`)
      await until(async () => (await cache.get(key)) === undefined, { message: 'no longer fresh' })
      const next = gate<string>()
      const second = cache.getOrSet(key, () => next.passed, options)
      await new Promise((resolve) => setTimeout(resolve, 20))
      next.open('second')
      t.equal(await second, 'second', `softTimeout ${timeout}`)
    }
  })

  await t.test('a factory that never settles is aborted', async (t) => {
    const key = fresh()
    let aborted: unknown
    const hung = cache.getOrSet(
      key,
      ({ signal }) => {
        signal.addEventListener('abort', () => (aborted = signal.reason))
        return new Promise<never>(() => undefined)
      },
      { timeout: 100 }
    )
    await t.rejects(hung, { code: 'FLOTILLA_CACHE_ERR_FACTORY_TIMEOUT' })
    t.match(aborted, { code: 'FLOTILLA_CACHE_ERR_FACTORY_TIMEOUT' })
    t.equal(await cache.getOrSet(key, () => 'free again'), 'free again')
  })

  await t.test('a factory that waits for itself', async (t) => {
    const [a, b] = [fresh(), fresh()]
    await t.rejects(
      cache.getOrSet(a, () => cache.getOrSet(a, () => 1)),
      { code: 'FLOTILLA_CACHE_ERR_DEADLOCK' }
    )
    await t.rejects(
      cache.getOrSet(a, () => cache.getOrSet(b, () => cache.getOrSet(a, () => 1))),
      { code: 'FLOTILLA_CACHE_ERR_DEADLOCK' }
    )
    const both = gate()
    let running = 0
    const cross = async (key: string): Promise<number> => {
      if (++running === 2) both.open()
      await both.passed
      return cache.getOrSet(key, () => 1)
    }
    const crossed = await Promise.allSettled([
      cache.getOrSet(a, () => cross(b)),
      cache.getOrSet(b, () => cross(a))
    ])
    t.ok(
      crossed.some((one) => one.status === 'rejected'),
      'two that wait for each other'
    )
    t.equal(await cache.getOrSet(a, () => cache.getOrSet(b, () => 7)), 7, 'nesting as such is fine')
  })

  await t.test('refresh: true computes anew', async (t) => {
    const key = fresh()
    await cache.set(key, 1)
    t.equal(await cache.getOrSet(key, () => 2), 1)
    t.equal(await cache.getOrSet(key, () => 2), 1)
    t.equal(await cache.getOrSet(key, () => 2, { refresh: true }), 2)
    t.equal(await other.cache.get(key), 2)
  })

  await t.test('consistency tokens', async (t) => {
    const key = fresh()
    const tags = [`tag of ${key}`]
    await cache.getOrSet(key, () => 'v1', { tags })
    await other.cache.invalidateTags(tags, { after: 'lsn 7' })
    let seen: unknown
    await other.cache.getOrSet(key, () => 'from a lagging replica', { tags })
    t.equal(await other.cache.get(key), undefined, 'what says nothing of the token is not stored')
    await other.cache.getOrSet(key, (ctx) => (ctx.consistentWith('lsn 6'), 'older'), { tags })
    t.equal(await other.cache.get(key), undefined, 'nor what read another state')
    const factory = (ctx: { after: string | undefined }): string => ((seen = ctx.after), 'v2')
    t.equal(await other.cache.getOrSet(key, factory, { tags }), 'v2')
    t.equal(seen, 'lsn 7', 'the factory is told what to read after')
    t.equal(await other.cache.get(key), 'v2')
  })

  await t.test('explain', async (t) => {
    const key = fresh()
    t.match(await cache.explain(key), { key, verdict: 'miss', memory: undefined })
    await cache.set(key, 1, { tags: ['why'] })
    t.match(await cache.explain(key), { verdict: 'fresh', memory: { tags: ['why'], suspect: false } })
    await cache.invalidateTags(['why'])
    t.match(await cache.explain(key), { verdict: 'miss', reason: /invalidated by flotilla:t:\{why\}/ })
  })

  await t.test('bad input', async (t) => {
    const long = {
      code: 'FLOTILLA_CACHE_ERR_TTL',
      message: /'ttl' must be at most the option maxTtl \(30d\)/
    }
    await t.rejects(cache.set('k', 1, { ttl: '31d' }), long)
    await t.rejects(
      cache.getOrSet(fresh(), () => 1, { ttl: '31d' }),
      long
    )
    await t.rejects(
      cache.getOrSet(fresh(), (ctx) => ctx.ttl('31d')),
      long
    )
    t.throws(() => cache.namespace('long', { ttl: '31d' }), long)
    await t.rejects(cache.set('k', null, { negativeTtl: '31d' }), { code: long.code, message: /negativeTtl/ })
    for (const ttl of [-1, Number.NaN, Number.POSITIVE_INFINITY, 'soon', '5']) {
      await t.rejects(cache.set('k', 1, { ttl }), { code: 'FLOTILLA_CACHE_ERR_TTL' }, String(ttl))
      await t.rejects(
        cache.getOrSet(fresh(), () => 1, { ttl }),
        { code: 'FLOTILLA_CACHE_ERR_TTL' },
        String(ttl)
      )
    }
    for (const tags of [[''], [7], 'x'] as unknown as string[][]) {
      await t.rejects(cache.set('k', 1, { tags }), { code: 'FLOTILLA_CACHE_ERR_TAGS' })
      await t.rejects(cache.invalidateTags(tags), { code: 'FLOTILLA_CACHE_ERR_TAGS' })
    }
    await t.rejects(cache.getOrSet(fresh(), 'x' as never), { code: 'FLOTILLA_CACHE_ERR_FACTORY' })
    await t.rejects(cache.set('k', 1, { jitter: 2 }), { code: 'FLOTILLA_CACHE_ERR_OPTIONS' })
    t.throws(() => cache.namespace(''), { code: 'FLOTILLA_CACHE_ERR_OPTIONS' })
    t.throws(() => cache.namespace('http'), {
      code: 'FLOTILLA_CACHE_ERR_OPTIONS',
      message: /'http'.*config.cache/
    })
    t.equal(cache.namespace('a').namespace('http').name, 'a/http')
    for (const replicas of [-1, 0.5, Number.NaN]) {
      await t.rejects(cache.invalidateTags(['x'], { replicas }), {
        code: 'FLOTILLA_CACHE_ERR_OPTIONS',
        message: /'replicas'/
      })
    }
    await t.rejects(cache.invalidateTags(['x'], { replica: 1 } as object), {
      code: 'FLOTILLA_CACHE_ERR_OPTIONS',
      message: /unknown option 'replica'; did you mean 'replicas'\?/
    })
    const misspelt = { tll: '5m' } as object
    const refused = { code: 'FLOTILLA_CACHE_ERR_OPTIONS', message: /unknown option 'tll'/ }
    t.throws(() => cache.namespace('n', misspelt), refused)
    await t.rejects(cache.set('k', 1, misspelt), refused)
    await t.rejects(
      cache.getOrSet(fresh(), () => 1, misspelt),
      refused
    )
  })
}

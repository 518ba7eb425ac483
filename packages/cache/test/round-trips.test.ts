import { startRedis } from '@flotilla/testbed'
import t from 'tap'
import { startApp } from './support/app.js'

t.test('round trips are those of the table', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const { cache } = app
  /** Commands other than messages of the bus: each is one round trip, as they follow one another. */
  const count = async (work: () => Promise<unknown>): Promise<string[]> => {
    const { commands } = await redis.countCommands(work)
    return commands.map(([name]) => name!).filter((name) => name !== 'PUBLISH')
  }
  const tags = ['a', 'b', 'c']
  // Once, so that scripts and marks are known.
  await cache.getOrSet('warm', () => 1, { tags })
  await other.cache.getOrSet('warm', () => 1, { tags })
  await cache.set('warm', 1)
  await cache.delete('warm')
  await cache.invalidateTags(['z'])
  await other.cache.getOrSet('warm', () => 1, { tags })

  t.same(
    await count(() => cache.getOrSet('cold', () => 1)),
    ['EVALSHA', 'EVALSHA'],
    'cold miss: acquire, fill'
  )
  t.same(await count(() => cache.getOrSet('cold', () => 2)), [], 'memory hit')
  t.same(await count(() => other.cache.getOrSet('cold', () => 2)), ['EVALSHA'], 'Redis hit')
  t.same(await count(() => cache.getOrSet('tagged', () => 1, { tags })), ['EVALSHA', 'EVALSHA'], 'with tags')
  t.same(await count(() => cache.getOrSet('tagged', () => 1, { tags })), [], 'memory hit, tags included')
  t.same(
    await count(() => other.cache.getOrSet('tagged', () => 2, { tags })),
    ['EVALSHA'],
    'Redis hit, tags included'
  )
  t.same(await count(() => cache.get('nothing')), ['MGET'], 'get')
  t.same(await count(() => cache.getMany(['x', 'y', 'z'])), ['MGET'], 'getMany')
  t.same(await count(() => cache.delete('cold')), ['EVALSHA'], 'delete')
  t.same(await count(() => cache.invalidateTags(tags)), ['EVALSHA'], 'three tags')
  t.same(await count(() => cache.getOrSet('tagged', () => 2, { tags })), ['EVALSHA', 'EVALSHA'], 'after it')
  t.same(await count(() => cache.set('set', 1, { tags })), ['EVALSHA'], 'set')
  t.same(await count(() => cache.clear()), ['EVALSHA'], 'clear, whatever it holds')
})

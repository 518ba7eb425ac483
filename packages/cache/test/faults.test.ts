import { startRedis, startSentinel, until } from '@flotilla/testbed'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t, { type Test } from 'tap'
import { acquire, TOKEN, WAIT, type AcquireReply } from '../src/lua/acquire.js'
import { startApp } from './support/app.js'

const FAST = { redisTimeout: { soft: '50ms', hard: '500ms' }, breaker: { failures: 2, cooldown: '100ms' } }

function count(t: Test, channel: string): { n: number } {
  const counter = { n: 0 }
  const listener = (): void => void counter.n++
  subscribe(channel, listener)
  t.teardown(() => unsubscribe(channel, listener))
  return counter
}

t.test(
  'paused Redis: memory serves, misses compute, nothing waits long, invalidations are sent again',
  async (t) => {
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    const app = await startApp(t, redis.url, FAST)
    const other = await startApp(t, redis.url, FAST)
    const { cache } = app
    const breaker = count(t, 'flotilla:cache:breaker')
    await cache.set('held', 1)
    await cache.set('gone', 1)
    await cache.set('tagged', 1, { tags: ['red'] })
    t.same(await other.cache.getMany(['held', 'gone', 'tagged']), [1, 1, 1])

    redis.pause()
    t.teardown(() => redis.resume())
    let slowest = 0
    const timed = async <T>(work: Promise<T>): Promise<T> => {
      const began = performance.now()
      const value = await work
      slowest = Math.max(slowest, performance.now() - began)
      return value
    }
    t.equal(await timed(cache.getOrSet('held', () => 2)), 1, 'memory')
    t.equal(await timed(cache.getOrSet('miss', () => 3)), 3, 'a miss is computed')
    await timed(cache.delete('gone'))
    await timed(cache.invalidateTags(['red']))
    await timed(cache.set('set', 4))
    t.equal(await timed(cache.get('gone')), undefined)
    t.equal(await timed(cache.get('tagged')), undefined)
    t.equal(await timed(cache.getOrSet('miss', () => 5)), 3, 'and kept in memory')
    t.equal(await timed(cache.get('nothing')), undefined)
    await timed(Promise.all(Array.from({ length: 500 }, (_, i) => cache.getOrSet(`many ${i}`, () => i))))
    t.ok(slowest < 3000, `nothing took longer than the bound: ${Math.round(slowest)} ms`)
    t.ok(breaker.n > 0, 'the breaker opened')

    redis.resume()
    await until(async () => (await other.cache.get('gone')) === undefined, {
      message: 'the delete is sent again'
    })
    await until(async () => (await other.cache.get('tagged')) === undefined, { message: 'the tag too' })
    await until(async () => (await other.cache.get('set')) !== 1, { message: 'set' })
    t.equal(other.cache.peek('gone'), undefined)
    t.equal(await cache.get('held'), 1)
    t.equal(await other.cache.getOrSet('after', () => 1), 1)
    await until(async () => (await cache.get('after')) === 1, { message: 'back in step' })
  }
)

t.test('an old value is not served once it is invalidated, however that is heard', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const client = redis.client()
  const waiting = count(t, 'flotilla:cache:wait')
  const options = { ttl: 30, grace: '1m', tags: ['t'] }
  await app.cache.getOrSet('k', () => 'old', options)
  await until(async () => (await app.cache.get('k')) === undefined, { message: 'no longer fresh' })
  // As another process leaves things that computes, hears of no invalidation, fails, and falls back on its grace.
  await client.set('flotilla:l:{k}', 'another', 'PX', 60_000)
  const asking = app.cache.getOrSet('k', () => 'new', options)
  await until(async () => (await client.get('flotilla:l:{k}')) === 'another!', { message: 'it waits' })
  await client.set('flotilla:t:{t}', String((Date.now() + 1000) * 1000))
  await client.set('flotilla:l:{k}', '-', 'PX', 60_000)
  t.equal(await asking, 'new')
  t.equal(waiting.n, 1)

  const large = { ttl: '1m', tags: ['large'] }
  const old = 'x'.repeat(30_000_000)
  const reading = await startApp(t, redis.url)
  await app.cache.set('large', old, large)
  await reading.cache.set('other', 1, large)
  // Decompressing it takes a while.
  const first = reading.cache.getOrSet('large', () => 'new', large)
  await reading.cache.invalidateTags(['large'])
  const later = await reading.cache.getOrSet('large', () => 'new', large)
  await first
  t.ok(later === 'new', 'a later caller does not get it')
})

t.test('killed and restarted Redis', async (t) => {
  const redis = await startRedis({ durable: true })
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url, FAST)
  const other = await startApp(t, redis.url, FAST)
  await app.cache.set('k', 'old')
  t.equal(await other.cache.get('k'), 'old')
  await redis.kill()
  await app.cache.delete('k')
  t.equal(await app.cache.get('k'), undefined)
  t.equal(await app.cache.getOrSet('k2', () => 2), 2)
  await redis.restart()
  await until(async () => (await other.cache.get('k')) === undefined, {
    message: 'the old value is gone everywhere'
  })
  t.equal(await app.cache.get('k'), undefined)
  await until(
    async () => {
      await app.cache.set('k', 'new')
      return (await other.cache.get('k')) === 'new'
    },
    { message: 'both use Redis again' }
  )
})

t.test(
  'a request for a lease that was sent again, as its reply was lost, does not wait for itself',
  async (t) => {
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    const client = redis.client()
    t.teardown(() => client.disconnect())
    const ask = async (token: string): Promise<unknown> =>
      (await acquire(2).runBuffer<AcquireReply>(client, ['{k}', '{k}lease'], [token, 60_000, '', '']))[0]
    t.equal(await ask('mine'), TOKEN)
    t.equal(await ask('mine'), TOKEN)
    t.equal(await ask('theirs'), WAIT)
    t.equal(await ask('mine'), TOKEN)
    t.equal(await client.get('{k}lease'), 'mine!', 'that somebody waits is not forgotten')
  }
)

t.test(
  'CLIENT KILL TYPE normal: nothing fails or waits long, and what was invalidated meanwhile is gone',
  async (t) => {
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    const app = await startApp(t, redis.url, FAST)
    const other = await startApp(t, redis.url, FAST)
    let slowest = 0
    for (let round = 0; round < 10; round++) {
      const [deleted, tagged] = [`deleted ${round}`, `tagged ${round}`]
      await until(
        async () => {
          await app.cache.set(deleted, 'old')
          await app.cache.set(tagged, 'old', { tags: ['x'] })
          return (await other.cache.getMany([deleted, tagged])).every((value) => value === 'old')
        },
        { message: 'both hold it' }
      )
      const began = performance.now()
      const cold = Array.from({ length: 20 }, async (_, i) => {
        const value = await app.cache.getOrSet(`cold ${round} ${i}`, () => i)
        slowest = Math.max(slowest, performance.now() - began)
        return value === i
      })
      const ends = await Promise.all([
        ...cold,
        app.cache.delete(deleted),
        app.cache.invalidateTags(['x']),
        redis.command('CLIENT', 'KILL', 'TYPE', 'normal')
      ])
      t.notOk(ends.includes(false), 'right answers')
      for (const { cache } of [app, other]) {
        await until(async () => !(await cache.getMany([deleted, tagged])).includes('old'), {
          message: 'gone everywhere'
        })
      }
    }
    t.ok(slowest < 3000, `bounded: ${Math.round(slowest)} ms`)
    await until(
      async () => {
        await app.cache.set('after', 1)
        return (await other.cache.get('after')) === 1
      },
      { message: 'both use Redis again' }
    )
  }
)

t.test('CLIENT KILL TYPE pubsub: memory is suspect until it was asked again', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const app = await startApp(t, redis.url)
  const other = await startApp(t, redis.url)
  const suspect = count(t, 'flotilla:cache:suspect')
  await app.cache.set('a', 'old', { tags: ['x'] })
  await app.cache.set('b', 'old')
  t.same(await other.cache.getMany(['a', 'b']), ['old', 'old'])
  t.equal(other.cache.peek('a'), 'old')
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => suspect.n >= 2, { message: 'both noticed' })
  t.equal(other.cache.peek('a'), undefined, 'not served blindly')
  await app.cache.invalidateTags(['x'])
  await app.cache.delete('b')
  t.same(await other.cache.getMany(['a', 'b']), [undefined, undefined])
  t.equal(await other.cache.getOrSet('a', () => 'new', { tags: ['x'] }), 'new')
  await until(() => other.cache.peek('a') === 'new', { message: 'memory is believed again' })
  await app.cache.invalidateTags(['x'])
  await until(() => other.cache.peek('a') === undefined, { message: 'and hears of invalidations again' })
})

t.test(
  'what was invalidated unheard is found out entry by entry, whatever was read in between',
  async (t) => {
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    const app = await startApp(t, redis.url)
    const { cache } = app
    const suspect = count(t, 'flotilla:cache:suspect')
    await cache.setMany(['a', 'b', 'c', 'e'].map((key) => ({ key, value: 'old' })))
    await cache.getOrSet('d', (ctx) => (ctx.tags('x'), 'old'))
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => suspect.n >= 2 && app.bus.status().connected, { message: 'noticed, and over' })
    // As another instance does, without the message that was lost in the gap.
    await redis.command('UNLINK', 'flotilla:c:{b}', 'flotilla:c:{c}', 'flotilla:c:{e}')
    await redis.command('SET', 'flotilla:t:{x}', String((Date.now() + 1000) * 1000))
    t.equal(await cache.getOrSet('a', () => 'new'), 'old', 'confirmed, and with it the generation')
    t.equal(cache.peek('a'), 'old', 'and believed')
    t.equal(cache.peek('b'), undefined, 'which says nothing of another key')
    t.equal(await cache.getOrSet('b', () => 'new'), 'new')
    t.equal(await cache.get('c'), undefined)
    const failing = (): never => {
      throw new Error('down')
    }
    await t.rejects(cache.getOrSet('e', failing, { grace: '1m' }), { message: 'down' }, 'no grace either')
    t.equal(await cache.get('d'), undefined, 'nor a generation of a tag that only the factory named')
    t.equal(await cache.getOrSet('d', () => 'new'), 'new')
  }
)

t.test('failover under Sentinel: bounded, and right afterwards', async (t) => {
  const group = await startSentinel()
  t.teardown(() => group.stop())
  const app = await startApp(t, group.url, FAST)
  const other = await startApp(t, group.url, FAST)
  await app.cache.set('k', 'old', { tags: ['x'] })
  t.equal(await other.cache.get('k'), 'old')
  const old = await group.master()
  await old.kill()
  let slowest = 0
  for (let i = 0; i < 20; i++) {
    const began = performance.now()
    t.equal(await app.cache.getOrSet(`during ${i}`, () => i), i)
    slowest = Math.max(slowest, performance.now() - began)
  }
  await app.cache.invalidateTags(['x'])
  t.equal(await app.cache.get('k'), undefined)
  t.ok(slowest < 3000, `bounded: ${Math.round(slowest)} ms`)
  await group.waitForFailover(old)
  await until(async () => (await other.cache.get('k')) === undefined, {
    message: 'the tag reached the new master',
    timeout: 20_000
  })
  await until(
    async () => {
      await app.cache.set('later', 1)
      return (await other.cache.get('later')) === 1
    },
    { message: 'both use the new master', timeout: 20_000 }
  )
})

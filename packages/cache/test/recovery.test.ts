import { listen, startCluster, startProxy, startRedis, until } from '@flotilla/testbed'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t, { type Test } from 'tap'
import { startApp } from './support/app.js'

const FAST = { redisTimeout: { soft: '50ms', hard: '500ms' }, breaker: { failures: 2, cooldown: '100ms' } }

/** Every opening and closing of the breaker of the one app behind a faulty network. */
function turns(t: Test): ('open' | 'closed')[] {
  const seen: ('open' | 'closed')[] = []
  const listener = (message: unknown): void => void seen.push((message as { state: 'open' | 'closed' }).state)
  subscribe('flotilla:cache:breaker', listener)
  t.teardown(() => unsubscribe('flotilla:cache:breaker', listener))
  return seen
}

for (const fault of ['refuse', 'blackhole'] as const) {
  t.test(`one instance is cut off (${fault}) while the fleet goes on, and comes back`, async (t) => {
    const redis = await startRedis()
    t.teardown(() => redis.stop())
    const proxy = await startProxy(redis)
    t.teardown(() => proxy.stop())
    const app = await startApp(t, proxy.through(redis.url), FAST)
    const other = await startApp(t, redis.url)
    const seen = turns(t)
    const keys = ['kept', 'deleted', 'changed', 'tagged', 'mine', 'my tag']
    await app.cache.setMany(keys.slice(0, 3).map((key) => ({ key, value: 'old' })))
    await app.cache.set('tagged', 'old', { tags: ['theirs'] })
    await app.cache.set('mine', 'old')
    await app.cache.set('my tag', 'old', { tags: ['ours'] })
    t.same(await other.cache.getMany(keys), Array(6).fill('old'))
    t.equal(app.cache.peek('kept'), 'old')

    await proxy[fault]()
    await until(
      async () => {
        await app.cache.get(`ask ${Math.random()}`)
        return seen.includes('open')
      },
      { message: 'the breaker opens' }
    )
    t.equal(await app.cache.getOrSet('kept', () => 'new'), 'old', 'memory serves')
    // What this instance cannot hear.
    await other.cache.delete('deleted')
    await other.cache.set('changed', 'new')
    await other.cache.invalidateTags(['theirs'])
    // What this instance cannot tell.
    await app.cache.delete('mine')
    await app.cache.invalidateTags(['ours'])
    t.same(await other.cache.getMany(['mine', 'my tag']), ['old', 'old'])

    await proxy.restore()
    await until(() => seen.at(-1) === 'closed', { message: 'the breaker closes', timeout: 20_000 })
    t.same(
      await app.cache.getMany(keys),
      ['old', undefined, 'new', undefined, undefined, undefined],
      'the first read after it is of the present'
    )
    t.same(await other.cache.getMany(['mine', 'my tag']), [undefined, undefined])
    await until(() => other.cache.peek('mine') === undefined && other.cache.peek('my tag') === undefined, {
      message: "and so is the others' memory"
    })

    await until(() => app.bus.status().connected, { message: 'the bus is back', timeout: 20_000 })
    await until(
      async () => {
        await app.cache.getOrSet('kept', () => 'new')
        return app.cache.peek('kept') === 'old'
      },
      { message: 'memory is believed again' }
    )
    t.equal((await app.cache.explain('kept')).memory?.suspect, false)
    await other.cache.delete('kept')
    await until(() => app.cache.peek('kept') === undefined, { message: 'and hears what is deleted' })
    await app.cache.set('back', 1, { tags: ['ours'] })
    t.equal(await other.cache.get('back'), 1)
    await app.cache.invalidateTags(['ours'])
    await until(() => other.cache.peek('back') === undefined, { message: 'and is heard' })
    t.same(seen, ['open', 'closed'], 'once')
  })
}

t.test(
  'Cluster: while the node that every read asks hangs, that others answer changes nothing',
  async (t) => {
    // Long enough that the others do not notice, so that nothing but that node's own answer tells.
    const cluster = await startCluster({ replicas: 0, nodeTimeout: 600_000 })
    t.teardown(() => cluster.stop())
    const app = await startApp(t, cluster.url, FAST)
    const seen = turns(t)
    const errors = listen<{ operation: string }>(t, 'flotilla:cache:error')
    const asked = await cluster.masterOf('flotilla:n:{*}')
    asked.pause()
    t.teardown(() => asked.resume())
    await until(async () => {
      await app.cache.getOrSet(`cold ${Math.random()}`, () => 1)
      return seen.length > 0
    })
    await until(() => errors.filter(({ operation }) => operation === 'ping').length >= 3, {
      message: 'it was asked'
    })
    t.same(seen, ['open'])
    asked.resume()
    await until(() => seen.length > 1)
    t.same(seen, ['open', 'closed'])
  }
)

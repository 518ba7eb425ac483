import { onEachTopology, startApp, startRedis, until, type AppInstance } from '@flotilla/testbed'
import t, { type Test } from 'tap'

const script = new URL('./support/fleet-app.ts', import.meta.url)

interface Loaded {
  values: string[]
  calls: number
}

const load = (app: AppInstance, message: object): Promise<Loaded> =>
  app.call<Loaded>({ do: 'load', ...message }, 30_000)

void onEachTopology<Test>(
  t,
  async (t, { url, topology }) => {
    const rounds = topology === 'single' ? 1000 : 250
    const fleet = await startApp({ script, instances: 3, env: { REDIS_URL: url } })
    t.teardown(() => fleet.stop())
    const [a, b, c] = fleet.instances as [AppInstance, AppInstance, AppInstance]
    await a.call({ do: 'write', key: 'k', value: 'one' })

    t.same(await load(a, { key: 'k' }), { values: ['one'], calls: 1 }, 'computed once')
    t.same(await load(b, { key: 'k' }), { values: ['one'], calls: 0 }, 'and seen on another process')
    t.same(await c.call({ do: 'get', key: 'k' }), 'one')

    t.same(await load(a, { key: 'tagged', tags: ['user:1'] }), { values: ['none'], calls: 2 })
    t.same(await load(b, { key: 'tagged', tags: ['user:1'] }), { values: ['none'], calls: 0 })
    t.equal(await b.call({ do: 'peek', key: 'tagged' }), 'none', 'held in memory')
    await c.call({ do: 'write', key: 'tagged', value: 'new', tags: ['user:1'] })
    await until(async () => (await b.call({ do: 'peek', key: 'tagged' })) === undefined, {
      message: 'the invalidation reaches memory'
    })
    t.same((await load(b, { key: 'tagged', tags: ['user:1'] })).values, ['new'])
    t.same((await load(a, { key: 'tagged', tags: ['user:1'] })).values, ['new'])

    for (const kind of ['delete', 'static', 'dynamic'] as const) {
      const stale: string[] = []
      for (let batch = 0; batch < rounds / 50; batch++) {
        const keys = Array.from({ length: 50 }, (_, i) => `${kind} ${batch} ${i}`)
        const message = { keys, ...(kind === 'delete' ? {} : { tags: [kind] }) }
        await Promise.all([
          a.call({ do: 'fills', ...message }),
          b.call({ do: 'fills', ...message }),
          c.call({ do: 'writes', ...message, value: 'new' })
        ])
        const name = `${kind} ${batch}`
        await c.call({ do: 'barrier', key: name })
        for (const one of fleet.instances) {
          await until(() => one.call({ do: 'passed', key: name }), { message: 'all have heard' })
          const look = (): Promise<string[]> => one.call({ do: 'stale', keys, value: 'new' })
          let held = await look()
          // The nodes of a Cluster pass messages on in no order: the barrier may arrive before what went out earlier.
          if (topology === 'cluster' && held.length > 0)
            await until(async () => (held = await look()).length === 0).catch(() => undefined)
          stale.push(...held)
        }
      }
      t.same(stale, [], `${kind} during a fill, ${rounds} rounds: nothing stale`)
    }
  },
  { topologies: ['single', 'cluster'] }
)

t.test('8 processes, 1,000 callers each, one factory call', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const fleet = await startApp({
    script,
    instances: 8,
    env: { REDIS_URL: redis.url, CACHE_OPTIONS: JSON.stringify({ lease: 3000 }) }
  })
  t.teardown(() => fleet.stop())
  const calls = async (): Promise<number> => {
    const each = await Promise.all(
      fleet.instances.filter((one) => one.running).map((one) => one.call<number>({ do: 'calls' }))
    )
    return each.reduce((sum, one) => sum + one, 0)
  }
  await redis.command('HSET', 'truth', 'cold', 'v')
  const all = await Promise.all(
    fleet.instances.map((one) => load(one, { key: 'cold', times: 1000, ms: 100 }))
  )
  t.same(new Set(all.flatMap((one) => one.values)), new Set(['v']))
  t.equal(await calls(), 1)

  const before = await calls()
  const loads = fleet.instances.map((one) =>
    load(one, { key: 'cold 2', times: 1000, ms: 400 }).catch(() => undefined)
  )
  const holder = await until(
    async () => {
      for (const one of fleet.instances)
        if ((await one.call<string>({ do: 'computing' })) === 'cold 2') return one
      return undefined
    },
    { message: 'somebody computes' }
  )
  const own = await holder.call<number>({ do: 'calls' })
  await holder.kill()
  const ended = await Promise.all(loads)
  t.equal(ended.filter((one) => one?.values.length === 1).length, 7, 'seven were served')
  t.equal((await calls()) + own - before, 2, 'two calls: that of the process that was killed, and one more')
})

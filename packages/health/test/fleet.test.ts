import Fastify from 'fastify'
import fastifyRedis from '@fastify/redis'
import { flotillaRedis } from '@flotilla/redis'
import { test } from 'tap'
import { listen, until, type AppInstance } from '@flotilla/testbed'
import health from '../src/index.js'
import { fleetOf, LEASE, server, startFleet, stateOf, states } from './fleet-of.js'

test('three instances see each other, whoever leaves or dies is gone within two leases', async (t) => {
  const redis = await server(t)
  const lease = 2000
  const fleet = await startFleet(t, redis, 3, { version: '4.2', fleet: { lease } })
  const [one, two, three] = fleet.instances as [AppInstance, AppInstance, AppInstance]
  await until(async () => states(await fleetOf(one)) === 'ready,ready,ready')
  const view = await fleetOf(two)
  t.match(view, { fleet: 'app', stale: false, self: (await stateOf(two)).id })
  t.match(view.instances[0], { version: '4.2', uptime: Number, load: { rss: Number, utilization: Number } })
  t.equal(new Set(view.instances.map(({ id }) => id)).size, 3)

  const left: string[] = []
  const announced = (id: string): number =>
    left.filter((message) => message.includes(`"instance":"${id}"`)).length
  const listener = redis.client().duplicate()
  t.teardown(() => listener.disconnect())
  await listener.subscribe('flotilla:bus')
  listener.on('message', (_channel: string, message: string) => {
    if (message.includes('instance.left')) left.push(message)
  })

  const killed = (await stateOf(one)).id
  await one.kill('SIGKILL')
  const died = performance.now()
  await until(async () => (await fleetOf(two)).instances.length === 2)
  const took = performance.now() - died
  t.ok(took < 2 * lease, `SIGKILL: gone after ${Math.round(took)} ms, two leases are ${2 * lease}`)
  await until(() => announced(killed) > 0, { message: 'instance.left is announced' })

  const stopped = (await stateOf(three)).id
  await three.stop()
  t.equal((await fleetOf(two)).instances.length <= 2, true)
  await until(async () => (await fleetOf(two)).instances.length === 1)
  await until(() => announced(stopped) > 0)
  t.equal(announced(killed), 1, 'announced once')
  t.equal(announced(stopped), 1, 'announced once')
})

test('an instance that was given up steps back until its lease is renewed', async (t) => {
  const redis = await server(t)
  const fleet = await startFleet(t, redis, 2)
  const [one, two] = fleet.instances as [AppInstance, AppInstance]
  await until(async () => (await fleetOf(two)).instances.length === 2)
  one.pause()
  await until(async () => (await fleetOf(two)).instances.length === 1, {
    message: 'the paused one is evicted'
  })
  one.resume()
  const [seen] = await Promise.all([
    until(
      async () => {
        const now = await stateOf(one)
        return now.state === 'down' && now
      },
      { message: 'it learns that it was given up' }
    ),
    until(async () => (await fetch(`${one.url}/health/ready`)).status === 503, { message: 'readiness falls' })
  ])
  t.match(seen.reasons.join(), /given this instance up/)
  await until(async () => (await stateOf(one)).state === 'ready', { message: 'it is back' })
  await until(async () => (await fleetOf(two)).instances.length === 2)
})

test('wall clocks that differ by minutes change nothing', async (t) => {
  const redis = await server(t)
  const clock = (minutes: number): string[] => [
    `--import=data:text/javascript,const now=Date.now;Date.now=()=>now()+${minutes * 60_000}`
  ]
  const [ahead, behind] = await Promise.all([
    startFleet(t, redis, 1, {}, { nodeArgs: clock(7) }),
    startFleet(t, redis, 1, {}, { nodeArgs: clock(-7) })
  ])
  const [one, two] = [ahead.instances[0]!, behind.instances[0]!]
  await until(async () => states(await fleetOf(one)) === 'ready,ready')
  await until(async () => states(await fleetOf(two)) === 'ready,ready')
  const later = performance.now() + 2 * LEASE
  const seen = new Set<string>()
  await until(async () => {
    seen.add(states(await fleetOf(two)))
    return performance.now() > later
  })
  t.strictSame([...seen], ['ready,ready'])
  await one.kill('SIGKILL')
  const died = performance.now()
  await until(async () => (await fleetOf(two)).instances.length === 1)
  t.ok(performance.now() - died < 2 * LEASE)
})

test('a plain @fastify/redis serves as well, before or after', async (t) => {
  const redis = await server(t)
  for (const order of ['before', 'after']) {
    const app = Fastify()
    t.teardown(() => app.close())
    if (order === 'before') await app.register(fastifyRedis, { url: redis.url, closeClient: true })
    await app.register(health, { drain: { signals: false }, fleet: { name: order } })
    if (order === 'after') await app.register(fastifyRedis, { url: redis.url, closeClient: true })
    await app.ready()
    await until(async () => (await app.health.fleet()).instances.length === 1)
    t.match(await app.health.fleet(), { fleet: order, self: app.health.id })
    await app.close()
  }
})

test('a client that gives numbers as text', async (t) => {
  const redis = await server(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(fastifyRedis, { url: redis.url, closeClient: true, stringNumbers: true })
  await app.register(health, { drain: { signals: false }, fleet: { lease: LEASE } })
  const outcomes = listen<{ outcome: string }>(t, 'flotilla:health:heartbeat')
  await app.ready()
  await until(() => outcomes.length >= 2)
  t.strictSame(new Set(outcomes.map(({ outcome }) => outcome)), new Set(['renewed']))
  t.equal(app.health.state, 'ready')
})

test('fleets of different names do not see each other; the id is that of the bus', async (t) => {
  const redis = await server(t)
  const start = async (name: string): Promise<ReturnType<typeof Fastify>> => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(flotillaRedis, { url: redis.url, instance: `${name}-1` })
    await app.register(health, { drain: { signals: false }, fleet: { name } })
    await app.ready()
    return app
  }
  const [shop, mail] = await Promise.all([start('shop'), start('mail')])
  for (const app of [shop, mail]) await until(async () => (await app.health.fleet()).instances.length > 0)
  t.equal(shop.health.id, shop.bus.instance)
  for (const app of [shop, mail]) t.match((await app.health.fleet()).instances, [{ id: app.bus.instance }])
})

test('without Redis there is no fleet, and it says so', async (t) => {
  const app = Fastify()
  await app.register(health, { drain: { signals: false }, details: { allow: ['127.0.0.1'] } })
  t.teardown(() => app.close())
  await t.rejects(app.health.fleet(), { code: 'FLOTILLA_HEALTH_ERR_NO_FLEET' })
  t.equal((await app.inject('/health/fleet')).statusCode, 404)

  const named = Fastify()
  await named.register(health, { redis: 'sessions', drain: { signals: false } })
  t.teardown(() => named.close())
  await t.rejects(Promise.resolve(named.ready()), {
    code: 'FLOTILLA_REDIS_ERR_NO_CLIENT',
    message: /sessions/
  })
})

test('reports that nobody could have written are left out', async (t) => {
  const redis = await server(t)
  const app = Fastify()
  await app.register(flotillaRedis, { url: redis.url })
  await app.register(health, { drain: { signals: false } })
  t.teardown(() => app.close())
  await app.ready()
  await until(async () => (await app.health.fleet()).instances.length === 1)
  const key = (name: string): string => `{flotilla:fleet:app}:${name}`
  const keys = await app.redis.keys('*')
  t.ok(keys.includes(key('leases')), keys.join(' '))
  for (const [id, report] of Object.entries({
    a: 'not json',
    b: '{}',
    c: '[1]',
    d: 'null',
    e: '{"instance":1}'
  })) {
    await app.redis.zadd(key('leases'), Date.now() + 60_000, id)
    await app.redis.hset(key('reports'), id, report)
  }
  const odd = {
    instance: 'odd',
    version: '1',
    state: 'ready',
    uptime: 'long',
    load: 7,
    failing: [1, 'db'],
    passing: 'no'
  }
  await app.redis.zadd(key('leases'), Date.now() + 60_000, 'odd')
  await app.redis.hset(key('reports'), 'odd', JSON.stringify(odd))
  const view = await until(async () => {
    const now = await app.health.fleet()
    return now.instances.length === 2 && now
  })
  t.match(
    view.instances.find(({ id }) => id === 'odd'),
    { uptime: 0, load: { rss: 0 }, failing: ['db'], passing: [] }
  )
})

import { onEachTopology, startRedis, until } from '@flotilla/testbed'
import { Redis } from 'ioredis'
import { test, type Test } from 'tap'
import { channelPrefixOf, publishTo, resolveSubscriber, type FleetBus } from '../src/index.js'
import { record, startApp } from './fixtures/app.js'

/** What each bus heard after each has published its own number, and all messages have arrived. */
async function exchange(buses: readonly FleetBus[]): Promise<unknown[][]> {
  const heard = buses.map((bus) => record(bus))
  await Promise.all(buses.map((bus) => bus.ready()))
  for (const [n, bus] of buses.entries()) await bus.publish('news', n)
  // Redis delivers in order: when the last one is back, all that could arrive has arrived.
  await until(() => heard.every((own, n) => own.includes(n)))
  for (const [n, bus] of buses.entries()) await bus.publish('news', `end ${n}`)
  await until(() => heard.every((own, n) => own.includes(`end ${n}`)))
  return heard
}

void test('apps that share a server hear only those of their key prefix and database', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const apps = [
    await startApp(t, { url: `${server.url}/0` }),
    await startApp(t, { url: `${server.url}/2` }),
    await startApp(t, { url: `${server.url}/2`, keyPrefix: 'a:' }),
    await startApp(t, { url: `${server.url}/3`, keyPrefix: 'a:' }),
    await startApp(t, { url: server.url, keyPrefix: 'a:' })
  ]
  const heard = await exchange(apps.map(({ bus }) => bus))
  t.same(
    heard,
    apps.map((_app, n) => [n, `end ${n}`])
  )
  for (const [n, app] of apps.entries()) {
    t.match(app.bus.status(), { connected: true, gaps: 0 }, `the probe of ${n} comes back`)
  }
})

void test('two apps of one database are one fleet, however they name it', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const one = await startApp(t, { url: `${server.url}/2` })
  const own = new Redis(server.url, { db: 2 })
  t.teardown(() => own.disconnect())
  const two = await startApp(t, { client: own })
  const heard = record(one.bus)
  await one.bus.ready()
  await two.bus.publish('news', 'hello')
  await until(() => heard.length > 0)
  t.same(heard, ['hello'])
})

void test('a subscription of one database does not get what is published in another', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const zero = await startApp(t, { url: server.url, keyPrefix: 'p:' })
  const two = await startApp(t, { url: `${server.url}/2`, keyPrefix: 'p:' })
  t.equal(channelPrefixOf(zero.redis), 'p:')
  t.equal(channelPrefixOf(two.redis), 'p:@db2:')
  for (const sharded of [false, true]) {
    const heard: string[] = []
    const gaps: unknown[] = []
    const subscriber = resolveSubscriber(two, two.redis)
    subscriber.onGap(({ channels }) => gaps.push(channels))
    await subscriber.subscribe('room', (message, channel) => heard.push(`${channel} ${message.toString()}`), {
      sharded
    })
    t.equal(await publishTo(zero.redis, 'room', 'stranger', { sharded }), 0)
    t.equal(await publishTo(two.redis, 'room', 'friend', { sharded }), 1)
    await until(() => heard.length > 0)
    t.same(heard, ['room friend'])
    await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await until(() => gaps.length >= 2)
    t.ok(
      gaps.every((channels) => (channels as string[]).includes('room')),
      'gaps name channels as they were given'
    )
  }
})

void test('the scope of a topic', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const own = await startApp(t, { url: server.url, instance: 'own' })
  const other = await startApp(t, { url: server.url, instance: 'other' })
  const heard: Record<string, unknown[]> = { a: [], b: [], any: [] }
  own.bus.subscribe('topic', (payload) => heard['a']!.push(payload), { scope: 'a' })
  own.bus.subscribe('topic', (payload) => heard['b']!.push(payload), { scope: 'b' })
  own.bus.subscribe('topic', (payload) => heard['any']!.push(payload))
  await own.bus.ready()

  const publish = async (): Promise<void> => {
    for (const list of Object.values(heard)) list.length = 0
    await other.bus.publish('topic', 1, { scope: 'a' })
    await other.bus.publish('topic', 2, { scope: 'b' })
    await other.bus.publish('topic', 'end')
    await until(() => Object.values(heard).every((list) => list.includes('end')))
  }
  await publish()
  t.same(heard, { a: [1, 'end'], b: [2, 'end'], any: [1, 2, 'end'] }, 'no scope declared: all')
  const first = own.bus.useScope('topic', 'a')
  const second = own.bus.useScope('topic', 'a')
  await publish()
  t.same(heard['any'], [1, 'end'], 'that of the app')
  first()
  first()
  await publish()
  t.same(heard['any'], [1, 'end'], 'still declared')
  own.bus.useScope('topic', 'b')
  second()
  await publish()
  t.same(heard['any'], [2, 'end'])
})

void test('what else is published on the channel is no message', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const app = await startApp(t, { url: server.url })
  const heard = record(app.bus)
  await app.bus.ready()
  for (const text of ['', 'null', '7', '[]', '{"t":1,"f":"x"}', '{"t":"news","f":"x","s":{},"p":1}']) {
    await server.command('PUBLISH', 'flotilla:bus', text)
  }
  await server.command(
    'PUBLISH',
    'flotilla:bus',
    JSON.stringify({ t: 'news', f: 'an older version', p: 'hello' })
  )
  await until(() => heard.length > 0)
  t.same(heard, ['hello'])
})

void test('a message that arrives again is heard once', async (suite) => {
  await onEachTopology(suite, async (t: Test, { url }) => {
    const app = await startApp(t, { url })
    const subscriber = resolveSubscriber(app, app.redis)
    await app.ready()
    const wire: string[] = []
    await subscriber.subscribe('flotilla:bus', (message) => wire.push(message.toString()))
    const heard = record(app.bus)
    await app.bus.ready()
    await app.bus.publish('news', 1)
    await until(() => heard.includes(1) && wire.length === 1)
    // What a repeated PUBLISH does, or a node of a Cluster that is late.
    await publishTo(app.redis, 'flotilla:bus', wire[0]!)
    await app.bus.publish('news', 2)
    await until(() => heard.includes(2) && wire.length === 3)
    t.same(heard, [1, 2])
    await app.close()
  })
})

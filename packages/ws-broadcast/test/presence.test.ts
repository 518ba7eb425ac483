import { flotillaRedis } from '@flotilla/redis'
import { startApp, startProxy, startRedis, until } from '@flotilla/testbed'
import Fastify from 'fastify'
import { test } from 'tap'
import { WebSocket } from 'ws'
import { ChannelKeys } from '../src/channel-keys.js'
import { connect } from '../src/client/index.js'
import type { BroadcastOptions } from '../src/index.js'
import { Presence } from '../src/presence.js'
import { RawClient, startTestApp, type TestApp } from './app.js'

const LEASE = 900

test('the members of a killed instance are gone within two leases', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const fleet = await startApp({
    script: new URL('delivery/instance.ts', import.meta.url),
    instances: 2,
    env: { REDIS_URL: redis.url, BROADCAST: JSON.stringify({ presenceLease: LEASE }) }
  })
  t.teardown(() => fleet.stop())
  const [one, two] = fleet.instances
  const open = (url: string): Promise<RawClient> => RawClient.open(t, `${url.replace('http', 'ws')}/ws`)
  const stays = await open(one!.url)
  await stays.subscribe('room:1')
  const doomed = await Promise.all(Array.from({ length: 5 }, () => open(two!.url)))
  for (const client of doomed) await client.subscribe('room:1')
  const members = async (): Promise<string[]> =>
    (await one!.call<{ id: string }[]>({ do: 'presence', channel: 'room:1' })).map(({ id }) => id)
  await until(async () => (await members()).length === 6)
  await until(() => stays.of('join').length >= 5)

  // By Redis's clock, so that a test that gets no processor for a while measures the same.
  const now = async (): Promise<number> => {
    const [seconds, micros] = (await redis.command('TIME')) as [string, string]
    return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000)
  }
  await two!.kill()
  const leases = await redis.command('ZRANGE', 'flotilla:ws:instances', 0, -1, 'WITHSCORES')
  const killedAt = await now()
  const ends = (leases as [instance: string, end: string | number][]).map(([, end]) => Number(end) - killedAt)
  t.equal(ends.length, 2)
  t.ok(Math.max(...ends) <= LEASE, `no instance is vouched for longer than a lease: ${ends.join(', ')} ms`)
  await until(async () => (await now()) > killedAt + LEASE, { message: 'the lease has lapsed', interval: 20 })
  t.same(await members(), [stays.of('welcome')[0]!.connection], 'exact from that moment on')
  await until(() => stays.of('leave').length === 5, { message: 'the others are told of each' })
  t.comment(`told ${(await now()) - killedAt} ms after the kill; two leases are ${2 * LEASE} ms`)
  t.same(
    new Set(stays.of('leave').map(({ member }) => member.id)),
    new Set(doomed.map((client) => client.of('welcome')[0]!.connection))
  )
  await until(async () => ((await redis.command('KEYS', '*:in:*')) as string[]).length === 1, {
    message: 'nothing of the dead instance is left'
  })
})

test('presence comes back by itself after Redis forgot it', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, { presenceLease: LEASE })
  const other = await startTestApp(t, redis.url)
  const client = await RawClient.open(t, server.ws)
  await client.subscribe('room:1')
  await until(async () => (await other.app.broadcast.presence('room:1')).length === 1)
  await redis.restart()
  await until(async () => (await other.app.broadcast.presence('room:1').catch(() => [])).length === 1, {
    message: 'the member is back'
  })
  client.ws.close()
  await until(async () => (await other.app.broadcast.presence('room:1')).length === 0)
  t.pass('and ends when the member leaves')
})

test('an outage of Redis that outlasts the lease takes nobody out but who died in it', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const port = Number(new URL(redis.url).port)
  const instances = await Promise.all(
    ['fast', 'slow'].map(async () => {
      const proxy = await startProxy({ host: '127.0.0.1', port })
      t.teardown(() => proxy.stop())
      const server = await startTestApp(t, proxy.through(redis.url), { presenceLease: LEASE })
      const client = await RawClient.open(t, server.ws)
      await client.subscribe('room:1')
      return { proxy, server, client }
    })
  )
  const lost = redis.client()
  const dead = new Presence(lost, new ChannelKeys('flotilla:ws:', ''), 'dead', LEASE, Fastify().log)
  await dead.join('room:1', { id: 'died' })
  const [fast, slow] = instances as [(typeof instances)[0], (typeof instances)[0]]
  const members = async (): Promise<number> => (await fast.server.app.broadcast.presence('room:1')).length
  await until(async () => (await members()) === 3)
  await until(() =>
    instances.every(({ client }) => client.of('join').some(({ member }) => member.id === 'died'))
  )
  const before = instances.map(({ client }) => client.of('join').length)

  /** Where the instance holds a lease, by Redis's clock. */
  const leased = async (instance: string): Promise<boolean> => {
    const [seconds, micros] = (await redis.command('TIME')) as [string, string]
    const now = Number(seconds) * 1000 + Math.floor(Number(micros) / 1000)
    const names = (await redis.command('ZRANGEBYSCORE', 'flotilla:ws:instances', now, '+inf')) as string[]
    return names.some((name) => name.startsWith(instance))
  }
  const ids = [fast.server.app.bus.instance, slow.server.app.bus.instance, 'dead']
  for (const { proxy } of instances) await proxy.refuse()
  lost.disconnect()
  await until(async () => !(await Promise.all(ids.map(leased))).includes(true), {
    message: 'nobody has a lease'
  })
  await fast.proxy.restore()
  await until(() => leased(ids[0]!), { message: 'one is back first' })
  await slow.proxy.restore()
  await until(() => leased(ids[1]!), { message: 'then the other' })
  await until(async () => (await members()) === 2, { message: 'who died is listed no more' })
  await until(() => instances.every(({ client }) => client.of('leave').length > 0))
  for (const { client } of instances) {
    t.same(
      client.of('leave').map(({ member }) => member.id),
      ['died']
    )
  }
  t.same(
    instances.map(({ client }) => client.of('join').length),
    before,
    'nobody came again'
  )
})

test('members carry their user and what the rule tells of them; a closed app leaves nothing behind', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const server = await startTestApp(t, redis.url, {
    channels: { 'room:*': { presence: (request) => ({ name: (request.query as { name: string }).name }) } },
    authenticate: (request) => ({ userId: `u-${(request.query as { name: string }).name}` })
  })
  const ann = await RawClient.open(t, `${server.ws}?name=ann`)
  await ann.subscribe('room:1')
  const bob = await RawClient.open(t, `${server.ws}?name=bob`)
  await bob.subscribe('room:1')
  const { member } = await ann.next('join', 3)
  t.match(member, { userId: 'u-bob', info: { name: 'bob' } })
  bob.send({ type: 'presence', id: 5, channel: 'room:1' })
  const answer = await bob.next('presence')
  t.equal(answer.id, 5)
  t.same(new Set(answer.members.map(({ userId }) => userId)), new Set(['u-ann', 'u-bob']))
  bob.send({ type: 'unsubscribe', channel: 'room:1' })
  await ann.next('leave')
  await server.app.close()
  const keys = (await redis.command('KEYS', '*')) as string[]
  t.same(
    keys.filter((key) => key.includes(':in') || key.includes('instances')),
    []
  )
})

test('where the presence function fails, the subscribe is refused and may be tried again', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  let failures = 0
  const server = await startTestApp(t, redis.url, {
    ssePath: '/events',
    channels: {
      'room:*': {
        presence: async () => {
          if (failures === 0) return { name: 'ann' }
          failures -= 1
          throw new Error('no profile just now')
        }
      }
    }
  })
  const names = async (channel: string): Promise<unknown[]> =>
    (await server.app.broadcast.presence(channel)).map(({ info }) => info)

  failures = 1
  const raw = await RawClient.open(t, server.ws)
  raw.send({ type: 'subscribe', id: 1, channel: 'room:1' })
  t.match(await raw.next('error'), { id: 1, channel: 'room:1', code: 'unavailable' })
  raw.send({ type: 'subscribe', id: 2, channel: 'room:1' })
  await until(() => raw.of('join').length > 0)
  t.same(
    raw.of('subscribed').map(({ id }) => id),
    [2],
    'one answer for each'
  )
  t.same(await names('room:1'), [{ name: 'ann' }])

  failures = 1
  const client = connect(server.ws, { WebSocket, reconnect: { min: 20, max: 100 } })
  t.teardown(() => client.close())
  await client.subscribe('room:2').ready
  await until(async () => (await names('room:2')).length === 1, { message: 'the client is a member' })

  failures = 1
  const reader = await fetch(`${server.url}/events?channels=room:3`)
  t.match(await reader.text(), /"unavailable"/, 'a reader of events is sent away, so that it comes again')
})

test('what the presence function returns is taken as JSON has it, and refused where JSON has nothing for it', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const infos: Record<string, unknown> = {
    ann: { since: new Date(0) },
    bob: { id: 1n },
    eve: undefined,
    kim: () => 1
  }
  const options: Partial<BroadcastOptions> = {
    channels: { 'room:*': { presence: (request) => infos[(request.query as { name: string }).name] } },
    presenceLease: 300
  }
  const [here, there] = await Promise.all([
    startTestApp(t, redis.url, options),
    startTestApp(t, redis.url, options)
  ])
  const enter = async (name: string): Promise<RawClient> => {
    const client = await RawClient.open(t, `${here.ws}?name=${name}`)
    client.send({ type: 'subscribe', id: 1, channel: 'room:1' })
    return client
  }
  const bob = await enter('bob')
  t.match(await bob.next('error'), { id: 1, code: 'unavailable' })
  await Promise.all(['ann', 'eve', 'kim'].map(async (name) => (await enter(name)).next('join')))
  const seen = async ({ app }: TestApp): Promise<string[]> =>
    (await app.broadcast.presence('room:1'))
      .map(({ info }) => (info === undefined ? 'none' : JSON.stringify(info)))
      .toSorted()
  const expected = ['none', 'none', '{"since":"1970-01-01T00:00:00.000Z"}']
  await until(async () => (await there.app.broadcast.presence('room:1')).length === 3)
  t.same(await seen(here), expected)
  t.same(await seen(there), expected, 'the same on every instance')
})

test('who has just subscribed finds itself among the members', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(redis.url).port) })
  t.teardown(() => proxy.stop())
  const server = await startTestApp(t, proxy.through(redis.url))
  const client = await RawClient.open(t, server.ws)
  proxy.delay(20)
  client.send({ type: 'subscribe', id: 1, channel: 'room:1' })
  await client.next('subscribed')
  client.send({ type: 'presence', id: 2, channel: 'room:1' })
  const { members } = await client.next('presence')
  t.same(members, [{ id: client.of('welcome')[0]!.connection }])
  client.send({ type: 'unsubscribe', id: 3, channel: 'room:1' })
  await client.next('unsubscribed')
  client.send({ type: 'presence', id: 4, channel: 'room:1' })
  await until(() => client.of('presence').length === 2)
  t.same(client.of('presence')[1]!.members, [], 'and not when it has left')
})

test('who leaves while its arrival is still being written is not left behind', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const { log } = Fastify()
  const presence = new Presence(redis.client(), new ChannelKeys('flotilla:ws:', ''), 'one', 60_000, log)
  const other = new Presence(redis.client(), new ChannelKeys('flotilla:ws:', ''), 'two', 60_000, log)
  t.teardown(() => presence.close())
  // The first arrivals of an instance wait for its lease.
  const arriving = [presence.join('room:1', { id: 'stays' }), presence.join('room:1', { id: 'leaves' })]
  await presence.leave('room:1', 'leaves')
  await Promise.all(arriving)
  t.same(await other.list('room:1'), [{ id: 'stays' }])

  const crowd = Array.from({ length: 1200 }, (_none, n) => ({ id: `member ${n}` }))
  await Promise.all(crowd.map((member) => presence.join('room:1', member)))
  // Written again in several parts; these leave one after another while that goes on.
  const rewriting = presence.refresh()
  const leaving: Promise<void>[] = []
  for (const { id } of crowd.slice(600)) {
    leaving.push(presence.leave('room:1', id))
    await new Promise(setImmediate)
  }
  await Promise.all([rewriting, ...leaving])
  t.equal((await other.list('room:1')).length, 601)
})

test('an instance with many channels keeps its lease while it writes them all again', async (t) => {
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const proxy = await startProxy({ host: '127.0.0.1', port: Number(new URL(redis.url).port) })
  t.teardown(() => proxy.stop())
  const app = Fastify()
  await app.register(flotillaRedis, { url: proxy.through(redis.url) })
  t.teardown(() => app.close())
  const presence = new Presence(app.redis, new ChannelKeys('flotilla:ws:', ''), 'one', 3000, app.log)
  t.teardown(() => presence.close())
  const channels = Array.from({ length: 300 }, (_none, n) => `room:${n}`)
  await Promise.all(channels.map((channel) => presence.join(channel, { id: channel })))
  // A Redis that is far away: one channel after another would take longer than the lease.
  proxy.delay(15)
  await redis.command('FLUSHALL')
  await presence.refresh()
  const [[seconds], end] = [
    (await redis.command('TIME')) as [string, string],
    await redis.command('ZSCORE', 'flotilla:ws:instances', 'one')
  ]
  t.ok(Number(end) > Number(seconds) * 1000, 'its lease has not lapsed')
  t.equal(((await redis.command('KEYS', '*:in:one')) as string[]).length, 300)
  proxy.delay(0)
})
